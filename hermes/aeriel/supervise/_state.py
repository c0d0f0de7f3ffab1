"""Who needs a server, and who keeps it: a directory that several processes agree through.

A *driver* is a process that runs a pipeline; a *consumer* is one of its tasks that needs the
server. Each consumer that is outstanding is a file, a *lease*, under the identity of its driver,
so a driver that died takes its leases with it. A *supervisor* is the process that holds the
server; it goes when no live driver has a lease left.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hermes._directory import (
    ServerDirectory,
    entries,
    facts_of,
    state_home,
    text_of,
    write_state,
)
from hermes._processes import ProcessIdentity
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.supervise._spec import ServerSpec
from hermes.errors import HermesError

ASKED_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One consumer's need of a server.

    Parameters
    ----------
    consumer
        The task.
    is_running
        Whether it runs, or has yet to.
    """

    consumer: str
    is_running: bool = False


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What one driver wants of a server that it shares with others.

    Parameters
    ----------
    log_file
        A file that takes the server's output; it is replaced when a server starts.
    monitor_file
        A CSV file that says once a second what the server does.
    linger_s
        Seconds that the server stays when nobody needs it any more.
    """

    log_file: str = ""
    monitor_file: str = ""
    linger_s: float = 0.0


class ServerState(ServerDirectory):
    """The directory of a supervised server.

    Parameters
    ----------
    path
        Made when it is first needed, for this user's eyes only.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.supervisor_log = path / "supervisor.log"
        self._spec = path / "spec.json"
        self._failure = path / "failure"
        self._refused = path / "refused"
        self._place = path / "place"
        self._wishes = path / "wishes"

    @classmethod
    def of(cls, spec: ServerSpec) -> ServerState:
        """Return the directory of the server that is asked for."""
        return cls(state_home() / spec.server_id())

    def acquire(self, driver: ProcessIdentity, lease: Lease, wishes: Wishes | None = None) -> None:
        """Say that a driver has a consumer outstanding."""
        with self.exclusive():
            path = self._lease(driver, lease.consumer)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_state(path, json.dumps(asdict(lease)))
            if wishes is not None:
                self._wishes.mkdir(exist_ok=True)
                write_state(self._wishes / str(driver), json.dumps(asdict(wishes)))

    def has_lease(self, driver: ProcessIdentity, consumer: str) -> bool:
        """Tell whether a driver has said so of a consumer."""
        return self._lease(driver, consumer).exists()

    def release(self, driver: ProcessIdentity, consumer: str) -> None:
        """Say that a consumer is done with the server, for now at least."""
        self._lease(driver, consumer).unlink(missing_ok=True)

    def release_waiting(self, driver: ProcessIdentity, consumer: str) -> None:
        """Say so of a consumer that never will run here, unless it has begun to meanwhile."""
        path = self._lease(driver, consumer)
        if path.exists():
            with self.exclusive():
                facts: dict[str, Any] | None = facts_of(path)
                if facts is not None and not Lease(**facts).is_running:
                    path.unlink()

    def release_all(self, driver: ProcessIdentity) -> None:
        """Say that a driver has no consumer left."""
        if self.path.exists():
            with self.exclusive():
                shutil.rmtree(self._leases / str(driver), ignore_errors=True)

    def consumers(self) -> dict[ProcessIdentity, list[Lease]]:
        """Return the consumers outstanding by their driver, of drivers that live."""
        found: dict[ProcessIdentity, list[Lease]] = {}
        for driver, leases in self._drivers():
            if driver.is_alive():
                facts: list[Any] = [facts_of(p) for p in entries(leases) if p.name[0] != "."]
                found[driver] = [Lease(**each) for each in facts if each is not None]
        return {driver: leases for driver, leases in found.items() if leases}

    def wishes(self) -> list[Wishes]:
        """Return what the drivers that need the server want of it."""
        found: list[Wishes] = []
        for driver, leases in self._drivers():
            facts: dict[str, Any] | None = facts_of(self._wishes / str(driver))
            if facts is not None and driver.is_alive() and entries(leases):
                found.append(Wishes(**facts))
        return found

    def clear(self, spec: ServerSpec) -> None:
        """Forget what an earlier supervisor said, who may have been killed; within `exclusive`."""
        self._failure.unlink(missing_ok=True)
        self.status_file.unlink(missing_ok=True)
        self.unpublish()
        write_state(self._spec, spec.to_json())

    def spec(self) -> ServerSpec:
        """Return what the server is asked to be."""
        return ServerSpec.from_json(self._spec.read_text())

    def publish(self, endpoint: Endpoint) -> None:
        """Say that the server is ready, and where."""
        endpoint.write(self.endpoint_file)

    def unpublish(self) -> None:
        """Say that the server is no longer to be used."""
        self.endpoint_file.unlink(missing_ok=True)

    def endpoint(self) -> Endpoint | None:
        """Return where the server is ready, if it is.

        A file alone is never believed: what its supervisor left when it died counts for nothing.
        """
        if self.owner() is None:
            return None
        try:
            return Endpoint.read(self.endpoint_file)
        except (FileNotFoundError, HermesError):
            return None

    def block_drivers(self) -> None:
        """Say that the server is not to be started again for the drivers that are there now."""
        with self.exclusive():
            write_state(self._refused, "\n".join(map(str, self.consumers())))

    def is_blocked(self, driver: ProcessIdentity) -> bool:
        """Tell whether somebody stopped the server for good as far as a driver is concerned."""
        return str(driver) in text_of(self._refused).split()

    def request_yield(self) -> None:
        """Say, again and again, that somebody waits for a GPU that this server has."""
        with suppress(FileNotFoundError):  # it is gone just now
            self._place.touch()

    def is_asked_to_yield(self) -> bool:
        """Tell whether somebody said so in the last seconds."""
        try:
            return time.time() - self._place.stat().st_mtime < ASKED_S
        except FileNotFoundError:
            return False

    def is_running(self, drivers: Collection[ProcessIdentity] | None = None) -> bool:
        """Tell whether a consumer runs: one of these drivers, or any."""
        return any(
            lease.is_running
            for driver, leases in self.consumers().items()
            if drivers is None or driver in drivers
            for lease in leases
        )

    def fail(self, reason: str) -> None:
        """Say why there is no server."""
        write_state(self._failure, reason)

    def failure(self) -> str:
        """Return what the last supervisor said of its failure, or an empty string."""
        return text_of(self._failure)

    def _lease(self, driver: ProcessIdentity, consumer: str) -> Path:
        return self._leases / str(driver) / hashlib.sha256(consumer.encode()).hexdigest()[:32]
