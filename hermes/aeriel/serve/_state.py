"""Who needs a server, and who keeps it: a directory that several processes agree through.

A *driver* is a process that runs a pipeline; a *consumer* is one of its tasks that needs the
server. Each consumer that is outstanding is a file, a *lease*, under the identity of its driver,
so a driver that died takes its leases with it. A *supervisor* is the process that holds the
server; it goes when no live driver has a lease left.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hermes.aeriel._processes import ProcessIdentity
from hermes.aeriel.endpoint import Endpoint
from hermes.errors import ParameterError

STATE_VARIABLE = "HERMES_STATE_HOME"


def state_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory that holds the states of this user's servers on this host.

    ``HERMES_STATE_HOME``, else ``hermes-UID`` among the temporary files: it has to be on a disk of
    this host, because locks and process ids mean nothing on another.
    """
    if named := environ.get(STATE_VARIABLE):
        return Path(named).absolute()
    return Path(tempfile.gettempdir()) / f"hermes-{os.getuid()}"


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
        self._leases = directory / "leases"
        self.log_file = directory / "supervisor.log"

    def acquire(self, driver: ProcessIdentity, consumer: str) -> None:
        """Say that a driver has a consumer outstanding."""
        with self.exclusive():
            lease = self._lease(driver, consumer)
            lease.parent.mkdir(parents=True, exist_ok=True)
            lease.write_text(consumer)

    def release(self, driver: ProcessIdentity, consumer: str) -> None:
        """Say that a consumer is done with the server, for now at least."""
        self._lease(driver, consumer).unlink(missing_ok=True)

    def release_all(self, driver: ProcessIdentity) -> None:
        """Say that a driver has no consumer left."""
        shutil.rmtree(self._leases / str(driver), ignore_errors=True)

    def consumers(self) -> dict[ProcessIdentity, list[str]]:
        """Return the consumers outstanding by their driver, of drivers that live."""
        found: dict[ProcessIdentity, list[str]] = {}
        for drivers in _entries(self._leases):
            driver = ProcessIdentity.parse(drivers.name)
            if driver.is_alive():
                found[driver] = [_text(lease) for lease in _entries(drivers)]
        return {driver: consumers for driver, consumers in found.items() if consumers}

    def supervisor(self) -> ProcessIdentity | None:
        """Return the process that keeps the server, if it lives."""
        text = _text(self._supervisor)
        identity = ProcessIdentity.parse(text) if text else None
        return identity if identity is not None and identity.is_alive() else None

    def appoint(self, supervisor: ProcessIdentity) -> None:
        """Record who keeps the server; within `exclusive` only."""
        self._failure.unlink(missing_ok=True)
        self.withdraw()  # what a supervisor that was killed had published
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

    def fail(self, reason: str) -> None:
        """Say why there is no server."""
        self._failure.write_text(reason)

    def failure(self) -> str:
        """Return what the last supervisor said of its failure, or an empty string."""
        return _text(self._failure)

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
            if self.supervisor() is None and not self.consumers():
                shutil.rmtree(self.directory, ignore_errors=True)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the directory's lock, for a moment; the kernel drops it with the process."""
        while True:
            make_private(self.directory)
            try:
                descriptor = os.open(
                    self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
                )
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


def make_private(directory: Path) -> None:
    """Make a directory for this user only, with its parents.

    Raises
    ------
    ParameterError
        It belongs to somebody else, who could plant files in it.
    """
    for path in (directory.parent, directory):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            problem = f"{path} is not a directory of this user; set it to one that is"
            raise ParameterError(STATE_VARIABLE, problem)
    directory.chmod(0o700)


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
