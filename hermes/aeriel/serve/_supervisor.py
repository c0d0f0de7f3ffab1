"""The process that keeps a server for as long as somebody needs it."""

from __future__ import annotations

import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

from hermes.aeriel._processes import ProcessIdentity
from hermes.aeriel._regions import sweep_regions
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.serve._gpus import GPURequest
from hermes.aeriel.serve._instance import TritonInstance
from hermes.aeriel.serve._keep import keep
from hermes.aeriel.serve._leases import GPULease
from hermes.aeriel.serve._state import ServerState, Status
from hermes.aeriel.serve._turns import Idleness, wait_for_gpus
from hermes.errors import (
    GPUBusyError,
    HermesError,
    ServerStopError,
    ServerTimeoutError,
    SupervisorError,
    log_tail,
)

logger = logging.getLogger(__name__)

POLL_S = 0.2
ATTEMPTS = 3
RESTARTS = 5
# Detached: a child of nobody, in a session of its own, so that Ctrl-C does not reach it and no
# zombie is left in a driver that goes on.
_DETACH = """
import os, sys
pid = os.fork()
if pid:
    os.write(1, b"%d" % pid)  # print() keeps it in a buffer, which os._exit() drops
    os._exit(0)
os.setsid()
os.dup2(2, 1)  # whoever reads the line above waits until nobody can write another
sys.path.insert(0, {source!r})
from hermes.cli import app
app(prog_name="hermes")
"""


def supervise(
    state: ServerState,
    server: Callable[[GPULease], AbstractContextManager[TritonInstance]],
    request: GPURequest,
    *,
    timeout_s: float,
    about: Status,
) -> None:
    """Keep a server while a live driver has a consumer outstanding, and publish it in `state`.

    It waits for its GPUs first. A server that crashes or hangs is started again, a few times in
    a row at most.

    Parameters
    ----------
    state
        Where its drivers, its consumers and its endpoint are.
    server
        Returns what `serve` does, for these GPUs.
    request
        The GPUs.
    timeout_s
        Seconds to wait for the GPUs, and seconds that the server may take to get ready.
    about
        What to tell about it.

    Raises
    ------
    HermesError
        The server did not start, or failed too often; the reason is left in `state`.
    """
    with stop_signal() as stopped, ExitStack() as undo:
        undo.callback(state.resign)
        sweep_regions()
        undo.callback(sweep_regions)  # of clients that were killed meanwhile
        desk = _Desk(state, about, stopped)
        try:
            lease = wait_for_gpus(
                state,
                request,
                what=about.model_repository,
                timeout_s=timeout_s,
                is_wanted=desk.is_wanted,
                tell=functools.partial(desk.tell, "waiting"),
            )
            if lease is None:
                return
            undo.callback(lease.close)
            desk.about = replace(about, gpus=tuple(map(str, lease.gpus or ())))
            desk.tell("starting")
            keep(
                server(lease),
                timeout_s=timeout_s,
                is_wanted=desk.is_wanted,
                publish=desk.publish,
                withdraw=desk.withdraw,
                most_restarts=RESTARTS,
            )
            if state.is_needed():
                lease.sign(None)  # it stops before its time: another may have the GPUs
        except HermesError as error:
            state.fail(str(error))
            raise


class _Desk:
    """What a supervisor learns from its state, and says there."""

    def __init__(self, state: ServerState, about: Status, stopped: threading.Event) -> None:
        self.about = about
        self._state = state
        self._stopped = stopped
        self._idleness = Idleness(state)

    def is_wanted(self) -> bool:
        if self._is_needed():
            return True
        # A consumer may come this very moment: it finds the endpoint either there to be used,
        # with its lease seen here, or gone.
        with self._state.exclusive():
            wanted = self._is_needed()
            if not wanted:
                self._state.withdraw()
                self.tell("stopping")
            return wanted

    def publish(self, endpoint: Endpoint) -> None:
        self._state.publish(endpoint)
        self.tell("ready")

    def withdraw(self) -> None:
        self._state.withdraw()
        self.tell("restarting" if self.is_wanted() else "stopping")

    def tell(self, phase: str, detail: str = "") -> None:
        self._state.tell(replace(self.about, phase=phase, detail=detail))

    def _is_needed(self) -> bool:
        is_needed = not self._stopped.is_set() and self._state.is_needed()
        return is_needed and not self._idleness.is_over()


