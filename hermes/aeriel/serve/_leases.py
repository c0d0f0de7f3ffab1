"""Leases on GPUs: locks that the kernel drops with their holder, however that ends.

A lease is a lock on a file that stands for the GPU, in a directory that all users of the host
share. Only the lock counts. What is written in the file says who holds it, or was the last to,
for others to read; it is not believed any further.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hermes.aeriel.serve._gpus import GPU, GPURequest, list_gpus, named_gpus, visible_gpus
from hermes.errors import GPUBusyError, ParameterError

DIRECTORY_VARIABLE = "HERMES_GPU_LEASES"
DEFAULT_DIRECTORY = Path("/tmp/hermes-gpus")  # noqa: S108 (whatever TMPDIR says: it is shared)
POLL_S = 0.3
SIGN_S = 0.5
_NOTE_BYTES = 4096


def _user_name() -> str:
    # Not what the environment says, which may be anything.
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a GPU.

    Parameters
    ----------
    what
        What it is used for, such as a model repository.
    pid, user
        The process that took it, and whose that is.
    state
        The state directory of the server, if it has one.
    """

    what: str
    pid: int = field(default_factory=os.getpid)
    user: str = field(default_factory=_user_name)
    state: str = ""

    def __str__(self) -> str:
        return f"the server of {self.what} (process {self.pid}, user {self.user})"


class GPULease:
    """GPUs that this process holds until it closes the lease or ends.

    Parameters
    ----------
    gpus
        What ``CUDA_VISIBLE_DEVICES`` is to name; None leaves it as it is.
    locks
        The descriptors of the locked files, by GPU.

    Attributes
    ----------
    gpus
        As above.
    last_holders
        Who held these GPUs before, as far as they said.
    """

    def __init__(self, gpus: tuple[int | str, ...] | None, locks: Mapping[str, int]) -> None:
        self.gpus = gpus
        self._locks = dict(locks)
        self.last_holders = [
            holder for lock in locks.values() if (holder := _read(lock)) is not None
        ]

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The locked files, for a process that is to hold them too."""
        return tuple(self._locks.values())

    def sign(self, holder: Holder | None) -> None:
        """Say who holds the GPUs; None: nobody has a claim to them any more."""
        text = b"" if holder is None else json.dumps(asdict(holder)).encode()[:_NOTE_BYTES]
        for lock in self.descriptors:
            with suppress(OSError):  # a full disk is no reason to go without the GPU
                os.ftruncate(lock, 0)
                os.pwrite(lock, text, 0)

    def close(self) -> None:
        """Give the GPUs back."""
        while self._locks:
            _, lock = self._locks.popitem()
            # Said aloud, because a process that was forked meanwhile has the file open too.
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)


def lease_gpus(request: GPURequest, environ: Mapping[str, str] = os.environ) -> GPULease:
    """Take the GPUs that are asked for: all of them now, or none.

    Raises
    ------
    GPUBusyError
        Somebody else has one, or too few are free; the error says who.
    ParameterError
        They can never be had here.
    """
    if request.n_gpus is None:
        gpus = named_gpus(request.gpus or (), list_gpus(), environ)
        locks, holders = _lock(gpus, len(gpus), environ)
        if holders:
            wanted = ", ".join(map(str, gpus))
            raise _busy(locks, wanted, holders)
        return GPULease(request.gpus, locks)
    visible = visible_gpus(list_gpus(), environ)
    if len(visible) < request.n_gpus:
        problem = f"{request.n_gpus} of the {len(visible)} GPUs that are visible here"
        raise ParameterError("n_gpus", problem)
    free = [gpu for gpu in visible if not gpu.processes]
    locks, holders = _lock(free, request.n_gpus, environ)
    if len(locks) < request.n_gpus:
        for gpu in visible:
            if gpu.processes:
                holders[str(gpu)] = f"process {', '.join(map(str, gpu.processes))}"
        raise _busy(locks, f"{request.n_gpus} of {len(visible)} GPUs", holders)
    return GPULease(tuple(locks), locks)


@contextmanager
def hold_gpus(request: GPURequest, holder: Holder, timeout_s: float) -> Iterator[GPULease]:
    """Hold GPUs while the block lasts.

    Raises
    ------
    GPUBusyError
        They were not free within `timeout_s` seconds.
    ParameterError
        They can never be had here.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            lease = lease_gpus(request)
            break
        except GPUBusyError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(POLL_S)
    lease.sign(holder)
    try:
        yield lease
    finally:
        lease.close()


