"""Keeps a server running while it is wanted: watches it, and restarts it when it fails."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.serve._health import Health, Probe
from hermes.aeriel.serve._instance import TritonInstance
from hermes.errors import ServerDiedError, ServerError, ServerHangsError

logger = logging.getLogger(__name__)

POLL_S = 0.2
# After a server has worked for so long, its earlier failures no longer count.
FORGIVE_S = 120.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
# A server that fails while it loads its models may do so every time, and take long for it.
MOST_FIRST_RESTARTS = 2
# Triton 2.51's message when a model's process was killed while it loaded.
_STUB_DIED = "is not healthy"


def run_with_restarts(
    server: AbstractContextManager[TritonInstance],
    *,
    timeout_s: float,
    is_wanted: Callable[[], bool],
    publish: Callable[[Endpoint], None],
    most_restarts: int = 0,
) -> None:
    """Run a server while it is wanted.

    Parameters
    ----------
    server
        The context manager that `serve` returned.
    timeout_s
        Seconds until the server has to be ready.
    is_wanted
        Called a few times a second; the server is stopped when it returns False.
    publish
        Called with the endpoint when the server is ready, and after each restart.
    most_restarts
        The number of restarts in a row after which a failure is raised.

    Raises
    ------
    ServerError
        The server did not start, or failed more often than `most_restarts`.
    """
    with server as instance:
        failures = 0
        was_ready = False
        while True:
            well_since = time.monotonic()
            try:
                if failures:
                    instance.start_again()
                if not instance.wait(timeout_s, is_wanted):
                    return
                publish(instance.endpoint)
                was_ready = True
                well_since = time.monotonic()
                _watch(instance, is_wanted)
            except ServerError as error:
                is_forgiven = time.monotonic() - well_since >= FORGIVE_S
                failures = 1 if was_ready and is_forgiven else failures + 1
                most = most_restarts if was_ready else min(most_restarts, MOST_FIRST_RESTARTS)
                if failures > most or not is_worth_a_restart(error, was_ready=was_ready):
                    raise
                pause_s = restart_pause_s(failures)
                message = "restarting the server (%d of %d) in %.1f s, after: %s"
                logger.warning(message, failures, most, pause_s, error)
                instance.end_failed()
            else:
                return
            deadline = time.monotonic() + pause_s
            while time.monotonic() < deadline:
                if not is_wanted():
                    return
                time.sleep(POLL_S)


def restart_pause_s(failures: int) -> float:
    """Return the seconds to wait before a restart, after so many failures in a row."""
    return min(FIRST_PAUSE_S * 2.0 ** (failures - 1), LONGEST_PAUSE_S)


def is_worth_a_restart(error: ServerError, *, was_ready: bool) -> bool:
    """Return whether a restart may help.

    A server that was never ready and exited would do so again. One that was killed, or hangs, may
    work the next time.
    """
    if isinstance(error, ServerDiedError) and not was_ready:
        code = error.exit_code
        was_killed = code is not None and (code < 0 or code > 128)  # 128 + signal: from a shell
        return was_killed or _STUB_DIED in error.log_tail
    return was_ready or isinstance(error, ServerHangsError)


def _watch(instance: TritonInstance, is_wanted: Callable[[], bool]) -> None:
    """Return when the server is no longer wanted."""
    health = Health()
    with Probe(instance.endpoint) as probe:
        while is_wanted():
            if not instance.is_alive():
                raise instance.died()
            if (finding := probe.poll()) is not None:
                health.add(finding)
                if health.problem is not None:
                    raise instance.hangs(health.problem)
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
