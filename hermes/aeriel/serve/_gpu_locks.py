"""The locks behind leases on GPUs, and the notes that record their holders.

A GPU is locked by a lock of the kernel on one byte of /dev/null; the hash of the GPU's UUID selects
the byte. /dev/null belongs to root and every user may open it, so no user and no cleaner of /tmp
can remove it. Open-file-description locks (fcntl_locking(2)) last while any process has the
description open: a holder passes it to processes that outlive it. They are shared or exclusive, and
can be queried without being taken. Processes with another /dev (in some containers) do not see
them.

A note is a file in a directory of its user, which other users can read. Messages show the notes;
the locks alone decide.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import pwd
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hermes._files import write_whole
from hermes._state_files import is_own
from hermes.errors import OutputError

logger = logging.getLogger(__name__)

LOCKED = "/dev/null"
NOTES = Path("/tmp")  # noqa: S108 (not TMPDIR: all users need the same directory)
_NOTE_BYTES = 4096
_FLOCK = "hhqqi"  # struct flock of 64-bit Linux: type, whence, start, length, pid


def user_name(uid: int) -> str:
    """Return the name of a user, or the number of a user without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The holder of a GPU.

    Parameters
    ----------
    what
        The use of the GPU, such as a model repository.
    pid, user
        The process that holds it, and its user.
    state
        The state directory of the server, if it has one.
    """

    what: str
    pid: int = field(default_factory=os.getpid)
    user: str = field(default_factory=lambda: user_name(os.getuid()))
    state: str = ""

    def __str__(self) -> str:
        return f"the server of {self.what} (process {self.pid}, user {self.user})"


class Locks:
    """Locks on GPUs, which belong to an open file.

    Attributes
    ----------
    descriptor
        The file's descriptor. A process that inherits it holds the locks too.
    """

    def __init__(self) -> None:
        self.descriptor = os.open(LOCKED, os.O_RDWR | os.O_CLOEXEC)

    def take(self, uuid: str, *, shared: bool = False) -> bool:
        """Lock a GPU; return False if another lock prevents it."""
        kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
        try:
            fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, _flock(kind, _byte(uuid)))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def release(self, uuid: str) -> None:
        """Unlock a GPU."""
        fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, _byte(uuid)))

    def close(self) -> None:
        """Unlock everything."""
        # Unlock explicitly: a forked child shares this open file, so close() alone would keep the
        # locks. A length of 0 means all bytes.
        fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, 0, 0))
        os.close(self.descriptor)


def is_locked(uuid: str) -> bool:
    """Return whether a GPU is locked, without locking it."""
    descriptor = os.open(LOCKED, os.O_RDWR | os.O_CLOEXEC)
    try:
        asked = _flock(fcntl.F_WRLCK, _byte(uuid))
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked)
    finally:
        os.close(descriptor)
    kind: int = struct.unpack(_FLOCK, answer)[0]
    return kind != fcntl.F_UNLCK


def write_note(uuid: str, holder: Holder) -> None:
    """Record the holder of a GPU. A failure is logged: others then do not see the holder."""
    note = own_note_file(uuid)
    try:
        note.parent.mkdir(mode=0o700, exist_ok=True)
        if not is_own(note.parent):
            logger.warning(
                "cannot record the holder of %s: %s belongs to another user", uuid, note.parent
            )
            return
        note.parent.chmod(0o755)
        content = json.dumps(asdict(holder)).encode()[:_NOTE_BYTES]
        write_whole(note, content, mode=0o644, durable=False)
    except (OSError, OutputError) as error:
        logger.warning("cannot record the holder of %s: %s", uuid, error)


def remove_note(uuid: str) -> None:
    """Remove this user's note on a GPU."""
    with suppress(OSError):
        own_note_file(uuid).unlink()


def own_note_file(uuid: str) -> Path:
    """Return the file of this user's note on a GPU."""
    return _note(uuid, os.getuid())


def own_note(uuid: str) -> Holder | None:
    """Return the holder in this user's note on a GPU."""
    found = _read(uuid, os.getuid())
    return None if found is None else found[1]


def newest_note(uuid: str) -> Holder | None:
    """Return the holder in the newest note on a GPU, of all users."""
    notes = [note for uid in _users() if (note := _read(uuid, uid)) is not None]
    return max(notes, key=lambda note: note[0])[1] if notes else None


def _flock(kind: int, start: int, length: int = 1) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)


def _byte(uuid: str) -> int:
    return int.from_bytes(hashlib.sha256(uuid.encode()).digest()[:8]) >> 2


def _note(uuid: str, uid: int) -> Path:
    return NOTES / f"hermes-gpus-{uid}" / uuid.replace("/", "_")


def _users() -> Iterator[int]:
    for directory in NOTES.glob("hermes-gpus-*"):
        uid = directory.name.rpartition("-")[2]
        if uid.isdecimal() and is_own(directory, int(uid)):
            yield int(uid)


def _read(uuid: str, uid: int) -> tuple[int, Holder] | None:
    """Return the time and the holder in a user's note; the content may be invalid."""
    try:
        descriptor = os.open(
            _note(uuid, uid), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        )
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != uid:
            return None
        facts = json.loads(os.pread(descriptor, _NOTE_BYTES, 0))
        holder = Holder(
            what=printable(facts["what"]),
            pid=int(facts["pid"]),
            user=user_name(uid),
            state=printable(facts["state"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    finally:
        os.close(descriptor)
    return status.st_mtime_ns, holder


def printable(text: object) -> str:
    """Return a text that may be another user's, for this user's terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))
