"""The supervisor: runs a server while a process needs it."""

from __future__ import annotations

import logging
import math
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from hermes._directory import Status
from hermes._shared_memory import sweep_regions
from hermes.aeriel.serve import run_with_restarts, stop_signal
from hermes.aeriel.supervise._gpu_sharing import IDLE_S, wait_for_gpus
from hermes.aeriel.supervise._state import ServerState
from hermes.aeriel.supervise._wishes import WishedFiles
from hermes.errors import HermesError

logger = logging.getLogger(__name__)

RESTARTS = 5


def run(directory: Path) -> None:
    """Run the server of a directory while a driver has a lease; log and record a failure.

    The server waits for its GPUs first. If it crashes or hangs it is restarted, at most
    `RESTARTS` times in a row.

    Parameters
    ----------
    directory
        The server's directory, with its specification.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    state = ServerState(directory)
    with stop_signal() as stopped, ExitStack() as undo:
        undo.callback(sweep_regions)  # of clients that were killed
        undo.callback(state.leave)
        keeper = _Keeper(state, stopped)
        try:
            keeper.keep(undo)
        except HermesError as error:
            state.fail(keeper.message(error))
            logger.error("the server failed: %s", error)  # noqa: TRY400 (the message suffices)
        except Exception as error:
            state.fail(f"its supervisor failed: {error!r}")
            raise


class _Keeper:
    """Runs the server while it is needed."""

    def __init__(self, state: ServerState, stopped: threading.Event) -> None:
        self._state = state
        self._stopped = stopped
        self._idle_since = math.inf
        self._files = WishedFiles(state)
        self._lingers_until = 0.0

    def keep(self, undo: ExitStack) -> None:
        """Lease GPUs, then run the server until no driver needs it."""
        state = self._state
        spec = state.spec()
        state.write_status(
            Status(phase="starting", model_repository=spec.model_repository, image=spec.image)
        )
        lease = wait_for_gpus(state, spec, self.is_wanted)
        if lease is None:
            return
        undo.callback(lease.close)
        undo.enter_context(self._files)
        run_with_restarts(
            spec.serve(gpus=lease, directory=state, started_by="supervisor"),
            timeout_s=spec.timeout_s,
            is_wanted=self.is_wanted,
            publish=self._files.monitor,
            most_restarts=RESTARTS,
        )
        if state.is_needed():
            lease.sign(None)  # it yields its GPUs, or was stopped: another server may have them

    def message(self, error: HermesError) -> str:
        """Return the message of an error, with a driver's log in place of this one's."""
        log = self._files.first_log
        return str(error) if log is None else str(error).replace(str(self._state.log_file), log)

    def is_wanted(self) -> bool:
        """Return whether the server is needed; called a few times a second."""
        self._files.update()
        if self._is_needed():
            return True
        # A consumer may come at the same time. It takes its lease under this lock: either the
        # lease is seen here, or the consumer finds no endpoint.
        with self._state.exclusive():
            wanted = self._is_needed()
            if not wanted:
                self._state.unpublish()
            return wanted

    def _is_needed(self) -> bool:
        now = time.monotonic()
        is_idle = self._state.is_asked_to_yield() and not self._state.is_running()
        self._idle_since = min(now, self._idle_since) if is_idle else math.inf
        if self._stopped.is_set() or now - self._idle_since > IDLE_S:
            return False
        if self._state.is_needed():
            linger_s = max((each.linger_s for each in self._state.wishes()), default=0.0)
            self._lingers_until = max(self._lingers_until, now + linger_s)
            return True
        return now < self._lingers_until and not self._state.is_asked_to_yield()
