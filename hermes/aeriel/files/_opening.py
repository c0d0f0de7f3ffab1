"""HDF5 files, opened to be read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py

from hermes.aeriel.files._links import DAMAGE
from hermes.errors import DataError


@dataclass(frozen=True, kw_only=True)
class OpenInputs:
    """HDF5 files that are open side by side.

    Parameters
    ----------
    hdf5
        Each file.
    stamps
        What `stamp_if_there` returned of each before it was opened: what is read is of that, or
        newer.
    """

    hdf5: Mapping[Path, h5py.File]
    stamps: Mapping[Path, str]


@contextmanager
def open_input(file: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file to read it.

    Raises
    ------
    DataError
        It is missing, unreadable, no HDF5 file, or truncated.
    """
    if file.exists() and not file.is_file():
        raise DataError(file=str(file), problem="is not a file")
    try:
        # Without the property lists that h5py.File makes for each: a fifth of its time.
        opened = h5py.File(h5py.h5f.open(os.fsencode(file), h5py.h5f.ACC_RDONLY))
    except DAMAGE as error:
        raise DataError(file=str(file), problem=_why_not_opened(file, error)) from error
    with opened:
        yield opened


@contextmanager
def open_inputs(files: Iterable[Path], opened: OpenInputs | None = None) -> Iterator[OpenInputs]:
    """Open HDF5 files to read them side by side; raises as `open_input` does.

    Where all of them are open already, `opened` is taken, and stays open.
    """
    if opened is not None:
        yield opened
        return
    stamps = {file: stamp_if_there(file) for file in files}
    with ExitStack() as stack:
        hdf5 = {file: stack.enter_context(open_input(file)) for file in stamps}
        yield OpenInputs(hdf5=hdf5, stamps=stamps)


def own_stamp(file: Path) -> str:
    """Return a string that changes when a file itself does, not one that it reaches."""
    status = file.stat()
    return f"{file} {status.st_size} {status.st_mtime_ns}"


def stamp_if_there(file: Path) -> str:
    """Return what `own_stamp` does, or an empty string for a file that is not there."""
    try:
        return own_stamp(file)
    except OSError:
        return ""


def _why_not_opened(file: Path, error: Exception) -> str:
    if not file.exists():
        return "does not exist"
    number = error.errno if isinstance(error, OSError) else None
    if not os.access(file, os.R_OK) or number in (errno.EACCES, errno.EPERM):
        return "cannot be read: permission denied"
    if not h5py.is_hdf5(file):
        return "is not an HDF5 file"
    if "truncated" in str(error):
        return f"is truncated: {error}"
    return f"cannot be opened; it may be damaged: {error}"
