"""The process that keeps a server for as long as somebody needs it."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType

from hermes.aeriel._processes import ProcessIdentity
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.serve._instance import TritonInstance
from hermes.aeriel.serve._keep import keep
from hermes.aeriel.serve._state import ServerState
from hermes.errors import (
    HermesError,
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
    print(pid)
    os._exit(0)
os.setsid()
os.dup2(2, 1)  # whoever reads the line above waits until nobody can write another
sys.path.insert(0, {source!r})
from hermes.cli import app
app(prog_name="hermes")
"""


def supervise(
    state: ServerState, server: AbstractContextManager[TritonInstance], *, timeout_s: float
) -> None:
    """Keep a server while a live driver has a consumer outstanding, and publish it in `state`.

    A server that crashes or hangs is started again, a few times in a row at most.

    Raises
    ------
    HermesError
        The server did not start, or died; the reason is left in `state`.
    """
    with stop_signal() as stopped:

        def is_wanted() -> bool:
            if not stopped.is_set() and state.consumers():
                return True
            # A consumer may come this very moment: it finds the endpoint either there to be
            # used, with its lease seen here, or gone.
            with state.exclusive():
                wanted = not stopped.is_set() and bool(state.consumers())
                if not wanted:
                    state.withdraw()
                return wanted

        try:
            keep(
                server,
                timeout_s=timeout_s,
                is_wanted=is_wanted,
                publish=state.publish,
                withdraw=state.withdraw,
                most_restarts=RESTARTS,
            )
        except HermesError as error:
            state.fail(str(error))
            raise
        finally:
            state.resign()


def start_supervisor(state: ServerState, arguments: Sequence[str]) -> ProcessIdentity:
    """Start ``hermes serve`` as a supervisor that belongs to nobody; within `exclusive` only.

    Parameters
    ----------
    state
        The state directory.
    arguments
        What follows ``hermes serve`` on the command line, but for the state directory.
    """
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


def ensure_server(state: ServerState, arguments: Sequence[str], *, timeout_s: float) -> Endpoint:
    """Return the endpoint of a ready server, after starting a supervisor if there is none.

    The caller holds a lease: a server that nobody needs stops at once.

    Parameters
    ----------
    state
        The state directory.
    arguments
        What follows ``hermes serve`` on the command line, but for the state directory.
    timeout_s
        Seconds to wait for the server at most.

    Raises
    ------
    SupervisorError
        The server did not start; the error carries its reason.
    ServerTimeoutError
        It was not ready in time.
    """
    deadline = time.monotonic() + timeout_s
    attempts = 0
    while (endpoint := state.endpoint()) is None:
        if time.monotonic() > deadline:
            raise ServerTimeoutError(
                address=str(state.directory),
                timeout_s=timeout_s,
                waiting_for="its supervisor has not published an endpoint",
                log_file=state.log_file,
                log_tail=log_tail(state.log_file),
            )
        with state.exclusive():
            if state.supervisor() is None:
                reason = state.failure()
                if attempts and (reason or attempts == ATTEMPTS):
                    raise SupervisorError(
                        reason=reason or "its supervisor ended without a word",
                        log_file=state.log_file,
                        log_tail=log_tail(state.log_file),
                    )
                start_supervisor(state, arguments)
                attempts += 1
        time.sleep(POLL_S)
    return endpoint


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
