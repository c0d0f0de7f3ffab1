"""Ends the jobs of a run: a process that outlives the driver does it where the driver cannot."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from typing import Self

from hermes.aeriel.jobs._engine import PROGRAM, Engine
from hermes.aeriel.jobs._files import RunDirectory
from hermes.errors import EngineError

logger = logging.getLogger(__name__)

POLL_S = 0.5
# A command that submits jobs may be under way when its caller is killed.
SUBMITTED_WITHIN_S = 2.0
# A batch system that does not answer; its jobs then end by the beacon.
PATIENCE_S = 120.0
CLOSE_WAIT_S = PATIENCE_S + 30.0
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Reaper:
    """A process in a session of its own that ends a run's jobs when this process is gone.

    It reads a pipe of which only this process has the other end. Leaving the block ends the jobs
    too: by the reaper, or by this process where somebody has killed the reaper.

    Parameters
    ----------
    run
        The run.
    engine_name, engine
        The batch system.
    """

    def __init__(self, run: RunDirectory, engine_name: str, engine: Engine) -> None:
        self._run = run
        self._engine_name = engine_name
        self._engine = engine

    def __enter__(self) -> Self:
        reader, self._writer = os.pipe()
        # Luigi ends the children of a worker, and may do so before this one ignores it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
        try:
            with self._run.reaper_log.open("ab") as log:
                self._process = subprocess.Popen(
                    [*PROGRAM, "reap", self._engine_name, str(self._run.path)],
                    stdin=reader,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    start_new_session=True,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(reader)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._writer)
        try:
            self._process.wait(CLOSE_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.returncode != 0:
            end(self._run, self._engine)


def reap(run: RunDirectory, engine: Engine) -> int:
    """Wait for the end of the driver, then end the jobs of its run."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)  # its end is the driver's
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    while os.read(0, 1):
        pass
    end(run, engine)
    return 0


def end(run: RunDirectory, engine: Engine) -> None:
    """Cancel what is left of a run's jobs, and remove its files but the logs of its jobs."""
    if not run.beacon.exists():  # it has ended in good order
        return
    run.tombstone.touch()
    began = seen_at = time.monotonic()
    while time.monotonic() < min(seen_at + SUBMITTED_WITHIN_S, began + PATIENCE_S):
        try:
            if engine.states(run.name):
                seen_at = time.monotonic()
                engine.cancel(run.name)
        except EngineError as error:
            seen_at = time.monotonic()
            logger.warning("%s", error)
        time.sleep(POLL_S)
    run.remove(keep_logs=True)
