"""The private directory of one server, and its locks; needs the standard library alone.

Everything that belongs to a server is in it, except its processes and the shared memory of its
backends. Both have the directory's name, which is the server's id, in theirs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from hermes._processes import Host, ProcessIdentity
from hermes._state_files import (
    STATE_VARIABLE,
    entries,
    facts_of,
    is_own,
    locked,
    make_private,
    text_of,
    write_state,
)
from hermes.errors import OutputError

LOCK_TIMEOUT_S = 60.0
# A socket's path has 107 bytes at most.
MOST_HOME_BYTES = 64
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")
_SERVER_ID = re.compile(r"hermes-[0-9a-f]{14}")


def state_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory that holds the directories of this user's servers on this host.

    ``HERMES_STATE_HOME``, else ``hermes-UID`` in the directory for temporary files. It has to be
    on a disk of this host, because locks and process ids are valid on one host only. Where that
    path is too long for a socket, or has characters with a meaning in gRPC's addresses or in a
    shell, a directory in ``/tmp`` is used in its place.
    """
    named = environ.get(STATE_VARIABLE)
    user = f"hermes-{os.getuid()}"
    home = Path(named).absolute() if named else Path(tempfile.gettempdir()).absolute() / user
    if len(os.fsencode(home)) > MOST_HOME_BYTES or not _PLAIN_PATH.fullmatch(str(home)):
        home = Path("/tmp") / f"{user}-{_digest(str(home), 8)}"  # noqa: S108 (checked to be private)
    return home


def new_server_id(identity: str | None = None) -> str:
    """Return an id for a server on this host: a random one, or one that depends on a text."""
    return (
        f"hermes-{Host.here().digest}{_digest(identity, 8) if identity else secrets.token_hex(4)}"
    )


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:digits]


@dataclass(frozen=True, kw_only=True)
class Status:
    """The state of a server, as its owner has recorded it.

    Parameters
    ----------
    phase
        ``starting``, ``waiting`` (for a GPU), ``ready``, ``restarting`` or ``stopping``.
    detail
        What the server waits for.
    model_repository, image, gpus
        What it serves, its container image and its GPUs.
    """

    phase: str
    detail: str = ""
    model_repository: str = ""
    image: str = ""
    gpus: tuple[str, ...] = ()


