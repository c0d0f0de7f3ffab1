"""Files that appear whole or not at all: the only writer; nothing but the standard library."""

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
# How long a text waits for another process that writes the same file.
TEXT_WAIT_S = 10.0
# A file system that has no locks: everybody is alone there, as HDF5 has it ("best effort").
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class Partial:
    """A file beside another one, whose name it takes when it is whole.

    It is called ``.NAME.partial``, or ``NAME.partial`` where it is kept. A lock makes it one
    process's own. The lock ends with the process, so what a process that was killed has left is
    replaced by the next one, and nothing piles up.

    Parameters
    ----------
    target
        The file to write; its directory is made.
    mode
        The permissions of the file, whatever the umask; by default the umask decides.
    keep
        Whether what an earlier process has left is kept, to go on with it.
    wait_s
        How many seconds to wait for another process that writes the same file.

    Attributes
    ----------
    path : pathlib.Path
        The file beside the target.

    Raises
    ------
    OutputError
        Another process is writing it, or the directory cannot be written.
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
        """Make this the content.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        with as_output_errors(self.target):
            os.ftruncate(self._descriptor, 0)
            view, at = memoryview(content), 0
            while at < len(view):
                at += os.pwrite(self._descriptor, view[at:], at)

    def reserve(self, n_bytes: int) -> None:
        """Take the space on the disk for a file of so many bytes.

        Raises
        ------
        OSError
            There is not enough.
        """
        os.posix_fallocate(self._descriptor, 0, n_bytes)

    def synchronise(self) -> None:
        """Make what was written safe from a loss of power."""
        with as_output_errors(self.target):
            os.fsync(self._descriptor)

    def publish(self, *, durable: bool = True) -> None:
        """Give the file the target's name.

        Parameters
        ----------
        durable
            Whether to wait until the disk has it, so that a loss of power does not undo it.

        Raises
        ------
        OutputError
            It cannot be done.
        """
        if durable:
            self.synchronise()
        with as_output_errors(self.target):
            self.path.replace(self.target)
        if durable:
            synchronise_directory(self.target.parent)
        self.close()

    def hand_over(self) -> Partial:
        """Return the file for somebody else to publish; this one no longer has it."""
        other = copy.copy(self)
        self._descriptor = -1
        return other

    def discard(self) -> None:
        """Remove the file."""
        if self._descriptor >= 0:
            self.path.unlink(missing_ok=True)
            self.close()

    def close(self) -> None:
        """Let others write the file; what is there stays for them."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            # Unlock explicitly: a forked child shares this open file, and close() keeps its lock.
            _lock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def write_whole(
    path: Path, content: str | bytes, *, mode: int | None = None, durable: bool = True
) -> None:
    """Write a file that appears whole or not at all.

    Parameters
    ----------
    path
        The file; its directory is made.
    content
        What is to be in it; a text is written as UTF-8.
    mode
        The permissions of the file, whatever the umask; by default the umask decides.
    durable
        Whether to wait until the disk has it. What describes a process of this host need not
        outlive a loss of power.

    Raises
    ------
    OutputError
        It cannot be written; what was there before stays.
    """
    partial = Partial(path, mode=mode, wait_s=TEXT_WAIT_S)
    try:
        # A path that is no UTF-8 can be in a text; it need not be repeated to the byte.
        partial.write(content if isinstance(content, bytes) else content.encode(errors="replace"))
        partial.publish(durable=durable)
    finally:
        partial.discard()


def synchronise_directory(path: Path) -> None:
    """Make the names in a directory safe from a loss of power.

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
            if error.errno != errno.EINVAL:  # a file system that has no such thing
                raise
        finally:
            os.close(directory)


@contextmanager
def as_output_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system or HDF5 says of a file into OutputError."""
    try:
        yield
    except OutputError:
        raise
    except (OSError, RuntimeError) as error:
        # HDF5 has the number in its text only, and a RuntimeError for a failed close.
        number = error.errno if isinstance(error, OSError) else None
        text = str(error)
        problem = f"cannot be written: {text}"
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text:
            problem = "the disk is full (no space left on device)"
        elif number == errno.EAGAIN or "unable to lock file" in text:
            problem = "another process is writing it; wait for that run, or end it"
        raise OutputError(str(path), problem) from error


def _open_own(path: Path, mode: int | None, *, keep: bool, wait_s: float) -> int:
    """Open a file that is this process's alone until it unlocks it; a new one, or a left one."""
    deadline = time.monotonic() + wait_s
    while True:
        descriptor, is_new = _open_or_create(path, 0o666 if mode is None else mode)
        try:
            if is_new and mode is not None:
                os.fchmod(descriptor, mode)
            _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(descriptor)
            # Between open and lock its owner may have given it its name, or removed it.
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
        except FileNotFoundError:  # given its name meanwhile
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
