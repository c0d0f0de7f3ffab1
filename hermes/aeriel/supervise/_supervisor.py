"""The process that keeps a server for as long as somebody needs it."""

from __future__ import annotations

import functools
import logging
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from hermes._cleanup import sweep
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
    """Keep the server of a directory until nobody needs it, and log why it ended.

    Parameters
    ----------
    directory
        The server's directory, with its spec.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    state = ServerState(directory)
    try:
        supervise(state, state.spec())
    except HermesError as error:
        logger.error("the server ends: %s", error)  # noqa: TRY400 (the sentence says it)


def supervise(state: ServerState, spec: ServerSpec) -> None:
    """Keep a server while a live driver has a consumer outstanding, and publish it in `state`.

    It waits for its GPUs first. A server that crashes or hangs is started again, a few times in
    a row at most.

    Parameters
    ----------
    state
        Where its drivers, its consumers and its endpoint are.
    spec
        What the server is to be.

    Raises
    ------
    HermesError
        The server did not start, or failed too often; the reason is left in `state`.
    """
    with stop_signal() as stopped, ExitStack() as undo:
        undo.callback(_resign, state)
        sweep(state.path.parent)
        keeper = _Keeper(state, spec, stopped)
        try:
            keeper.keep(undo)
        except HermesError as error:
            state.fail(keeper.in_drivers_words(error))
            raise
        except Exception as error:
            state.fail(f"its supervisor failed: {error!r}")
            raise


def _resign(state: ServerState) -> None:
    """Leave the directory to others, or remove it."""
    if not state.plan_file.exists():  # else something of the server is left, to be swept later
        state.clear_owner()
        state.tidy()
    sweep_regions()  # of clients that were killed meanwhile


class _Keeper:
    """What a supervisor learns from its state, and says there."""

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
        """Have GPUs, then a server, until nobody needs it."""
        spec, state = self._spec, self._state
        lease = wait_for_gpus(
            state,
            GPURequest(gpus=spec.gpus, n_gpus=spec.n_gpus, cpu=spec.cpu),
            what=spec.model_repository,
            timeout_s=spec.timeout_s,
            is_wanted=self.is_wanted,
            tell=functools.partial(self._tell, "waiting"),
        )
        if lease is None:
            return
        undo.callback(lease.close)
        self._status = replace(self._status, gpus=tuple(map(str, lease.gpus or ())))
        self._tell("starting")
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
            lease.sign(None)  # it stops before its time: another may have the GPUs

    def in_drivers_words(self, error: HermesError) -> str:
        """Return what an error says, with the log that a driver asked for as the log."""
        log = self._files.first_log
        return str(error) if log is None else str(error).replace(str(self._state.log_file), log)

    def is_wanted(self) -> bool:
        """Tell whether the server is to go on; asked a few times a second."""
        self._files.update()
        if self._is_needed():
            return True
        # A consumer may come this very moment: it finds the endpoint either there to be used,
        # with its lease seen here, or gone.
        with self._state.exclusive():
            wanted = self._is_needed()
            if not wanted:
                self._state.unpublish()
                self._tell("stopping")
            return wanted

    def _publish(self, endpoint: Endpoint) -> None:
        self._files.endpoint = endpoint
        self._state.publish(endpoint)
        self._tell("ready")

    def _unpublish(self) -> None:
        self._state.unpublish()
        self._tell("restarting" if self.is_wanted() else "stopping")

    def _tell(self, phase: str, detail: str = "") -> None:
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