class ServerDirectory:
    """The directory of one server.

    Parameters
    ----------
    path
        The directory. It is made when it is first needed, readable by this user only.

    Attributes
    ----------
    server_id
        The directory's name, which is the server's ``--id``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.server_id = path.name
        self.plan_file = path / "plan.json"
        self.endpoint_file = path / "endpoint.json"
        self.status_file = path / "status.json"
        # Beside the directory: the log of a failed server outlives it.
        self.log_file = path.with_name(f"{path.name}.log")
        self.watcher_log = path / "watcher.log"
        self.models_link = path / "models"
        self.backends_link = path / "backends"
        self.keys = path / "keys"
        self.overlay = path / "overlay"
        self._owner = path / "owner"
        self._leases = path / "leases"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"

    @classmethod
    def all(cls, home: Path) -> list[Self]:
        """Return the directories of this user's servers."""
        return [
            cls(path) for path in entries(home) if _SERVER_ID.fullmatch(path.name) and is_own(path)
        ]

    def owner(self) -> ProcessIdentity | None:
        """Return the process that started the server, if it runs.

        A directory of another user counts as one without an owner.
        """
        owner = self._read_owner()
        return owner if owner is not None and owner.is_alive() else None

    def is_left(self) -> bool:
        """Return whether the owner ended without cleaning up."""
        owner = self._read_owner()
        return owner is not None and owner.is_dead()

    def is_over(self) -> bool:
        """Return whether no process owns or needs the server, and nothing of it is left.

        A driver that was killed before it had started a supervisor leaves such a directory. While
        the plan exists something may be left: a container outlives all processes of hermes.
        """
        owner = self._read_owner()
        is_owned = owner is not None and not owner.is_dead()
        return not (is_owned or self.plan_file.exists() or self.is_needed())

    def set_owner(self, owner: ProcessIdentity) -> None:
        """Record the process that started the server."""
        make_private(self.path)
        write_state(self._owner, str(owner))

    def clear_owner(self) -> None:
        """Remove the record of the owner, unless another process is the owner by now."""
        with self.exclusive():
            owner = self._read_owner()
            if owner is None or owner.is_dead() or owner == ProcessIdentity.of(os.getpid()):
                self._owner.unlink(missing_ok=True)

    def leave(self) -> None:
        """Give the directory up, and remove it if no process needs it; not with a server's plan."""
        if not self.plan_file.exists():
            self.clear_owner()
            self.tidy()

    def write_status(self, status: Status) -> None:
        """Record the state of the server."""
        write_state(self.status_file, json.dumps(asdict(status)))

    def set_phase(self, phase: str, detail: str = "") -> None:
        """Record another phase of the server, where the disk has room for it."""
        status = self.status() or Status(phase=phase)
        with suppress(OutputError):
            self.write_status(replace(status, phase=phase, detail=detail))

    def status(self) -> Status | None:
        """Return the state that the owner recorded last, if the owner runs."""
        facts: Any = facts_of(self.status_file)
        if self.owner() is None or facts is None:
            return None
        return Status(**{**facts, "gpus": tuple(facts["gpus"])})

    def wake(self) -> None:
        """Resume the owner if it is stopped: a stopped process cannot supervise its server."""
        owner = self._read_owner()
        if owner is not None:
            owner.wake()

    def is_needed(self) -> bool:
        """Return whether a running driver has a lease."""
        return any(True for _ in self._live_leases())

    def remove_server_files(self) -> None:
        """Remove the files of a server that has ended; keep the leases."""
        shutil.rmtree(self.keys, ignore_errors=True)
        shutil.rmtree(self.overlay, ignore_errors=True)
        sockets = [path for path in entries(self.path) if stat.S_ISSOCK(path.lstat().st_mode)]
        files = [self.endpoint_file, self.models_link, self.backends_link, *sockets]
        # The plan last: while it exists, a sweep looks for the rest.
        for path in (*files, self.plan_file):
            path.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove the directory if `is_over`."""
        if not is_own(self.path):
            return
        with self.exclusive():
            if self.is_over():
                shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):  # it has other directories
            self.path.parent.rmdir()

    def touch(self, *others: str) -> None:
        """Set the times of all files here, and of other files, to now.

        Cleaners of ``/tmp`` remove files that are some days old.
        """
        for path in (self.path, *self.path.rglob("*"), *map(Path, others)):
            if not path.is_symlink():
                try:
                    os.utime(path)
                except OSError:  # it was removed
                    continue

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the directory's lock for a short time; it ends with the process.

        Raises
        ------
        LockTimeoutError
            Another process has held it for a minute.
        """
        return locked(self.path / "lock", LOCK_TIMEOUT_S)

    def cleaning(self, timeout_s: float = LOCK_TIMEOUT_S) -> AbstractContextManager[None]:
        """Hold the lock for ending or starting a server here.

        Raises
        ------
        LockTimeoutError
            Another process has held it for `timeout_s` seconds.
        """
        return locked(self.path / "cleaning", timeout_s)

    def _live_leases(self) -> Iterator[tuple[ProcessIdentity, list[Path]]]:
        """Yield the running drivers that have leases, with the files of these."""
        for path in entries(self._leases):
            try:
                driver = ProcessIdentity.parse(path.name)
            except ValueError:  # not a driver's directory
                continue
            leases = [lease for lease in entries(path) if lease.name[0] != "."]
            if leases and driver.is_alive():
                yield driver, leases

    def _read_owner(self) -> ProcessIdentity | None:
        text = text_of(self._owner) if is_own(self.path) else ""
        try:
            return ProcessIdentity.parse(text) if text else None
        except ValueError:
            return None


def old_logs(home: Path, days: float) -> list[Path]:
    """Return the logs of failed servers that are older than some days."""
    limit = time.time() - days * 86400
    return [
        path
        for path in entries(home)
        if path.suffix == ".log"
        and _SERVER_ID.fullmatch(path.stem)
        and not path.with_suffix("").exists()
        and path.lstat().st_mtime < limit
    ]
