"""The HDF5 file that comes out: whole or not at all, and resumable until it is whole."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from hermes.errors import OutputError

logger = logging.getLogger(__name__)

CHECKPOINT_S = 2.0
# A write to HDF5 takes as long as a small request: they are gathered to this size.
WRITE_BYTES = 1 << 20
FINGERPRINT = "fingerprint"


class PredictionWriter:
    """Writes the predictions for one input file, in any order.

    They go to ``NAME.partial`` and get the file's own name when the last row is there. Every
    `CHECKPOINT_S` seconds ``NAME.partial.json`` says how many rows from the first one on are safe
    on the disk; a writer that finds one with its own fingerprint goes on from there.

    Parameters
    ----------
    file
        The file to write.
    rows
        How many rows there will be.
    fingerprint
        Stands for everything that the result depends on.

    Attributes
    ----------
    rows_done
        How many rows from the first one on are written; where to go on.

    Raises
    ------
    OutputError
        The directory cannot be written.
    """

    def __init__(self, file: Path, *, rows: int, fingerprint: str) -> None:
        self.file = file
        self.rows_done = 0
        self._rows = rows
        self._fingerprint = fingerprint
        self._partial = file.with_name(file.name + ".partial")
        self._checkpoint = file.with_name(file.name + ".partial.json")
        with as_output_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            self._opened = self._open()
        self._resumed_at = self.rows_done
        self._saved = time.monotonic()
        # Runs of rows that are there: the first row by the end, and the end by the first row.
        self._begins, self._ends = {self.rows_done: 0}, {0: self.rows_done}
        # Runs of rows that are yet to be written, by their end.
        self._gathered: dict[int, list[dict[str, NDArray[Any]]]] = {}
        self._gathered_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            try:
                self._save()
            except (OSError, RuntimeError) as failure:  # the earlier checkpoint stands
                logger.warning("%s: no last checkpoint: %s", self._partial, failure)
        try:
            self._opened.close()
        except (OSError, RuntimeError):
            if error is None:
                raise

    def write(self, outputs: Mapping[str, NDArray[Any]], at: int) -> None:
        """Write rows: an array of shape ``(rows, *shape)`` by output name.

        Parameters
        ----------
        outputs
            The arrays.
        at
            The number of their first row. Rows that an earlier writer left are left as they are.

        Raises
        ------
        OutputError
            They cannot be written; the disk is full, for one.
        """
        if at < self._resumed_at:
            return
        end = at + len(next(iter(outputs.values())))
        run = self._gathered[end] = self._gathered.pop(at, [])
        # Copied: the caller's arrays may be memory that is used again.
        run.append({name: array.copy() for name, array in outputs.items()})
        self._gathered_bytes += sum(array.nbytes for array in outputs.values())
        self._join(at, end)
        with as_output_errors(self.file):
            if time.monotonic() - self._saved > CHECKPOINT_S:
                self._save()
            elif self._gathered_bytes >= WRITE_BYTES:
                self._write_gathered()

    def finish(
        self, attributes: Mapping[str, Any], dataset_attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Give the file its name, with these attributes at its root, and on each dataset.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        if self.rows_done != self._rows:
            raise OutputError(str(self.file), f"has {self.rows_done} of {self._rows} rows")
        with as_output_errors(self.file):
            self._write_gathered()
            for name, value in attributes.items():
                self._opened.attrs[name] = _attribute(value)
            for dataset in self._opened.values():
                dataset.attrs.update(dataset_attributes or {})
            sign(self._opened, self._fingerprint)
            self._opened.attrs["resumed_at_row"] = self._resumed_at
            self._opened.close()
            _synchronise(self._partial)
            self._partial.replace(self.file)
            self._checkpoint.unlink(missing_ok=True)

    def _open(self) -> h5py.File:
        rows_done = self._rows_of_checkpoint()
        if rows_done:
            try:
                opened = h5py.File(self._partial, "r+")
            except OSError as error:
                logger.warning("%s cannot be resumed: %s", self._partial, error)
            else:
                logger.info("%s: going on at row %d of %d", self.file, rows_done, self._rows)
                self.rows_done = rows_done
                return opened
        self._checkpoint.unlink(missing_ok=True)
        return h5py.File(self._partial, "w")

    def _rows_of_checkpoint(self) -> int:
        try:
            saved = json.loads(self._checkpoint.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return 0
        return int(saved["rows_done"]) if saved[FINGERPRINT] == self._fingerprint else 0

    def _create(self, name: str, array: NDArray[Any]) -> None:
        shape = (self._rows, *array.shape[1:])
        if array.dtype.kind == "O":
            self._opened.create_dataset(name, shape, dtype=h5py.string_dtype("utf-8"))
            return
        needed = int(np.prod(shape)) * array.dtype.itemsize
        free = shutil.disk_usage(self.file.parent).free
        if needed > free:
            problem = (
                f"output {name!r} needs {needed / 1e9:.3g} GB, but {free / 1e9:.3g} GB are free"
            )
            raise OutputError(str(self.file), problem)
        # Allocated at once and never filled: later writes change data, not the file's structure,
        # so a process killed between two checkpoints leaves a file that can be opened.
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple(shape)
        kind = h5py.h5t.py_create(array.dtype, logical=True)
        h5py.h5d.create(self._opened.id, name.encode(), kind, space, dcpl=layout)

    def _join(self, begin: int, end: int) -> None:
        """Join rows with the runs before and behind them."""
        begin = self._begins.pop(begin, begin)
        end = self._ends.pop(end, end)
        self._begins[end], self._ends[begin] = begin, end
        self.rows_done = self._ends[0]

    def _write_gathered(self) -> None:
        gathered, self._gathered = self._gathered, {}
        self._gathered_bytes = 0
        for end, run in gathered.items():
            for name in run[0]:
                parts = [outputs[name] for outputs in run]
                array = parts[0] if len(parts) == 1 else np.concatenate(parts)
                if name not in self._opened:
                    self._create(name, array)
                self._opened[name][end - len(array) : end] = array

    def _save(self) -> None:
        """Make the rows so far safe, then say so."""
        self._saved = time.monotonic()
        self._write_gathered()
        if self.rows_done == 0 or any(
            dataset.dtype.kind == "O" for dataset in self._opened.values()
        ):
            return  # strings live outside their dataset, and every one changes the structure
        self._opened.flush()
        _synchronise(self._partial)
        write_whole(
            self._checkpoint,
            json.dumps({"rows_done": self.rows_done, FINGERPRINT: self._fingerprint}),
        )


def fingerprint_of(file: Path) -> str | None:
    """Return the fingerprint of a file of predictions, or None where there is no whole one."""
    try:
        with h5py.File(file, "r") as opened:
            fingerprint = opened.attrs.get(FINGERPRINT)
    except OSError:
        return None
    return None if fingerprint is None else str(fingerprint)


def sign(opened: h5py.File, fingerprint: str) -> None:
    """Write a fingerprint into a file, for `fingerprint_of`."""
    opened.attrs[FINGERPRINT] = fingerprint


def write_whole(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    with as_output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


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


def _attribute(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else json.dumps(value, default=str)


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
