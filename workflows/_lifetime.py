"""Leases out of Luigi's events: who needs a server, from the first task to the last.

Luigi has no notion of a service, but it tells of every dependency before anything runs
(``DEPENDENCY_DISCOVERED``, in the driver), and of a task's start and end (in the process that
runs it). That is enough to know at every moment which tasks still need a server, for any task
that requires one; no base class is asked for.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import luigi
from luigi.task import flatten
from luigi.worker import KeepAliveThread

from hermes.aeriel._processes import ProcessIdentity
from hermes.aeriel.serve import ServerState

logger = logging.getLogger(__name__)

POLL_S = 0.2
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Service(luigi.Task):
    """A task whose output is alive: something runs as long as other tasks need it."""

    @property
    def state(self) -> ServerState:
        """Where the service's drivers and consumers are recorded."""
        raise NotImplementedError

    def ensure(self) -> Any:
        """Return when the service runs, after starting it if it does not."""
        raise NotImplementedError


class _Driver:
    """The part of a process in the leases: its own if it drives, its parent's if it was forked."""

    def __init__(self) -> None:
        self.identity = ProcessIdentity.of(os.getpid())
        self._states: dict[str, ServerState] = {}
        self._watch: threading.Thread | None = None
        # The task that runs in this process, and what it took up while it ran.
        self.running: luigi.Task | None = None
        self.dynamic: list[Service] = []

    def drive(self) -> None:
        """Say that this process is the one that plans."""
        if self.identity.pid != os.getpid():
            self.__init__()  # type: ignore[misc]  # a fork that drives a pipeline of its own

    def acquire(self, service: Service, consumer: str) -> None:
        service.state.acquire(self.identity, consumer)
        if self.identity.pid == os.getpid():
            self._states[str(service.state.directory)] = service.state
            if self._watch is None or not self._watch.is_alive():
                # Not a daemon: the process waits for it, a moment, so that nothing stays behind.
                self._watch = threading.Thread(target=self._release_at_end)
                self._watch.start()

    def release(self, service: Service, consumer: str) -> None:
        service.state.release(self.identity, consumer)

    def _release_at_end(self) -> None:
        """Give every lease back when Luigi's workers are done, though the process may go on."""
        while any(isinstance(t, KeepAliveThread) and t.is_alive() for t in threading.enumerate()):
            time.sleep(POLL_S)
        for state in self._states.values():
            state.release_all(self.identity)
            state.tidy()


driver = _Driver()


def note_dynamic_use(service: Service) -> None:
    """Make the running task a consumer of a service that it asked for while it ran."""
    task = driver.running
    if task is not None and task is not service and service not in driver.dynamic:
        driver.dynamic.append(service)
        driver.acquire(service, task.task_id)


def services_of(task: luigi.Task) -> Iterator[Service]:
    """Return the services that a task requires."""
    return (
        dependency for dependency in flatten(task.requires()) if isinstance(dependency, Service)
    )


def _discovered(task: luigi.Task, dependency: luigi.Task) -> None:
    if isinstance(dependency, Service):
        driver.drive()
        driver.acquire(dependency, task.task_id)


def _started(task: luigi.Task) -> None:
    die_with_driver()
    driver.running, driver.dynamic = task, []
    for service in services_of(task):
        driver.acquire(service, task.task_id)


def _succeeded(task: luigi.Task) -> None:
    _ended(task)


def _failed(task: luigi.Task, _: BaseException) -> None:
    _ended(task)


def _lost(task: luigi.Task, _: str) -> None:
    _ended(task)


def _ended(task: luigi.Task) -> None:
    for service in [*services_of(task), *driver.dynamic]:
        driver.release(service, task.task_id)
    driver.running, driver.dynamic = None, []


def die_with_driver() -> None:
    """Have the kernel end this worker when its driver is gone, however that ended."""
    if os.getpid() == driver.identity.pid:
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != driver.identity.pid:  # it was faster
        os.kill(os.getpid(), signal.SIGTERM)


for _event, _handler in {
    luigi.Event.DEPENDENCY_DISCOVERED: _discovered,
    luigi.Event.START: _started,
    luigi.Event.SUCCESS: _succeeded,
    luigi.Event.FAILURE: _failed,
    luigi.Event.PROCESS_FAILURE: _lost,
    luigi.Event.TIMEOUT: _lost,
}.items():
    luigi.Task.event_handler(_event)(_handler)
