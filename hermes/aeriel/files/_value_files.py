"""Values whose number is known at the end, in files of their own until then."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.files._output import STRINGS_AT_ONCE, OutputFile

# How much is copied at once.
BLOCK_BYTES = 1 << 20
_LENGTH = struct.Struct("<I")

# The dtype and the shape of one item.
Item = tuple["np.dtype[Any]", tuple[int, ...]]


class ValueFiles:
    """Appends values to files in a directory, one for each name.

    An HDF5 file beside them can be opened at any time, because nothing in it is extended.

    Parameters
    ----------
    directory
        The directory for the files.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._items: Mapping[str, Item] = {}
        self._files: dict[str, int] = {}
        # How many values of each there are, and how many bytes they take in its file.
        self._ends: dict[str, tuple[int, int]] = {}

    @property
    def names(self) -> Collection[str]:
        """The names of the values."""
        return self._items.keys()

    def create(self, items: Mapping[str, Item]) -> None:
        """Begin with empty files.

        Raises
        ------
        OSError
            The directory cannot be written.
        """
        self.remove()
        self._items = dict(items)
        self._ends = dict.fromkeys(items, (0, 0))
        if items:
            self._directory.mkdir()
            self._open(os.O_CREAT | os.O_EXCL)

    def resume(self, items: Mapping[str, Item], n_values: Mapping[str, int]) -> None:
        """Go on after so many values of each, which an earlier process has made safe.

        Raises
        ------
        OSError
            They are not there.
        """
        self._items = dict(items)
        self._open(0)
        for name, (dtype, shape) in items.items():
            n_bytes = n_values[name] * _item_bytes(dtype, shape)
            if os.fstat(self._files[name]).st_size < n_bytes:
                raise OSError(f"{self._path(name)} is shorter than {n_bytes} bytes")
            self._ends[name] = n_values[name], n_bytes

    def count(self, name: str) -> int:
        """Return how many values there are."""
        return self._ends[name][0]

    def append(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Append arrays of shape ``(n, *shape)``; nothing counts if one fails.

        Raises
        ------
        OSError
            They cannot be written.
        """
        ends = {}
        for name, array in values.items():
            n_values, n_bytes = self._ends[name]
            content = _bytes_of(array)
            _write(self._files[name], content, n_bytes)
            ends[name] = n_values + len(array), n_bytes + len(content)
        self._ends.update(ends)

    def blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """Yield the values of one name in their order."""
        dtype, shape = self._items[name]
        n_values, n_bytes = self._ends[name]
        if dtype.kind == "O":
            yield from _strings(self._files[name], n_values, shape)
            return
        if n_bytes == 0:  # also where an item has a length of 0
            return
        step = max(1, BLOCK_BYTES // _item_bytes(dtype, shape)) * _item_bytes(dtype, shape)
        for begin in range(0, n_bytes, step):
            content = os.pread(self._files[name], min(step, n_bytes - begin), begin)
            yield np.frombuffer(content, dtype).reshape(-1, *shape)

    def put_into(self, output: OutputFile, paths: Mapping[str, str]) -> None:
        """Put the values of each name into a dataset of an HDF5 file.

        Parameters
        ----------
        output
            The file.
        paths
            The dataset of each name. One that an earlier process has made is written again.

        Raises
        ------
        OutputError, OSError
            They cannot be written.
        """
        for name, path in paths.items():
            if path not in output.hdf5:
                dtype, shape = self._items[name]
                kind = h5py.string_dtype("utf-8") if dtype.kind == "O" else dtype
                output.create_dataset(path, (self.count(name), *shape), kind)
        output.flush()
        for name, path in paths.items():
            at = 0
            for block in self.blocks(name):
                output.write(path, at, block)
                at += len(block)

    def synchronise(self) -> None:
        """Make the values so far safe from a loss of power."""
        for descriptor in self._files.values():
            os.fsync(descriptor)

    def close(self) -> None:
        """Close the files, and leave them as they are."""
        while self._files:
            os.close(self._files.popitem()[1])

    def remove(self) -> None:
        """Remove the files, and those of an earlier process.

        Raises
        ------
        OSError
            They cannot be removed.
        """
        self.close()
        if os.path.lexists(self._directory):
            shutil.rmtree(self._directory)

    def _open(self, flags: int) -> None:
        for name in self._items:
            path = self._path(name)
            self._files[name] = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o666)

    def _path(self, name: str) -> Path:
        # Not its name, which may be as long as that of a file can be.
        return self._directory / str(list(self._items).index(name))


def _item_bytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    return dtype.itemsize * int(np.prod(shape, dtype=np.int64))


def _bytes_of(values: NDArray[Any]) -> bytes | memoryview:
    """Return values as they lie in a file: a string is its length and its bytes."""
    if values.dtype.kind != "O":
        return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    return b"".join(_LENGTH.pack(len(value)) + value for value in values.flat)


def _strings(descriptor: int, n_values: int, shape: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        for begin in range(0, n_values, STRINGS_AT_ONCE):
            block = np.empty((min(STRINGS_AT_ONCE, n_values - begin), *shape), object)
            for index in np.ndindex(block.shape):
                (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
                block[index] = file.read(length)
            yield block


def _write(descriptor: int, content: bytes | memoryview, at: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written
