"""How rows of varying length are stored: flat values, and the offset of each row in them."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.files._output import STRINGS_AT_ONCE, OutputFile, dataset_name
from hermes.aeriel.files._varying import VaryingOutput

# How much is copied at once.
BLOCK_BYTES = 1 << 20
_LAYOUT = "row i is values[offsets[i]:offsets[i + 1]]"
_LENGTH = struct.Struct("<I")


def flat_paths(group: str) -> tuple[str, str]:
    """Return the paths of the offsets and of the values of an output of varying length.

    Parameters
    ----------
    group
        The name of its group; see `dataset_name`.
    """
    return f"{group}/offsets", f"{group}/values"


def create_rows(output: OutputFile, group: str, rows: int) -> None:
    """Make a group for rows of varying length, with their offsets, of which the first is written.

    Raises
    ------
    OutputError
        There is not enough space.
    """
    output.reserve(0, group)
    output.hdf5.create_group(group)
    output.write_attributes(output.hdf5[group], {"layout": _LAYOUT})
    offsets, _ = flat_paths(group)
    output.create_dataset(offsets, (rows + 1,), np.dtype(np.int64))
    output.write(offsets, 0, np.zeros(1, np.int64))


class FlatRows:
    """Writes rows of varying length, in their order, into an HDF5 file.

    How many values there are is known at the end. Until then they lie in files of their own, in a
    directory beside the HDF5 file, which has the offsets from the start. So nothing in it is
    extended, and a process that is killed leaves a file that can be opened.

    Parameters
    ----------
    output
        The HDF5 file.
    outputs
        What a row is, by output name.
    rows
        How many rows there will be.
    directory
        The directory for the files.
    """

    def __init__(
        self, output: OutputFile, outputs: Mapping[str, VaryingOutput], rows: int, directory: Path
    ) -> None:
        self._output = output
        self._outputs = outputs
        self._rows = rows
        self._directory = directory
        self._files: dict[str, int] = {}
        # How many values of each there are, and how many bytes they take in its file.
        self._ends: dict[str, tuple[int, int]] = {}

    def create(self) -> None:
        """Begin, in an HDF5 file that is empty.

        Raises
        ------
        OutputError
            There is not enough space.
        OSError
            The directory cannot be written.
        """
        self.remove()
        self._ends = dict.fromkeys(self._outputs, (0, 0))
        if self._outputs:
            self._directory.mkdir()
            self._open(os.O_CREAT | os.O_EXCL)
        for name in self._outputs:
            create_rows(self._output, dataset_name(name), self._rows)

    def resume(self, rows_done: int) -> None:
        """Go on after rows that an earlier process has made safe.

        Raises
        ------
        OSError, KeyError
            They are not there.
        """
        self._open(0)
        for name, row in self._outputs.items():
            n_values = int(self._output.hdf5[_offsets(name)][rows_done])
            n_bytes = n_values * _item_bytes(row)
            if os.fstat(self._files[name]).st_size < n_bytes:
                raise OSError(f"{self._path(name)} is shorter than {n_bytes} bytes")
            self._ends[name] = n_values, n_bytes

    def write(self, begin: int, run: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        """Write rows: arrays of shape ``(rows, n, *shape)`` by name; nothing counts if one fails.

        Raises
        ------
        OutputError, OSError
            They cannot be written.
        """
        ends = {}
        for name, row in self._outputs.items():
            n_values, n_bytes = self._ends[name]
            arrays = [outputs[name] for outputs in run]
            lengths = np.concatenate([np.full(len(a), a.shape[1], np.int64) for a in arrays])
            values = np.concatenate([a.reshape(len(a) * a.shape[1], *row.shape) for a in arrays])
            content = _bytes_of(values)
            _write(self._files[name], content, n_bytes)
            self._output.write(_offsets(name), begin + 1, n_values + np.cumsum(lengths))
            ends[name] = n_values + len(values), n_bytes + len(content)
        self._ends = ends

    def blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """Yield the values of an output in their order."""
        row = self._outputs[name]
        n_values, n_bytes = self._ends[name]
        if row.dtype.kind == "O":
            yield from _strings(self._files[name], n_values, row.shape)
            return
        if n_bytes == 0:  # also where an item has a length of 0
            return
        step = max(1, BLOCK_BYTES // _item_bytes(row)) * _item_bytes(row)
        for begin in range(0, n_bytes, step):
            content = os.pread(self._files[name], min(step, n_bytes - begin), begin)
            yield np.frombuffer(content, row.dtype).reshape(-1, *row.shape)

    def synchronise(self) -> None:
        """Make the values so far safe from a loss of power."""
        for descriptor in self._files.values():
            os.fsync(descriptor)

    def finish(self) -> None:
        """Put the values into the HDF5 file.

        Raises
        ------
        OutputError, OSError
            They cannot be written.
        """
        for name, row in self._outputs.items():
            # There already where an earlier process was killed while it did this.
            if _values(name) not in self._output.hdf5:
                dtype = h5py.string_dtype("utf-8") if row.dtype.kind == "O" else row.dtype
                shape = (self._ends[name][0], *row.shape)
                self._output.create_dataset(_values(name), shape, dtype)
        self._output.flush()
        for name in self._outputs:
            at = 0
            for block in self.blocks(name):
                self._output.write(_values(name), at, block)
                at += len(block)

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
        if self._directory.exists() or self._directory.is_symlink():
            shutil.rmtree(self._directory)

    def _open(self, flags: int) -> None:
        for name in self._outputs:
            path = self._path(name)
            self._files[name] = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o666)

    def _path(self, name: str) -> Path:
        # Not its name, which may be as long as that of a file can be.
        return self._directory / str(list(self._outputs).index(name))


def _offsets(name: str) -> str:
    return flat_paths(dataset_name(name))[0]


def _values(name: str) -> str:
    return flat_paths(dataset_name(name))[1]


def _item_bytes(row: VaryingOutput) -> int:
    return row.dtype.itemsize * int(np.prod(row.shape, dtype=np.int64))


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
