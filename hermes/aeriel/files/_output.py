"""HDF5 files that are written, on disks that may be full."""

# Over 300 lines: the file of an output, from its beginning to its end.
from __future__ import annotations

import errno
import functools
import math
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from hermes._files import Partial, as_output_errors
from hermes.aeriel.files._attributes import Attribute, read_text, write_attribute
from hermes.aeriel.files._publishing import Publisher
from hermes.errors import OutputError

FINGERPRINT = "fingerprint"
# What HDF5 writes besides data between two calls of `reserve`: object headers, names, B-trees.
MARGIN_BYTES = 1 << 16
# What a string takes besides its bytes: a header, and a multiple of 8.
STRING_BYTES = 24
STRINGS_AT_ONCE = 1024
_STRINGS = "%strings"
NO_ATTRIBUTES: Mapping[str, Attribute] = {}


class OutputFile:
    """An HDF5 file that gets its name when it is whole, and never meets a full disk.

    HDF5 may crash the process when the disk is full as a file is flushed or closed. So the space
    for everything is taken before HDF5 writes it.

    Parameters
    ----------
    target
        The file to write.
    keep
        Whether what an earlier process has left beside it is kept, for `open`.
    attributes
        Attributes of its root that the next files have as well: they are encoded once for all.

    Raises
    ------
    OutputError
        Another process is writing it, the directory cannot be written, or the disk is full.
    """

    def __init__(
        self,
        target: Path,
        *,
        keep: bool = False,
        attributes: Mapping[str, Attribute] = NO_ATTRIBUTES,
    ) -> None:
        self.target = target
        self._attributes = attributes
        self._has_attributes = False
        self._partial = Partial(target, keep=keep)
        self._opened: h5py.File | None = None
        self._datasets: dict[str, h5py.Dataset] = {}
        self._reserved = 0

    @property
    def hdf5(self) -> h5py.File:
        """The file beside the target, after `create` or `open`."""
        assert self._opened is not None  # noqa: S101 (for the type checker: there is an order)
        return self._opened

    @property
    def path(self) -> Path:
        """The file beside the target."""
        return self._partial.path

    def create(self) -> Self:
        """Begin with an empty file.

        Raises
        ------
        OutputError
            The disk is full.
        """
        self._close_hdf5()
        # Not by h5py.File(…, "w"): that opens the file before there is any space for it.
        typed = ((name, type(value), value) for name, value in self._attributes.items())
        self._partial.write(_empty_hdf5(*typed))
        self.open()
        self._has_attributes = True
        self.reserve(0, "a file")
        return self

    def open(self) -> None:
        """Go on with what was kept.

        Raises
        ------
        OSError, RuntimeError
            It is no HDF5 file, or damaged.
        """
        flags = h5py.h5f.ACC_RDWR
        self._opened = h5py.File(h5py.h5f.open(os.fsencode(self.path), flags, fapl=_access()))
        self._has_attributes = False
        self._reserved = 0

    def reserve(self, n_bytes: int, what: str) -> None:
        """Take the space for what is written next: `n_bytes` of data, and what HDF5 adds to them.

        Raises
        ------
        OutputError
            There is not enough; `what` is named.
        """
        end = self.hdf5.id.get_filesize() + n_bytes + MARGIN_BYTES
        if end <= self._reserved:
            return
        end += MARGIN_BYTES  # for the next calls, which mostly are for little
        with as_output_errors(self.target):
            try:
                self._partial.reserve(end)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                free = shutil.disk_usage(self.path.parent).free
                sizes = f"{what} needs {n_bytes / 1e9:.3g} GB, but {free / 1e9:.3g} GB are free"
                problem = f"the disk is full (no space left on device): {sizes}"
                raise OutputError(str(self.target), problem) from error
        self._reserved = end

    def create_dataset(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Make a dataset, with the space for all of its values.

        Raises
        ------
        OutputError
            There is not enough space.
        """
        if dtype.kind == "O":
            # What a string takes here is where it lies in the heap.
            self.reserve(16 * math.prod(shape), f"output {name!r}")
            self._datasets[name] = self.hdf5.create_dataset(name, shape, dtype=dtype)
            return
        self.reserve(math.prod(shape) * dtype.itemsize, f"output {name!r}")
        # Allocated at once and never filled: later writes change data, not the file's structure,
        # so a process killed between two checkpoints leaves a file that can be opened.
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple(shape)
        kind = h5py.h5t.py_create(dtype, logical=True)
        made = h5py.h5d.create(self.hdf5.id, name.encode(), kind, space, dcpl=layout)
        self._datasets[name] = h5py.Dataset(made)

    def dataset(self, name: str) -> Any:
        """Return the dataset of a name, or None; HDF5 looks for it once."""
        if name not in self._datasets and self.hdf5.id.links.exists(name.encode()):
            found = self.hdf5[name]
            if isinstance(found, h5py.Dataset):
                self._datasets[name] = found
        return self._datasets.get(name)

    def write(self, name: str, begin: int, rows: NDArray[Any]) -> None:
        """Write rows of a dataset.

        Raises
        ------
        OutputError
            There is not enough space for strings.
        """
        if rows.dtype.kind == "O":
            # Paths may have bytes that are not UTF-8, which h5py reads and does not write as str.
            rows = _as_bytes(rows)
            n_bytes = sum(len(value) + STRING_BYTES for value in rows.flat)
            if any(b"\0" in value for value in rows.flat):
                self.keep_bytes(name)
            # Strings lie in heaps, which may stay half empty.
            self.reserve(2 * n_bytes, f"output {name!r}")
        dataset = self.dataset(name)
        if rows.dtype.kind == "O" and not _is_bytes(dataset):
            dataset[begin : begin + len(rows)] = rows
            return
        # Not by h5py's assignment: it takes several empty ones of variable-length bytes for an
        # array without elements, and four times as long for a few rows.
        given = _as_integers(rows) if rows.dtype.kind == "O" else np.ascontiguousarray(rows)
        there = dataset.id.get_space()
        there.select_hyperslab((begin, *[0] * (rows.ndim - 1)), rows.shape)
        here = h5py.h5s.create_simple(rows.shape)
        kind = h5py.h5t.py_create(dataset.dtype if rows.dtype.kind == "O" else rows.dtype)
        dataset.id.write(here, there, given, kind)

    def keep_bytes(self, name: str) -> None:
        """Make strings variable-length bytes: HDF5's strings end at the first NUL.

        Raises
        ------
        OutputError
            There is not enough space.
        """
        strings = self.dataset(name)
        if _is_bytes(strings):
            return
        del self._datasets[name]
        self.hdf5.move(name, name + _STRINGS)
        self.create_dataset(name, strings.shape, h5py.vlen_dtype(np.uint8))
        for begin in range(0, len(strings), STRINGS_AT_ONCE):
            self.write(name, begin, strings[begin : begin + STRINGS_AT_ONCE])
        del self.hdf5[name + _STRINGS]

    def write_attributes(self, holder: Any, attributes: dict[str, Any]) -> None:
        """Write attributes of the file, or of something in it.

        Raises
        ------
        OutputError
            There is not enough space.
        """
        n_bytes = sum(
            len(name) + (len(value) if isinstance(value, str) else np.asarray(value).nbytes)
            for name, value in attributes.items()
        )
        self.reserve(2 * n_bytes, "what the file says of itself")
        for name, value in attributes.items():
            if h5py.h5a.exists(holder.id, name.encode()):
                holder.attrs[name] = value
            else:
                write_attribute(holder, name, value)

    def flush(self) -> None:
        """Make what was written safe from a loss of power."""
        self.hdf5.flush()
        self._partial.synchronise()

    def publish(
        self,
        fingerprint: str,
        publisher: Publisher | None = None,
        when_done: Callable[[], None] = lambda: None,
    ) -> None:
        """Close the file, and give it its name; `fingerprint_of` finds what it depends on.

        Parameters
        ----------
        fingerprint
            Stands for all that the file depends on.
        publisher
            What gives it its name; by default it has it when this returns.
        when_done
            Called when it has its name.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        more = {} if self._has_attributes else self._attributes
        self.write_attributes(self.hdf5, {**more, FINGERPRINT: fingerprint})
        self._close_hdf5()
        if publisher is not None:
            publisher.publish(self._partial.hand_over(), when_done)
            return
        self._partial.publish()
        when_done()

    def close(self) -> None:
        """Close the file, and leave it as it is."""
        try:
            self._close_hdf5()
        finally:
            self._partial.close()

    def discard(self) -> None:
        """Close the file, and remove it."""
        try:
            self._close_hdf5()
        finally:
            self._partial.discard()

    def _close_hdf5(self) -> None:
        if self._opened is not None:
            opened, self._opened = self._opened, None
            self._datasets.clear()
            opened.close()


def _is_bytes(dataset: h5py.Dataset) -> bool:
    return dataset.dtype.kind == "O" and h5py.check_string_dtype(dataset.dtype) is None


def _as_bytes(rows: NDArray[Any]) -> NDArray[Any]:
    encoded = np.empty(rows.shape, object)
    for index, value in np.ndenumerate(rows):
        is_text = isinstance(value, str)
        encoded[index] = value.encode(errors="surrogateescape") if is_text else bytes(value)
    return encoded


def _as_integers(rows: NDArray[Any]) -> NDArray[Any]:
    integers = np.empty(rows.shape, object)
    for index, value in np.ndenumerate(rows):
        integers[index] = np.frombuffer(value, np.uint8)
    return integers


def dataset_name(output: str) -> str:
    """Return the name of the dataset for an output: HDF5 takes a slash for a group.

    Examples
    --------
    >>> dataset_name("/fc/Gemm_output_0")
    '%2Ffc%2FGemm_output_0'
    """
    # A name that is a dot is the group itself.
    return "%2E" if output == "." else output.replace("%", "%25").replace("/", "%2F")


def output_name(dataset: str) -> str:
    """Return the output that a dataset is for; undoes `dataset_name`."""
    return dataset.replace("%2E", ".").replace("%2F", "/").replace("%25", "%")


def fingerprint_of(file: Path) -> str | None:
    """Return the fingerprint of a file that was published, or None where there is no whole one."""
    try:
        # Without an h5py.File, which takes as long again: every input and output is asked.
        with closing(h5py.h5f.open(os.fsencode(file), h5py.h5f.ACC_RDONLY)) as opened:
            name = FINGERPRINT.encode()
            return read_text(opened, name) if h5py.h5a.exists(opened, name) else None
    except (OSError, RuntimeError, KeyError):
        return None


@functools.cache
def _access() -> h5py.h5p.PropFAID:
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    # HDF5 would lock it as well, and find it locked.
    access.set_file_locking(False, True)
    # Small writes wait in a buffer else, and h5py drops what is said when that is written.
    access.set_sieve_buf_size(0)
    return access


# By type too: 1, 1.0 and True are equal.
@functools.lru_cache(maxsize=8)
def _empty_hdf5(*attributes: tuple[str, type, Attribute]) -> bytes:
    # Of two files of one name HDF5 takes the second, in another thread, for the first.
    name = secrets.token_hex(8)
    with h5py.File(name, "w", driver="core", backing_store=False) as opened:
        for attribute, _, value in attributes:
            write_attribute(opened, attribute, value)
        opened.flush()
        return bytes(opened.id.get_file_image())
