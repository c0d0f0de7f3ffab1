"""Private files of one user, and locks on them; needs the standard library alone."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hermes._files import write_whole
from hermes.errors import LockTimeoutError, ParameterError

STATE_VARIABLE = "HERMES_STATE_HOME"
POLL_S = 0.02


def make_private(directory: Path) -> None:
    """Make a directory for this user only, with its parents.

    Raises
    ------
    ParameterError
        It cannot be made, or it belongs to another user: that user could put files into it.
    """
    for path in (directory.parent, directory):
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            problem = f"cannot make {path}: {error.strerror}; set it to a directory of yours"
            raise ParameterError(STATE_VARIABLE, problem) from error
        if not is_own(path):
            problem = f"{path} is not a directory of this user; set it to a directory of yours"
            raise ParameterError(STATE_VARIABLE, problem)
    if stat.S_IMODE(directory.stat().st_mode) != 0o700:
        directory.chmod(0o700)


def is_own(directory: Path, user: int | None = None) -> bool:
    """Return whether a directory exists and belongs to a user, by default this one."""
    try:
        status = directory.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == (os.getuid() if user is None else user)


def entries(directory: Path) -> list[Path]:
    """Return the paths in a directory, sorted; none where it does not exist."""
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def write_state(path: Path, text: str) -> None:
    """Write a file of a server's directory, readable by this user only."""
    write_whole(path, text, mode=0o600, durable=False)


def text_of(path: Path) -> str:
    """Return the text of a file; an empty one where it does not exist."""
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def facts_of(path: Path) -> dict[str, object] | None:
    """Return the JSON object in a file, or None where it has none."""
    try:
        facts = json.loads(text_of(path) or "null")
    except ValueError:
        return None
    return facts if isinstance(facts, dict) else None


@contextmanager
def locked(lock: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock on a file of a private directory; the file and the directory are made.

    The directory may be removed, by a process that holds the lock, while others wait for it.

    Raises
    ------
    LockTimeoutError
        Another process has held the lock for `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        make_private(lock.parent)
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # the directory was removed
        try:
            if _try_lock(descriptor) and os.fstat(descriptor).st_nlink > 0:
                # A lock without links belongs to a directory that was removed.
                yield
                return
        finally:
            # Unlock explicitly: a forked child shares the open file, so close() alone would keep
            # the lock.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
        if time.monotonic() > deadline:
            raise LockTimeoutError(str(lock), timeout_s)
        time.sleep(POLL_S)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
