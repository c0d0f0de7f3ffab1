"""The GPUs of a supervised server: waiting for them, and giving them up for another's sake.

Servers of one pipeline may want the same GPU in turn. The one that has it keeps it while a
consumer of its own runs, and a while longer; when none has run for some time, though some are
outstanding, then these may well wait for what the other server's consumers make, and it gives way.
Its consumers get it back later. So the pipeline goes on, whatever depends on what.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from hermes.aeriel.serve._gpus import GPURequest
from hermes.aeriel.serve._leases import GPULease, Holder, lease_gpus
from hermes.aeriel.supervise._state import ServerState
from hermes.errors import GPUBusyError

logger = logging.getLogger(__name__)

POLL_S = 0.3
IDLE_S = 10.0


class YieldTimer:
    """Tells when a server that is asked for its place has been idle for long enough."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._since: float | None = None

    def is_over(self) -> bool:
        """Tell whether the server should give way now."""
        if not self._state.is_asked_to_yield() or self._state.is_running():
            self._since = None
            return False
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        return now - self._since > IDLE_S


def wait_for_gpus(
    state: ServerState,
    request: GPURequest,
    *,
    what: str,
    timeout_s: float,
    is_wanted: Callable[[], bool],
    tell: Callable[[str], None],
) -> GPULease | None:
    """Return the lease of a server's GPUs when it has them, or None when it is not wanted.

    Parameters
    ----------
    state
        The server's state.
    request
        The GPUs.
    what
        What they are for, to tell others.
    timeout_s
        Seconds to wait at most. Time in which another server of the same pipeline has them does
        not count.
    is_wanted
        Asked a few times a second.
    tell
        Called with what the server waits for.

    Raises
    ------
    GPUBusyError
        They were not to be had in time.
    """
    deadline = time.monotonic() + timeout_s
    told = ""
    while is_wanted():
        try:
            lease = lease_gpus(request)
            claims = _claims(state, lease)
            if not claims:
                lease.sign(Holder(what=what, state=str(state.path)))
                return lease
            lease.close()
            busy = GPUBusyError(
                wanted="a GPU",
                holders=tuple(f"{holder} is about to take it back" for holder in claims),
                states=tuple(holder.state for holder in claims),
            )
        except GPUBusyError as error:
            busy = error
        if busy.held_by != told:
            told = busy.held_by
            logger.info("waiting: %s", told)
            tell(told)
        related = [other for text in busy.states if (other := _related(state, text)) is not None]
        for other in related:
            other.request_yield()
            deadline = time.monotonic() + timeout_s
        if time.monotonic() > deadline:
            raise busy
        time.sleep(POLL_S)
    return None


def _claims(state: ServerState, lease: GPULease) -> list[Holder]:
    """Return who had the GPUs before, and has lost them with a consumer at work.

    That consumer waits for its server to come back; it would have to wait for this one instead,
    and this one's consumers perhaps for the worker that it occupies.
    """
    drivers = state.consumers().keys()
    return [
        holder
        for holder in lease.last_holders
        if (other := _related(state, holder.state)) is not None and other.is_running(drivers)
    ]


def _related(state: ServerState, directory: str) -> ServerState | None:
    """Return the state of another server that a driver of this one has consumers of."""
    for other in ServerState.all(state.path.parent):
        if other.path == Path(directory) != state.path:
            return other if other.consumers().keys() & state.consumers().keys() else None
    return None
