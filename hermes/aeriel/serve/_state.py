"""Who needs a server, and who keeps it: a directory that several processes agree through.

A *driver* is a process that runs a pipeline; a *consumer* is one of its tasks that needs the
server. Each consumer that is outstanding is a file, a *lease*, under the identity of its driver,
so a driver that died takes its leases with it. A *supervisor* is the process that holds the
server; it goes when no live driver has a lease left.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from hermes.aeriel._processes import ProcessIdentity
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.serve._files import (
    STATE_VARIABLE,
    entries,
    is_own,
    make_private,
    text_of,
    write_whole,
)

ASKED_S = 5.0


def state_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory that holds the states of this user's servers on this host.

    ``HERMES_STATE_HOME``, else ``hermes-UID`` among the temporary files: it has to be on a disk of
    this host, because locks and process ids mean nothing on another.
    """
    if named := environ.get(STATE_VARIABLE):
        return Path(named).absolute()
    return Path(tempfile.gettempdir()) / f"hermes-{os.getuid()}"


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
class Status:
    """What a supervisor says of itself and its server.

    Parameters
    ----------
    phase
        ``starting``, ``waiting`` (for a GPU), ``ready``, ``restarting`` or ``stopping``.
    detail
        What it waits for.
    model_repository, image, gpus
        What it serves, from where and on which GPUs.
    """

    phase: str
    detail: str = ""
    model_repository: str = ""
    image: str = ""
    gpus: tuple[str, ...] = ()


class ServerState:
    """The state directory of one server.

    Parameters
    ----------
    directory
        Made when it is first needed, for this user's eyes only.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._endpoint = directory / "endpoint.json"
        self._supervisor = directory / "supervisor"
        self._failure = directory / "failure"
        self._status = directory / "status.json"
        self._refused = directory / "refused"
        self._place = directory / "place"
        self._leases = directory / "leases"
        self._lock = directory / "lock"
        self.log_file = directory / "supervisor.log"
        self.keys_dir = directory / "keys"

    def acquire(self, driver: ProcessIdentity, lease: Lease) -> None:
        """Say that a driver has a consumer outstanding."""
        with self.exclusive():
            path = self._lease(driver, lease.consumer)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(asdict(lease)))

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
                text = text_of(path)
                if text and not Lease(**json.loads(text)).is_running:
                    path.unlink()

    def release_all(self, driver: ProcessIdentity) -> None:
        """Say that a driver has no consumer left."""
        if self.directory.exists():
            with self.exclusive():
                shutil.rmtree(self._leases / str(driver), ignore_errors=True)

    def consumers(self) -> dict[ProcessIdentity, list[Lease]]:
        """Return the consumers outstanding by their driver, of drivers that live."""
        found: dict[ProcessIdentity, list[Lease]] = {}
        for drivers in entries(self._leases):
            driver = ProcessIdentity.parse(drivers.name)
            if driver.is_alive():
                texts = [text_of(path) for path in entries(drivers) if path.name[0] != "."]
                found[driver] = [Lease(**json.loads(text)) for text in texts if text]
        return {driver: leases for driver, leases in found.items() if leases}

    def is_needed(self) -> bool:
        """Tell whether a driver that lives has a consumer outstanding."""
        return any(
            ProcessIdentity.parse(drivers.name).is_alive()
            and any(path.name[0] != "." for path in entries(drivers))
            for drivers in entries(self._leases)
        )

    def supervisor(self) -> ProcessIdentity | None:
        """Return the process that keeps the server, if it lives.

        What somebody else has put there is not believed.
        """
        text = text_of(self._supervisor) if is_own(self.directory) else ""
        identity = ProcessIdentity.parse(text) if text else None
        return identity if identity is not None and identity.is_alive() else None

    def wake(self) -> None:
        """Let a supervisor go on that somebody stopped: it cannot keep its server like that."""
        text = text_of(self._supervisor)
        if text:
            ProcessIdentity.parse(text).wake()

    def clear(self) -> None:
        """Forget what an earlier supervisor said, who may have been killed."""
        self._failure.unlink(missing_ok=True)
        self._status.unlink(missing_ok=True)
        self.withdraw()

    def appoint(self, supervisor: ProcessIdentity) -> None:
        """Record who keeps the server; within `exclusive` only."""
        self._supervisor.write_text(str(supervisor))

    def publish(self, endpoint: Endpoint) -> None:
        """Say that the server is ready, and where."""
        endpoint.write(self._endpoint)

    def withdraw(self) -> None:
        """Say that the server is no longer to be used."""
        self._endpoint.unlink(missing_ok=True)

    def endpoint(self) -> Endpoint | None:
        """Return where the server is ready, if it is.

        A file alone is never believed: what its supervisor left when it died counts for nothing.
        """
        if self.supervisor() is None:
            return None
        try:
            return Endpoint.read(self._endpoint)
        except FileNotFoundError:
            return None

    def tell(self, status: Status) -> None:
        """Say what the server and its supervisor are at."""
        write_whole(self._status, json.dumps(asdict(status)))

    def status(self) -> Status | None:
        """Return what the supervisor said of itself last, if it lives."""
        text = text_of(self._status)
        if self.supervisor() is None or not text:
            return None
        facts = json.loads(text)
        return Status(**{**facts, "gpus": tuple(facts["gpus"])})

    def refuse(self) -> None:
        """Say that the server is not to be started again for the drivers that are there now."""
        with self.exclusive():
            write_whole(self._refused, "\n".join(map(str, self.consumers())))

    def is_refused(self, driver: ProcessIdentity) -> bool:
        """Tell whether somebody stopped the server for good as far as a driver is concerned."""
        return str(driver) in text_of(self._refused).split()

    def ask_for_place(self) -> None:
        """Say, again and again, that somebody waits for a GPU that this server has."""
        with suppress(FileNotFoundError):  # it is gone just now
            self._place.touch()

    def is_asked_for_place(self) -> bool:
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
        self._failure.write_text(reason)

    def failure(self) -> str:
        """Return what the last supervisor said of its failure, or an empty string."""
        return text_of(self._failure)

    def resign(self) -> None:
        """Say that nobody keeps the server any more; called by who did, when it is gone."""
        with self.exclusive():
            self._supervisor.unlink(missing_ok=True)
        self.tidy()

    def tidy(self) -> None:
        """Remove the directory if nobody needs or keeps the server."""
        if not self.directory.exists():
            return
        with self.exclusive():
            if self.supervisor() is None and not self.is_needed():
                shutil.rmtree(self.directory, ignore_errors=True)

    @classmethod
    def all(cls, home: Path) -> list[ServerState]:
        """Return the states in a directory, and nothing else that may be there."""
        names = {path.name for path in vars(cls(home)).values()}
        return [
            cls(directory)
            for directory in entries(home)
            if (directory / "lock").is_file()
            and {path.name for path in entries(directory) if path.name[0] != "."} <= names
        ]

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the directory's lock, for a moment; the kernel drops it with the process."""
        while True:
            make_private(self.directory)
            try:
                descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # removed meanwhile
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.fstat(descriptor).st_nlink > 0:  # else it guards a directory that is gone
                    yield
                    return
            finally:
                # Said aloud, because a process that was forked meanwhile has the file open too.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)

    def _lease(self, driver: ProcessIdentity, consumer: str) -> Path:
        return self._leases / str(driver) / hashlib.sha256(consumer.encode()).hexdigest()[:32]
