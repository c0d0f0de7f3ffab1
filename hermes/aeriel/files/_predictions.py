"""The HDF5 file that comes out: whole or not at all, and resumable until it is whole."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import h5py
import numpy as np
from numpy.typing import NDArray

from hermes._files import as_output_errors
from hermes.aeriel.files._checkpoint import check_layout
from hermes.aeriel.files._flat import FlatRows
from hermes.aeriel.files._output import dataset_name, output_name
from hermes.aeriel.files._varying import NONE_VARY, VaryingOutput
from hermes.aeriel.files._writer import OutputWriter, WriterOptions

# A write to HDF5 takes as long as a small request: they are gathered to this size.
WRITE_BYTES = 1 << 20


class PredictionWriter(OutputWriter):
    """Writes the predictions for one input file, in any order where no output is of varying length.

    Parameters
    ----------
    file, **common
        As for `OutputWriter`.
    varying
        The outputs of varying length. With any, rows are written in their order.

    Raises
    ------
    OutputError
        The directory cannot be written.
    """

    def __init__(
        self,
        file: Path,
        *,
        varying: Mapping[str, VaryingOutput] = NONE_VARY,
        **common: Unpack[WriterOptions],
    ) -> None:
        super().__init__(file, **common)
        self._varying = varying
        self._flat = FlatRows(self._output, varying, self._rows, self._values)
        self._begin()
        # Runs of rows that are there: the first row by the end, and the end by the first row.
        self._begins, self._ends = {self.rows_done: 0}, {0: self.rows_done}
        # Runs of rows that are yet to be written, by their end.
        self._gathered: dict[int, list[dict[str, NDArray[Any]]]] = {}
        self._gathered_bytes = 0

    def write(self, outputs: Mapping[str, NDArray[Any]], at: int) -> None:
        """Write rows: an array of shape ``(rows, *shape)`` by output name.

        Parameters
        ----------
        outputs
            The arrays; that of an output of varying length has the shape ``(rows, n, *shape)``.
        at
            The number of their first row. Rows that an earlier writer left are left as they are.

        Raises
        ------
        ValueError
            An output is of varying length, and rows before these are missing.
        OutputError
            They cannot be written: the disk is full, for one, or they are not like the rows
            before: other outputs, dtypes or shapes; or a value of these or earlier rows is not
            finite and has to be.
        """
        layout = {
            name: (array.dtype, array.shape[2 if name in self._varying else 1 :])
            for name, array in outputs.items()
        }
        self._layout = self._layout or layout
        check_layout(self.file, at, outputs, layout, self._layout)
        if at < self._resumed_at:
            return
        if self._varying and at != self.rows_done:
            raise ValueError(f"row {self.rows_done} comes next, not row {at}")
        end = at + len(next(iter(outputs.values())))
        run = self._gathered[end] = self._gathered.pop(at, [])
        # Copied: the caller's arrays may be memory that is used again.
        run.append({name: array.copy() for name, array in outputs.items()})
        self._gathered_bytes += sum(array.nbytes for array in outputs.values())
        self._join(at, end)
        with as_output_errors(self.file):
            if self._is_due():
                self._save()
            elif self._gathered_bytes >= WRITE_BYTES:
                self._write_gathered()

    def _complete(self, dataset_attributes: dict[str, Any]) -> dict[str, Any]:
        self._write_gathered()
        if self._varying:
            # First, as this may take long. A process that is killed meanwhile loses nothing.
            self._save()
            self._flat.finish()
        if dataset_attributes:
            for dataset in self._output.hdf5.values():
                self._output.write_attributes(dataset, dataset_attributes)
        return {}

    def _create(self) -> None:
        self._output.create()
        self._flat.create()

    def _resume(self, saved: Mapping[str, Any]) -> None:
        self._output.open()
        self._flat.resume(saved["rows_done"])
        self._layout = {
            **{
                output_name(name): (dataset.dtype, dataset.shape[1:])
                for name, dataset in self._datasets()
            },
            **{name: (row.dtype, row.shape) for name, row in self._varying.items()},
        }
        self._look_again(saved["rows_done"])

    def _look_again(self, rows_done: int) -> None:
        """Look at the rows that an earlier writer left, for the counts."""
        for name in self._varying:
            for block in self._values.blocks(name):
                self._not_finite.check(name, 0, block)
        for name, dataset in self._datasets():
            row_bytes = max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:])))
            step = max(1, WRITE_BYTES // row_bytes)
            for begin in range(0, rows_done, step):
                rows = dataset[begin : min(begin + step, rows_done)]
                self._not_finite.check(output_name(name), begin, rows)

    def _datasets(self) -> list[tuple[str, h5py.Dataset]]:
        """Return the datasets of the outputs with rows of one shape."""
        entries = self._output.hdf5.items()
        return [(name, entry) for name, entry in entries if isinstance(entry, h5py.Dataset)]

    def _join(self, begin: int, end: int) -> None:
        """Join rows with the runs before and behind them."""
        begin = self._begins.pop(begin, begin)
        end = self._ends.pop(end, end)
        self._begins[end], self._ends[begin] = begin, end
        self.rows_done = self._ends[0]

    def _write_gathered(self) -> None:
        for end, run in list(self._gathered.items()):
            for name in run[0]:
                if name in self._varying:
                    continue
                parts = [outputs[name] for outputs in run]
                array = parts[0] if len(parts) == 1 else np.concatenate(parts)
                # Not before: to look at every answer of one row takes longer than to write it.
                self._not_finite.check(name, end - len(array), array)
                dataset = dataset_name(name)
                if self._output.dataset(dataset) is None:
                    dtype = h5py.string_dtype("utf-8") if array.dtype.kind == "O" else array.dtype
                    self._output.create_dataset(dataset, (self._rows, *array.shape[1:]), dtype)
                self._output.write(dataset, end - len(array), array)
            if self._varying:
                n_rows = sum(len(next(iter(outputs.values()))) for outputs in run)
                for name, outputs in itertools.product(self._varying, run):
                    self._not_finite.check(name, end - n_rows, outputs[name])
                self._flat.write(end - n_rows, run)
            # Only now: a checkpoint counts what is no longer waiting.
            del self._gathered[end]
        self._gathered_bytes = 0

    def _save(self) -> None:
        self._write_gathered()
        super()._save()

    def _make_safe(self) -> dict[str, Any]:
        self._output.flush()
        return {}