def gpu_holders(gpus: list[GPU], environ: Mapping[str, str] = os.environ) -> dict[str, Holder]:
    """Return who holds GPUs, by UUID, without taking any."""
    found = {}
    for gpu in gpus:
        path = _directory(environ) / gpu.uuid
        if path.exists() and (lock := _try_lock(path)) is None:
            found[gpu.uuid] = _note(path) or Holder(what="somebody", pid=0, user="?")
        elif path.exists() and lock is not None:
            os.close(lock)
    return found


def _lock(
    gpus: list[GPU], most: int, environ: Mapping[str, str]
) -> tuple[dict[str, int], dict[str, object]]:
    """Lock GPUs until there are enough; return the locks by UUID, and who has the others."""
    locks: dict[str, int] = {}
    holders: dict[str, object] = {}
    for gpu in gpus:
        if len(locks) == most:
            break
        path = _directory(environ) / gpu.uuid.replace("/", "_")
        lock = _try_lock(path)
        if lock is None:
            holders[str(gpu)] = _holder(path) or "somebody"
        else:
            locks[gpu.uuid] = lock
    return locks, holders


def _busy(locks: Mapping[str, int], wanted: str, holders: Mapping[str, object]) -> GPUBusyError:
    for lock in locks.values():
        os.close(lock)
    return GPUBusyError(
        wanted=wanted,
        holders=tuple(f"{gpu} is held by {holder}" for gpu, holder in holders.items()),
        states=tuple(h.state for h in holders.values() if isinstance(h, Holder) and h.state),
    )


def _try_lock(path: Path) -> int | None:
    """Return the descriptor of a file after locking it, or None where somebody has the lock."""
    lock = _open(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _open(path: Path) -> int:
    """Open the file of a GPU for any user of the host, and nothing else that may lie there."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        # Made apart from opened: where links are protected, a sticky directory's file of
        # another user may not be opened with O_CREAT (proc_sys_fs(5), protected_regular).
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.close(os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600))
                path.chmod(0o666)
            descriptor = os.open(path, flags)
    except OSError as error:
        raise ParameterError(DIRECTORY_VARIABLE, f"{path} cannot be locked: {error}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ParameterError(DIRECTORY_VARIABLE, f"{path} is no file")
    return descriptor


def _directory(environ: Mapping[str, str]) -> Path:
    """Return the directory of the leases, after making it for all users.

    Raises
    ------
    ParameterError
        Something else is there, in which users could remove each other's leases.
    """
    directory = Path(environ.get(DIRECTORY_VARIABLE) or DEFAULT_DIRECTORY)
    if not directory.exists():
        temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".hermes-gpus-"))
        temporary.chmod(0o1777)
        try:
            temporary.rename(directory)
        except OSError:  # somebody was faster
            temporary.rmdir()
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or stat.S_IMODE(status.st_mode) != 0o1777:
        problem = f"{directory} is not a directory with mode 1777; remove it, or name another"
        raise ParameterError(DIRECTORY_VARIABLE, problem)
    return directory


def _holder(path: Path) -> Holder | None:
    """Return who says to hold a GPU that is locked; who has just locked it may be about to."""
    deadline = time.monotonic() + SIGN_S
    while (holder := _note(path)) is None and time.monotonic() < deadline:
        time.sleep(SIGN_S / 20)
    return holder


def _note(path: Path) -> Holder | None:
    descriptor = _open(path)
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> Holder | None:
    """Return what a holder wrote of itself; anybody may have written anything."""
    try:
        facts = json.loads(os.pread(descriptor, _NOTE_BYTES, 0))
        return Holder(
            what=str(facts["what"]),
            pid=int(facts["pid"]),
            user=str(facts["user"]),
            state=str(facts["state"]),
        )
    except (ValueError, KeyError, TypeError):
        return None
