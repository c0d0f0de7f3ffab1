"""Who drives a pipeline, and which of its tasks need a service, from the first to the last."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import luigi

from hermes._processes import ProcessIdentity, stopped_forks
from hermes.aeriel.supervise import Lease, ServerState, state_home, sweep
from workflows._builds import driver_pid, is_driven_here, ping_once
from workflows._dynamic_dependencies import SharedPairs
from workflows._retries import is_tried_again

logger = logging.getLogger(__name__)

POLL_S = 0.2
LOOK_S = 2.0


class Service(luigi.Task):
    """A task whose output is alive: something runs as long as other tasks need it."""

    @property
    def state(self) -> ServerState:
        """Where the service's drivers and consumers are recorded."""
        raise NotImplementedError

    def acquire(self, driver: ProcessIdentity, lease: Lease) -> None:
        """Record that a driver has a consumer outstanding."""
        self.state.acquire(driver, lease)

    def ensure(self) -> Any:
        """Return when the service runs, after starting it if it does not."""
        raise NotImplementedError


class Driver:
    """A process that runs a pipeline, as far as leases go; its workers are part of it.

    Parameters
    ----------
    identity
        The process.

    Attributes
    ----------
    running
        The task that runs in this process, if any.
    is_resumed
        Whether that is a service's, which has run before and waits for something.
    """

    def __init__(self, identity: ProcessIdentity) -> None:
        self.identity = identity
        self.running: luigi.Task | None = None
        self.is_resumed = False
        self._consumers: dict[str, luigi.Task] = {}
        self._dependents: defaultdict[str, set[str]] = defaultdict(set)
        self._dynamic_dependencies = SharedPairs("hermes-dependencies")
        self._failure_times = SharedPairs("hermes-failures")
        self._states: dict[str, ServerState] = {}
        self._has_swept = False
        self._lock = threading.Lock()
        self._watch: threading.Thread | None = None

    def discover(self, task: luigi.Task, dependency: luigi.Task) -> None:
        """Note that a task that has yet to run needs another."""
        if not self._has_swept:
            # There may be no server to start, for which what others left would be cleaned up.
            self._has_swept = True
            sweep(state_home())
        self._dependents[dependency.task_id].add(task.task_id)
        if isinstance(dependency, Service):
            self._consumers[task.task_id] = task
            self._acquire(dependency, task.task_id, is_running=False)

    def find(self, task_id: str, dependencies: Iterable[luigi.Task]) -> None:
        """Note that a task has found out, while it ran here, that it needs others."""
        self._dynamic_dependencies.add(task_id, [dependency.task_id for dependency in dependencies])

    def begin(self, task: luigi.Task) -> None:
        """Note that this process is about to run a task."""
        self.running = task
        for service in services_of(task):
            self._acquire(service, task.task_id, is_running=True)
        if isinstance(task, Service):
            self.is_resumed = task.state.has_lease(self.identity, task.task_id)
            self._acquire(task, task.task_id, is_running=True)

    def pause(self) -> None:
        """Note that the task has left this process; it may come again."""
        task, self.running = self.running, None
        if task is not None:
            self._rest(task.task_id)

    def attach(self, service: Service) -> bool:
        """Make the running task a consumer; tell whether it was one already."""
        task = self.running
        if task is None or task.task_id == service.task_id:
            return False
        if threading.current_thread() is self._watch:  # it looks at another task than that
            return False
        if service.state.has_lease(self.identity, task.task_id):
            return True
        self._acquire(service, task.task_id, is_running=True)
        return False

    def is_early(self, service: str, state: ServerState) -> bool:
        """Tell whether every consumer of a service still waits for something else.

        Parameters
        ----------
        service
            The id of the service's task, which is no consumer.
        state
            The service's.
        """
        leases = [lease for leases in state.consumers().values() for lease in leases]
        outstanding = [lease for lease in leases if lease.consumer != service]
        return bool(outstanding) and not any(
            lease.is_running or self._can_run(lease.consumer) for lease in outstanding
        )

    def _can_run(self, consumer: str) -> bool:
        """Tell whether all is there that a consumer requires besides services.

        It can as far as this process knows: of other drivers' consumers it knows nothing.
        """
        task = self._consumers.get(consumer)
        try:
            required = [] if task is None else task.deps()
            return all(each.complete() for each in required if not isinstance(each, Service))
        except Exception:
            logger.debug("cannot tell whether %s can run", task, exc_info=True)
            return True

    def finish(self, task: luigi.Task) -> None:
        """Note that a task needs nothing any more."""
        self._release(task.task_id)

    def fail(self, task: luigi.Task) -> None:
        """Note that a run of a task has failed; Luigi may try it again."""
        self._failure_times.add(task.task_id, [str(time.time())])
        failed_at = [
            float(at) for failed, at in self._failure_times.read() if failed == task.task_id
        ]
        if not is_tried_again(task, failed_at, time.time()):
            self.give_up(task)
        elif isinstance(task, Service):
            self._release(task.task_id)
        else:
            # It may have been killed; what depends on it has a lease as soon as it runs.
            self._rest(task.task_id)
            self._give_up_dependents(task)

    def give_up(self, task: luigi.Task) -> None:
        """Note that a task has failed for good, so that nothing that depends on it can run."""
        if isinstance(task, Service):
            task.state.release_all(self.identity)
        self._release(task.task_id)
        self._give_up_dependents(task)

    def _give_up_dependents(self, task: luigi.Task) -> None:
        dependents = defaultdict(set, {each: set(of) for each, of in self._dependents.items()})
        for dependent, dependency in self._dynamic_dependencies.read():
            dependents[dependency].add(dependent)
        lost: set[str] = set()
        reached = [task.task_id]
        while reached:
            found = dependents[reached.pop()] - lost
            lost |= found
            reached += found
        # Not those known here alone: another worker's task may have asked for a server as it ran.
        for state in ServerState.all(state_home()):
            for consumer in lost:
                state.release_waiting(self.identity, consumer)

    def _acquire(self, service: Service, consumer: str, *, is_running: bool) -> None:
        lease = Lease(consumer=consumer, is_running=is_running)
        if self.identity.pid != os.getpid():
            # Without the lock: a thread of the driver may have held it when this one was forked.
            service.acquire(self.identity, lease)
            return
        with self._lock:
            service.acquire(self.identity, lease)
            self._states[str(service.state.path)] = service.state
            if self._watch is None:
                ping_once()
                # Not a daemon: the process waits for it, a moment, so that nothing stays behind.
                self._watch = threading.Thread(target=self._attend, name="hermes-leases")
                self._watch.start()

    def _rest(self, consumer: str) -> None:
        for state in self._leased(consumer):
            state.acquire(self.identity, Lease(consumer=consumer))

    def _release(self, consumer: str) -> None:
        for state in self._leased(consumer):
            state.release(self.identity, consumer)

    def _leased(self, consumer: str) -> list[ServerState]:
        """Return the servers that a consumer has a lease of, whichever process took it."""
        states = ServerState.all(state_home())
        return [state for state in states if state.has_lease(self.identity, consumer)]

    def _attend(self) -> None:
        """Give every lease back when Luigi's workers are done, though the process may go on."""
        look_at = time.monotonic() + LOOK_S
        stopped: set[ProcessIdentity] = set()
        while True:
            with self._lock:
                states = list(self._states.values())
                if not is_driven_here():
                    for state in states:
                        state.release_all(self.identity)
                    self._states, self._watch = {}, None
                    self._consumers.clear()
                    self._dependents.clear()
                    self._dynamic_dependencies.clear()
                    self._failure_times.clear()
                    break
            for state in states:
                state.wake()
            # Ctrl-Z stops the driver too: a worker that was stopped alone holds its server for
            # ever. Seen twice, for Ctrl-Z may have reached the worker only just now.
            stopped, stopped_before = stopped_forks(), stopped
            for worker in stopped & stopped_before:
                worker.wake()
            if time.monotonic() > look_at:
                for state in states:
                    self._release_complete(state)
                look_at = time.monotonic() + LOOK_S
            time.sleep(POLL_S)
        for state in states:
            state.wake()
            state.tidy()
        sweep(state_home())  # of servers whose supervisors were killed

    def _release_complete(self, state: ServerState) -> None:
        """Give back the leases of consumers that another driver has run meanwhile.

        Nobody tells of these: drivers with one scheduler (luigid) share tasks. A server that is at
        work is needed anyway, and one consumer that is not complete is enough to need it.
        """
        if state.is_running():
            return
        for lease in state.consumers().get(self.identity, []):
            consumer = self._consumers.get(lease.consumer)
            try:
                if consumer is None or not consumer.complete():
                    return
            except Exception:
                logger.debug("cannot tell whether %s is complete", consumer, exc_info=True)
                return
            state.release_waiting(self.identity, lease.consumer)


_drivers: dict[int, Driver] = {}


def driver() -> Driver:
    """Return the driver of the pipeline that runs.

    It is found when the pipeline asks for it, and not when this module is imported: the process
    may have become another one since, a daemon for example.
    """
    pid = driver_pid()
    if pid not in _drivers:
        _drivers[pid] = Driver(ProcessIdentity.of(pid))
    return _drivers[pid]


def services_of(task: luigi.Task) -> Iterator[Service]:
    """Return the services that a task requires."""
    return (dependency for dependency in task.deps() if isinstance(dependency, Service))
