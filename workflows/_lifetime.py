"""Leases out of what Luigi tells: who needs a server, from the first task to the last.

Luigi has no notion of a service. But it tells of every dependency before anything runs
(``DEPENDENCY_DISCOVERED``, in the driver), lets something be entered around each run of a task
(``task_process_context``, in the process that runs it, before Luigi looks whether the task's
dependencies are complete), and tells how the run ended. That is enough to know at every moment
which tasks still need a server, for any task that requires one; no base class is asked for.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
from types import TracebackType

import luigi
from luigi.configuration import get_config
from luigi.worker import TaskProcess

from workflows._builds import driver_pid
from workflows._driver import driver
from workflows._dynamic_dependencies import Results

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def follow_luigi() -> None:
    """Have Luigi tell of every dependency and run, in this process and those that it forks."""
    for event, handler in (
        (luigi.Event.DEPENDENCY_DISCOVERED, _discovered),
        (luigi.Event.START, _started),
        (luigi.Event.SUCCESS, _succeeded),
        (luigi.Event.FAILURE, _failed),
        (luigi.Event.PROCESS_FAILURE, _failed),
        (luigi.Event.TIMEOUT, _failed),
        (luigi.Event.BROKEN_TASK, _broken),
        (luigi.Event.DEPENDENCY_MISSING, _broken),
    ):
        luigi.Task.event_handler(event)(handler)
    driver()  # made before Luigi forks its workers: they share what each of them finds out
    if not get_config().has_option("worker", "task_process_context"):
        get_config().set("worker", "task_process_context", f"{__name__}.{Run.__name__}")


def begin(task: luigi.Task) -> None:
    """Note that this process is about to run a task."""
    parent = driver_pid()
    if parent != os.getpid():
        die_with(parent)
    driver().begin(task)


class Run:
    """What Luigi enters around each run of a task, in the process that runs it.

    Parameters
    ----------
    process
        Luigi's view of the run.
    """

    def __init__(self, process: TaskProcess) -> None:
        self._process = process
        self._task = process.task

    def __enter__(self) -> None:
        self._process.result_queue = Results(self._process.result_queue, driver().find)
        try:
            begin(self._task)
        except Exception:
            # Luigi's worker has no place for an error here. Where it matters, it comes again.
            logger.exception("the servers of %s cannot be told", self._task)

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            driver().pause()
        except OSError:
            logger.exception("the servers of %s cannot be told", self._task)
        if error_type is KeyboardInterrupt and driver_pid() != os.getpid():
            # The driver has said what there is to say; multiprocessing would add a traceback.
            raise SystemExit(128 + signal.SIGINT)


def _discovered(task: luigi.Task, dependency: luigi.Task) -> None:
    driver().discover(task, dependency)


def _started(task: luigi.Task) -> None:
    if driver().running is not task:  # Luigi was told to enter something else around each run
        begin(task)


def _succeeded(task: luigi.Task) -> None:
    driver().finish(task)


def _failed(task: luigi.Task, *_: object) -> None:
    driver().fail(task)


def _broken(task: luigi.Task, *_: object) -> None:
    driver().give_up(task)


def die_with(parent: int) -> None:
    """Have the kernel end this worker when its driver is gone, however that ended."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it was faster
        os.kill(os.getpid(), signal.SIGTERM)
