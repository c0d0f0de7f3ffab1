"""Luigi's builds, as a process sees them: whether it drives one, and what was found out in it.

A build is one run of a pipeline: of the command ``luigi``, or of `luigi.build`. Luigi has no name
for it, but a thread that lasts as long (`KeepAliveThread`), in the process that drives; a task
runs in this process, or in a worker that it forks (`TaskProcess`).
"""

from __future__ import annotations

import copy
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload
from weakref import WeakKeyDictionary

from luigi.retcodes import retcode
from luigi.rpc import RemoteScheduler, RPCError
from luigi.worker import KeepAliveThread, TaskProcess

T = TypeVar("T")


def is_driven_here() -> bool:
    """Tell whether this process drives a build just now."""
    return _keep_alive_thread() is not None


def ping_once() -> None:
    """Let the build ask a scheduler that does not answer once, where it only says that it lives.

    Luigi repeats that as any other question, and lets no task start and the build not end
    meanwhile: a build whose scheduler is gone would take twice the time that its settings allow.
    """
    thread = _keep_alive_thread()
    scheduler = getattr(thread, "_scheduler", None)
    if isinstance(scheduler, RemoteScheduler):
        pinged = copy.copy(scheduler)
        # Luigi has no settings for pings alone.
        pinged.__dict__.update(_rpc_retry_attempts=1, _rpc_log_retries=False)
        thread.__dict__["_scheduler"] = pinged


def check_scheduler() -> None:
    """Ask the build's scheduler once whether it is there, before Luigi asks it for a minute.

    Raises
    ------
    SystemExit
        It is not; with Luigi's exit code for a scheduling that failed.
    """
    ping_once()
    thread = _keep_alive_thread()
    facts: dict[str, Any] = {} if thread is None else vars(thread)
    scheduler: Any = facts.get("_scheduler")
    if isinstance(scheduler, RemoteScheduler):
        ping: Any = vars(RemoteScheduler)["ping"]  # made of a name: mypy does not see it
        try:
            ping(scheduler, worker=facts["_worker_id"])
        except RPCError:
            problem = f"no Luigi scheduler (luigid) answers at {vars(scheduler)['_url']}"
            advice = "add --local-scheduler, or start luigid"
            print(f"hermes: {problem}; {advice}", file=sys.stderr)  # noqa: T201
            logging.getLogger("luigi-interface").setLevel(logging.ERROR)  # this was the last word
            raise SystemExit(retcode().scheduling_error or 1) from None


def driver_pid() -> int:
    """Return the process that drives the build: the parent of a worker, else this process.

    Found anew whenever it matters, for a process may have become another one, a daemon for
    example, since it imported this.
    """
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None or not _is_worker() or is_driven_here():
        return os.getpid()
    return parent.pid


class once_per_build(Generic[T]):  # noqa: N801 (used as property and cached_property are)
    """A property that is found out once in each build, and each time outside of one.

    Luigi keeps task objects for as long as the process lives, and returns the old one where a task
    is made with the same parameters. So what a task has found out must not stay in it: a file may
    have changed before the next build.

    Parameters
    ----------
    find
        The method.
    """

    # A worker finds out for itself; it sees the files as they are when it runs.
    is_inherited = False

    def __init__(self, find: Callable[[Any], T]) -> None:
        self.__doc__ = find.__doc__
        self._find = find
        # With the task, so that its id is not used again.
        self._found: WeakKeyDictionary[object, dict[int, tuple[object, T]]] = WeakKeyDictionary()

    @overload
    def __get__(self, task: None, owner: type) -> Self: ...
    @overload
    def __get__(self, task: object, owner: type) -> T: ...
    def __get__(self, task: object | None, owner: type) -> Self | T:
        if task is None:
            return self
        build = _keep_alive_thread() or (
            multiprocessing.current_process() if _is_worker() else None
        )
        if build is None:
            return self._find(task)
        found = self._found.setdefault(build, {})
        if id(task) not in found:
            inherited = self._of_driver(build) if self.is_inherited and _is_worker() else {}
            found[id(task)] = inherited.get(id(task)) or (task, self._find(task))
        return found[id(task)][1]

    def _of_driver(self, build: object) -> dict[int, tuple[object, T]]:
        """Return what the driver of a worker had found in its last build."""
        found = [each for of, each in self._found.items() if of is not build]
        return found[-1] if found else {}


class found_by_driver(once_per_build[T]):  # noqa: N801 (likewise)
    """A property that a worker has from its driver, as it was when the worker was forked.

    For what costs much to find out, and what is looked at again before anything is made of it.
    """

    is_inherited = True


def _keep_alive_thread() -> KeepAliveThread | None:
    threads = (t for t in threading.enumerate() if isinstance(t, KeepAliveThread))
    return next((thread for thread in threads if thread.is_alive()), None)


def _is_worker() -> bool:
    return isinstance(multiprocessing.current_process(), TaskProcess)
