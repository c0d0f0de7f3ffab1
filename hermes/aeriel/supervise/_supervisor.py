"""The supervisor: runs a server while a process needs it."""

from __future__ import annotations

import functools
import logging
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from hermes._directory import Status
from hermes._shared_memory import sweep_regions
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.serve import GPURequest, run_with_restarts, serve, stop_signal
from hermes.aeriel.supervise._gpu_sharing import YieldTimer, wait_for_gpus
from hermes.aeriel.supervise._spec import ServerSpec
from hermes.aeriel.supervise._state import ServerState
from hermes.aeriel.supervise._wishes import WishedFiles
from hermes.errors import HermesError

logger = logging.getLogger(__name__)

RESTARTS = 5


def run(directory: Path) -> None:
    """Run the server of a directory while a driver needs it, and log a failure.

    Parameters
    ----------
    directory
        The server's directory, with its specification.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    state = ServerState(directory)
    try:
        supervise(state, state.spec())
    except HermesError as error:
        logger.error("the server failed: %s", error)  # noqa: TRY400 (the message suffices)


def supervise(state: ServerState, spec: ServerSpec) -> None:
    """Run a server while a driver has a lease, and publish its endpoint in `state`.

    The server waits for its GPUs first. If it crashes or hangs it is restarted, at most
    `RESTARTS` times in a row.

    Parameters
    ----------
    state
        The server's directory.
    spec
        The specification of the server.

    Raises
    ------
    HermesError
        The server did not start, or failed too often; `state` has the reason too.
    """
    with stop_signal() as stopped, ExitStack() as undo:
        undo.callback(_resign, state)
        keeper = _Keeper(state, spec, stopped)
        try:
            keeper.keep(undo)
        except HermesError as error:
            state.fail(keeper.message(error))
            raise
        except Exception as error:
            state.fail(f"its supervisor failed: {error!r}")
            raise


def _resign(state: ServerState) -> None:
    """Give up the ownership of the directory, and remove it if no process needs it."""
    if not state.plan_file.exists():  # otherwise parts of the server remain for a later sweep
        state.clear_owner()
        state.tidy()
    sweep_regions()  # of clients that were killed


class _Keeper:
    """Runs the server, and keeps its state up to date."""

    def __init__(self, state: ServerState, spec: ServerSpec, stopped: threading.Event) -> None:
        self._state = state
        self._spec = spec
        self._stopped = stopped
        self._status = Status(
            phase="starting", model_repository=spec.model_repository, image=spec.image
        )
        self._yield_timer = YieldTimer(state)
        self._files = WishedFiles(state)
        self._lingers_until = 0.0

    def keep(self, undo: ExitStack) -> None:
        """Lease GPUs, then run the server until no driver needs it."""
        spec, state = self._spec, self._state
        lease = wait_for_gpus(
            state,
            GPURequest(gpus=spec.gpus, n_gpus=spec.n_gpus, cpu=spec.cpu),
            what=spec.model_repository,
            timeout_s=spec.timeout_s,
            is_wanted=self.is_wanted,
            report=functools.partial(self._record, "waiting"),
        )
        if lease is None:
            return
        undo.callback(lease.close)
        self._status = replace(self._status, gpus=tuple(map(str, lease.gpus or ())))
        self._record("starting")
        undo.enter_context(self._files)
        run_with_restarts(
            serve(
                spec.model_repository,
                spec.image or None,
                gpus=lease,
                cpu=spec.cpu,
                server_args=spec.server_args,
                ports="auto",
                listen=spec.listen,
                insecure=spec.insecure,
                advertise=spec.advertise,
                stop_timeout_s=spec.stop_timeout_s,
                directory=state,
                started_by="supervisor",
            ),
            timeout_s=spec.timeout_s,
            is_wanted=self.is_wanted,
            publish=self._publish,
            unpublish=self._unpublish,
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
                self._record("stopping")
            return wanted

    def _publish(self, endpoint: Endpoint) -> None:
        self._files.endpoint = endpoint
        self._state.publish(endpoint)
        self._record("ready")

    def _unpublish(self) -> None:
        self._state.unpublish()
        self._record("restarting" if self.is_wanted() else "stopping")

    def _record(self, phase: str, detail: str = "") -> None:
        self._state.write_status(replace(self._status, phase=phase, detail=detail))

    def _is_needed(self) -> bool:
        if self._stopped.is_set() or self._yield_timer.is_over():
            return False
        now = time.monotonic()
        if self._state.is_needed():
            linger_s = max((each.linger_s for each in self._state.wishes()), default=0.0)
            self._lingers_until = max(self._lingers_until, now + linger_s)
            return True
        return now < self._lingers_until and not self._state.is_asked_to_yield()
