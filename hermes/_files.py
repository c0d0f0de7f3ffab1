"""Writes files that appear complete or not at all; needs the standard library alone."""

from __future__ import annotations

import copy
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hermes.errors import OutputError

SUFFIX = ".partial"
# How long write_whole() waits for another process that writes the same file.
TEXT_WAIT_S = 10.0
# On a file system without locks the file is written unlocked, as HDF5 does ("best effort").
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class Partial:
    """A temporary file beside a target, which replaces the target when it is complete.

    It is called ``.NAME.partial``, or ``NAME.partial`` where it is kept. A lock keeps other
    processes from writing it. The kernel releases the lock when the process ends, so the next
    process replaces a file that a killed one has left.

    Parameters
    ----------
    target
        The file to write; its directory is made.
    mode
        The permissions of the file, whatever the umask; by default the umask decides.
    keep
        Whether to keep the content that an earlier process has left, and continue with it.
    wait_s
        Seconds to wait for another process that writes the same file.

    Attributes
    ----------
    path : pathlib.Path
        The file beside the target.

    Raises
    ------
    OutputError
        Another process writes the file, or the directory is not writable.
    """

    def __init__(
        self, target: Path, *, mode: int | None = None, keep: bool = False, wait_s: float = 0.0
    ) -> None:
        self.target = target
        self.path = target.with_name(("" if keep else ".") + target.name + SUFFIX)
        with as_output_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = _open_own(self.path, mode, keep=keep, wait_s=wait_s)

    def write(self, content: bytes) -> None:
        """Replace the content of the file.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        with as_output_errors(self.target):
            os.ftruncate(self._descriptor, 0)
            view, at = memoryview(content), 0
            while at < len(view):
                at += os.pwrite(self._descriptor, view[at:], at)

    def reserve(self, n_bytes: int) -> None:
        """Allocate disk space for a file of so many bytes.

        Raises
        ------
        OSError
            There is not enough space.
        """
        os.posix_fallocate(self._descriptor, 0, n_bytes)

    def synchronise(self) -> None:
        """Wait until the content is on the disk."""
        with as_output_errors(self.target):
            os.fsync(self._descriptor)

    def publish(self, *, durable: bool = True) -> None:
        """Give the file the target's name.

        Parameters
        ----------
        durable
            Whether to wait until the file is on the disk, so that it survives a loss of power.

        Raises
        ------
        OutputError
            The file cannot be renamed.
        """
        if durable:
            self.synchronise()
        with as_output_errors(self.target):
            self.path.replace(self.target)
        if durable:
            synchronise_directory(self.target.parent)
        self.close()

    def hand_over(self) -> Partial:
        """Return the file for another owner to publish; this object no longer has it."""
        other = copy.copy(self)
        self._descriptor = -1
        return other

    def discard(self) -> None:
        """Remove the file."""
        if self._descriptor >= 0:
            self.path.unlink(missing_ok=True)
            self.close()

    def close(self) -> None:
        """Release the lock and keep the file, for another process to continue."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            # Unlock explicitly: a forked child shares this open file, and close() keeps its lock.
            _lock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def write_whole(
    path: Path, content: str | bytes, *, mode: int | None = None, durable: bool = True
) -> None:
    """Write a file that appears complete or not at all.

    Parameters
    ----------
    path
        The file; its directory is made.
    content
        The content; text is written as UTF-8.
    mode
        The permissions of the file, whatever the umask; by default the umask decides.
    durable
        Whether to wait until the file is on the disk. A file about a process of this host need not
        survive a loss of power.

    Raises
    ------
    OutputError
        The file cannot be written; an earlier one is unchanged.
    """
    partial = Partial(path, mode=mode, wait_s=TEXT_WAIT_S)
    try:
        # A text may contain a path that is not valid UTF-8; an approximation of it suffices.
        partial.write(content if isinstance(content, bytes) else content.encode(errors="replace"))
        partial.publish(durable=durable)
    finally:
        partial.discard()


def synchronise_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk.

    Raises
    ------
    OutputError
        It cannot be done.
    """
    with as_output_errors(path):
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the file system does not synchronise directories
                raise
        finally:
            os.close(directory)


@contextmanager
def as_output_errors(path: Path) -> Iterator[None]:
    """Turn errors of the operating system and of HDF5 into OutputError."""
    try:
        yield
    except OutputError:
        raise
    except (OSError, RuntimeError) as error:
        # HDF5 has the error number in its message only, and a RuntimeError for a failed close.
        number = error.errno if isinstance(error, OSError) else None
        text = str(error)
        problem = f"cannot be written: {text}"
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text:
            problem = "the disk is full (no space left on device)"
        elif number == errno.EAGAIN or "unable to lock file" in text:
            problem = "another process is writing it; wait for that process, or end it"
        raise OutputError(str(path), problem) from error


def _open_own(path: Path, mode: int | None, *, keep: bool, wait_s: float) -> int:
    """Open and lock a file: a new one, or with `keep` one that an earlier process has left."""
    deadline = time.monotonic() + wait_s
    while True:
        descriptor, is_new = _open_or_create(path, 0o666 if mode is None else mode)
        try:
            if is_new and mode is not None:
                os.fchmod(descriptor, mode)
            _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(descriptor)
            # Between open and lock its previous owner may have renamed or removed it.
            is_ours = _is_same(path, status)
            if is_ours and (is_new or (keep and stat.S_ISREG(status.st_mode))):
                return descriptor
            if is_ours:
                path.unlink()
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise
            time.sleep(0.01)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open_or_create(path: Path, mode: int) -> tuple[int, bool]:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, mode), True
    except FileExistsError:
        try:
            return os.open(path, flags), False
        except FileNotFoundError:  # renamed since
            return _open_or_create(path, mode)


def _is_same(path: Path, status: os.stat_result) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino)


def _lock(descriptor: int, operation: int) -> None:
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
