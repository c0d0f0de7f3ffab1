"""The state of a supervised server, in files of its directory.

A *driver* is a process that runs a pipeline; a *consumer* is one of its tasks that needs the
server. Each outstanding consumer has a file, a *lease*, in a directory with the identity of its
driver, so the leases of a driver that has died are ignored. A *supervisor* is the process that runs
the server; it ends when no running driver has a lease.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hermes._directory import ServerDirectory, state_home
from hermes._processes import ProcessIdentity
from hermes._state_files import facts_of, text_of, write_state
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.supervise._spec import ServerSpec
from hermes.errors import HermesError

ASKED_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A consumer that needs a server.

    Parameters
    ----------
    consumer
        The task.
    is_running
        Whether the task runs; otherwise it is outstanding.
    """

    consumer: str
    is_running: bool = False


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The files that one driver wants of a shared server, and how long the server lingers.

    Parameters
    ----------
    log_file
        A file for the server's output; it is replaced when a server starts.
    monitor_file
        A CSV file for a sample of the server's statistics every second.
    linger_s
        Seconds that the server runs on when no process needs it.
    """

    log_file: str = ""
    monitor_file: str = ""
    linger_s: float = 0.0


class ServerState(ServerDirectory):
    """The directory of a supervised server.

    Parameters
    ----------
    path
        The directory. It is made when it is first needed, readable by this user only.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.supervisor_log = path / "supervisor.log"
        self._spec = path / "spec.json"
        self._failure = path / "failure"
        self._blocked = path / "blocked"
        self._yield_request = path / "yield"
        self._wishes = path / "wishes"

    @classmethod
    def of(cls, spec: ServerSpec) -> ServerState:
        """Return the state of the server with a specification."""
        return cls(state_home() / spec.server_id())

    def acquire(self, driver: ProcessIdentity, lease: Lease, wishes: Wishes | None = None) -> None:
        """Write a lease of a driver."""
        with self.exclusive():
            write_state(self._lease(driver, lease.consumer), json.dumps(asdict(lease)))
            if wishes is not None:
                write_state(self._wishes / str(driver), json.dumps(asdict(wishes)))

    def has_lease(self, driver: ProcessIdentity, consumer: str) -> bool:
        """Return whether a driver has a lease for a consumer."""
        return self._lease(driver, consumer).exists()

    def release(self, driver: ProcessIdentity, consumer: str) -> None:
        """Remove the lease of a consumer."""
        self._lease(driver, consumer).unlink(missing_ok=True)

    def release_waiting(self, driver: ProcessIdentity, consumer: str) -> None:
        """Remove the lease of a consumer, unless the consumer runs."""
        path = self._lease(driver, consumer)
        if path.exists():
            with self.exclusive():
                facts: dict[str, Any] | None = facts_of(path)
                if facts is not None and not Lease(**facts).is_running:
                    path.unlink()

    def release_all(self, driver: ProcessIdentity) -> None:
        """Remove all leases of a driver."""
        if self.path.exists():
            with self.exclusive():
                shutil.rmtree(self._leases / str(driver), ignore_errors=True)

    def consumers(self) -> dict[ProcessIdentity, list[Lease]]:
        """Return the leases of the drivers that run."""
        found: dict[ProcessIdentity, list[Lease]] = {}
        for driver, paths in self._live_leases():
            facts: Iterator[Any] = map(facts_of, paths)
            if leases := [Lease(**each) for each in facts if each is not None]:
                found[driver] = leases
        return found

    def wishes(self) -> list[Wishes]:
        """Return the wishes of the drivers that have leases."""
        found: list[Wishes] = []
        for driver, _ in self._live_leases():
            facts: dict[str, Any] | None = facts_of(self._wishes / str(driver))
            if facts is not None:
                found.append(Wishes(**facts))
        return found

    def clear(self, spec: ServerSpec) -> None:
        """Remove the records of an earlier supervisor; the caller holds `exclusive`."""
        self._failure.unlink(missing_ok=True)
        self.status_file.unlink(missing_ok=True)
        self.unpublish()
        write_state(self._spec, spec.to_json())

    def spec(self) -> ServerSpec:
        """Return the specification of the server."""
        return ServerSpec.from_json(self._spec.read_text())

    def unpublish(self) -> None:
        """Remove the endpoint file: the server is not ready."""
        self.endpoint_file.unlink(missing_ok=True)

    def endpoint(self) -> Endpoint | None:
        """Return the endpoint of the ready server; None where it is not ready.

        An endpoint file whose supervisor has ended is ignored.
        """
        if self.owner() is None:
            return None
        try:
            return Endpoint.read(self.endpoint_file)
        except (FileNotFoundError, HermesError):
            return None

    def block_drivers(self) -> None:
        """Keep the drivers that run now from starting the server again."""
        with self.exclusive():
            write_state(self._blocked, "\n".join(map(str, self.consumers())))

    def is_blocked(self, driver: ProcessIdentity) -> bool:
        """Return whether a driver must not start the server again."""
        return str(driver) in text_of(self._blocked).split()

    def request_yield(self) -> None:
        """Ask the server to yield its GPUs; a request is valid for a few seconds."""
        with suppress(FileNotFoundError):  # the directory was removed
            self._yield_request.touch()

    def is_asked_to_yield(self) -> bool:
        """Return whether there was a request to yield in the last seconds."""
        try:
            return time.time() - self._yield_request.stat().st_mtime < ASKED_S
        except FileNotFoundError:
            return False

    def is_running(self, drivers: Collection[ProcessIdentity] | None = None) -> bool:
        """Return whether a consumer runs, of these drivers or of any."""
        return any(
            lease.is_running
            for driver, leases in self.consumers().items()
            if drivers is None or driver in drivers
            for lease in leases
        )

    def fail(self, reason: str) -> None:
        """Record why the server failed."""
        write_state(self._failure, reason)

    def failure(self) -> str:
        """Return why the last supervisor failed, or an empty string."""
        return text_of(self._failure)

    def _lease(self, driver: ProcessIdentity, consumer: str) -> Path:
        return self._leases / str(driver) / hashlib.sha256(consumer.encode()).hexdigest()[:32]
