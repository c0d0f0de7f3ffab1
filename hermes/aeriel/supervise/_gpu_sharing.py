"""The GPUs of a supervised server: waiting for them, and yielding them to another server.

Servers of one pipeline may need the same GPU. A server keeps its GPU while one of its consumers
runs, and a short time longer. If consumers are outstanding but none has run for that time, they may
depend on the consumers of the other server: the server stops, so that the other one can start, and
is started again when its consumers run. Without this, a pipeline whose second model needs the
results of the first, and whose first still has other consumers, would wait without end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from hermes.aeriel.serve._gpus import GPURequest
from hermes.aeriel.serve._leases import GPULease, Holder, lease_gpus
from hermes.aeriel.supervise._spec import ServerSpec
from hermes.aeriel.supervise._state import ServerState
from hermes.errors import GPUBusyError

logger = logging.getLogger(__name__)

POLL_S = 0.3
IDLE_S = 10.0


def wait_for_gpus(
    state: ServerState, spec: ServerSpec, is_wanted: Callable[[], bool]
) -> GPULease | None:
    """Return the lease of a server's GPUs; None when the server is no longer wanted.

    Parameters
    ----------
    state
        The server's state, which gets the reason of the wait.
    spec
        The server. Its timeout is without the time in which another server of the same pipeline
        has the GPUs.
    is_wanted
        Called a few times a second.

    Raises
    ------
    GPUBusyError
        The GPUs were not free in time.
    """
    request = GPURequest(gpus=spec.gpus, n_gpus=spec.n_gpus, cpu=spec.cpu)
    deadline = time.monotonic() + spec.timeout_s
    reported = ""
    while is_wanted():
        try:
            lease = lease_gpus(request)
            _give_back_claimed(state, lease)
        except GPUBusyError as error:
            busy = error
        else:
            lease.sign(Holder(what=spec.model_repository, state=str(state.path)))
            return lease
        if busy.held_by != reported:
            reported = busy.held_by
            logger.info("waiting for GPUs: %s", reported)
            state.set_phase("waiting", reported)
        for directory in busy.states:
            if (other := _related(state, directory)) is not None:
                other.request_yield()
                deadline = time.monotonic() + spec.timeout_s
        if time.monotonic() > deadline:
            raise busy
        time.sleep(POLL_S)
    return None


def _give_back_claimed(state: ServerState, lease: GPULease) -> None:
    """Refuse GPUs whose last holder lost them while a consumer was running.

    Such a consumer waits for its server to be started again. It must not wait for this server: the
    consumers of this one may need the worker process that it occupies.
    """
    drivers = state.consumers().keys()
    claims = [
        holder
        for holder in lease.last_holders
        if (other := _related(state, holder.state)) is not None and other.is_running(drivers)
    ]
    if claims:
        lease.close()
        raise GPUBusyError(
            wanted="a GPU",
            holders=tuple(f"{holder} takes it back" for holder in claims),
            states=tuple(holder.state for holder in claims),
        )


def _related(state: ServerState, directory: str) -> ServerState | None:
    """Return the state of another server, if a driver of this server has consumers there."""
    for other in ServerState.all(state.path.parent):
        if other.path == Path(directory) != state.path:
            return other if other.consumers().keys() & state.consumers().keys() else None
    return None