def start_supervisor(state: ServerState, arguments: Sequence[str]) -> ProcessIdentity:
    """Start ``hermes serve`` as a supervisor that belongs to nobody; within `exclusive` only.

    Parameters
    ----------
    state
        The state directory.
    arguments
        What follows ``hermes serve`` on the command line, but for the state directory.
    """
    state.clear()
    source = str(Path(__file__).resolve().parents[3])
    with state.log_file.open("ab") as log:
        started = subprocess.run(
            [
                sys.executable,
                "-c",
                _DETACH.format(source=source),
                "serve",
                *arguments,
                f"--state-dir={state.directory}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            check=True,
        )
    supervisor = ProcessIdentity.of(int(started.stdout))
    state.appoint(supervisor)
    return supervisor


def ensure_server(
    state: ServerState,
    arguments: Sequence[str],
    *,
    driver: ProcessIdentity,
    timeout_s: float,
    wait_for_gpus: bool = True,
    attempts: int = 0,
) -> Endpoint:
    """Return the endpoint of a ready server, after starting a supervisor if there is none.

    The caller holds a lease: a server that nobody needs stops at once.

    Parameters
    ----------
    state
        The state directory.
    arguments
        What follows ``hermes serve`` on the command line, but for the state directory.
    driver
        The process that runs the caller's pipeline.
    timeout_s
        Seconds to wait for the server at most.
    wait_for_gpus
        Whether that includes the time until the server has its GPUs.
    attempts
        How often the caller has tried already: what failed then is not tried again.

    Raises
    ------
    GPUBusyError
        The server waits for its GPUs, and the caller would not.
    SupervisorError
        The server did not start, or somebody stopped it; the error carries the reason.
    ServerTimeoutError
        It was not ready in time.
    """
    deadline = time.monotonic() + timeout_s
    while (endpoint := state.endpoint()) is None:
        status = state.status()
        is_waiting = status is not None and status.phase == "waiting"
        if status is not None and is_waiting and not wait_for_gpus:
            raise GPUBusyError(wanted="GPUs", holders=(status.detail,))
        if time.monotonic() > deadline:
            where = "it waits for GPUs" if is_waiting else "no endpoint was published"
            raise ServerTimeoutError(
                address=str(state.directory),
                timeout_s=timeout_s,
                waiting_for=f"{where}: {status.detail if status else 'nobody keeps it'}",
                log_file=state.log_file,
                log_tail=log_tail(state.log_file),
            )
        if state.supervisor() is None:
            _tidy_others(state)  # without this one's lock: another may do the same with its own
        with state.exclusive():
            if state.is_refused(driver):
                raise SupervisorError(
                    reason="it was stopped by hand; a pipeline that is started now gets a new one"
                )
            if state.supervisor() is None:
                if attempts and (reason := state.failure()):
                    raise SupervisorError(reason)
                if attempts == ATTEMPTS:
                    # All of it that the caller will see: the log goes with the state directory.
                    raise SupervisorError(
                        reason="its supervisor ended without a word",
                        log_tail=log_tail(state.log_file),
                    )
                start_supervisor(state, arguments)
                attempts += 1
        time.sleep(POLL_S)
    return endpoint


def _tidy_others(state: ServerState) -> None:
    """Remove what those left behind who were killed."""
    for other in ServerState.all(state.directory.parent):
        if other.directory != state.directory:
            other.tidy()


def stop_supervisor(state: ServerState, *, timeout_s: float) -> None:
    """Stop a server for good, as far as the drivers that are there now are concerned.

    Raises
    ------
    ServerStopError
        It is still there after `timeout_s` seconds.
    """
    state.refuse()
    supervisor = state.supervisor()
    if supervisor is None:
        return
    with suppress(ProcessLookupError):
        os.kill(supervisor.pid, signal.SIGTERM)
    supervisor.wake()
    deadline = time.monotonic() + timeout_s
    while supervisor.is_alive():
        if time.monotonic() > deadline:
            left = (f"its supervisor, process {supervisor.pid}",)
            raise ServerStopError(server_id=state.directory.name, remaining=left)
        time.sleep(POLL_S)


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """Turn SIGTERM, SIGINT and SIGHUP into an event while the block lasts."""
    stopped = threading.Event()

    def stop(number: int, _: FrameType | None) -> None:
        logger.info("got %s", signal.Signals(number).name)
        stopped.set()

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
