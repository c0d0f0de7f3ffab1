"""The HDF5 file that comes out where not every row is stored, or a hook says what is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from hermes._files import as_output_errors
from hermes.aeriel.files._checkpoint import INDEX, check_layout, layout_of
from hermes.aeriel.files._condition import Condition
from hermes.aeriel.files._hooks import Rows
from hermes.aeriel.files._output import dataset_name
from hermes.aeriel.files._writer import OutputWriter, WriterOptions

ROW, TIME = f"{INDEX}/row", f"{INDEX}/time"
# Attributes that give the time of a row by its place, which is wrong where rows are missing.
_OF_ALL_ROWS = ("start_time", "sample_rate")


class KeptWriter(OutputWriter):
    """Writes the outputs for one input file, block by block, or those of some of its rows.

    All that it writes lies in ``NAME.partial.values`` until the last block is there, because how
    many rows there will be is known then. Where the numbers of the rows are stored, ``start_time``
    and ``sample_rate`` are attributes of their group, not of the outputs.

    Parameters
    ----------
    file, **common
        As for `OutputWriter`.
    keep
        The condition that a row has to meet to be stored; None for all rows.

    Raises
    ------
    OutputError
        The directory cannot be written.
    """

    def __init__(
        self,
        file: Path,
        *,
        keep: Condition | None = None,
        **common: Unpack[WriterOptions],
    ) -> None:
        super().__init__(file, **common)
        self._n_kept = 0
        self._keep = keep
        self._begin()

    def write(
        self, outputs: Mapping[str, NDArray[Any]], block: range, rows: Rows | None = None
    ) -> None:
        """Write what there is of the next rows of the input.

        Parameters
        ----------
        outputs
            An array of shape ``(rows, *shape)`` by output name.
        block
            The rows of the input that are done with them.
        rows
            The rows that they are of, where those are stored as well: in the same blocks always,
            or never.

        Raises
        ------
        ParameterError
            The outputs have not what the condition is on.
        OutputError
            They cannot be written, are not like those before, or are not finite and have to be.
        """
        for name, array in outputs.items():
            self._not_finite.check(name, block.start, array)
        columns = dict(outputs)
        if rows is not None:
            columns.update(_index_of(rows))
        if self._keep is not None:
            met = self._keep.mask(outputs)
            columns = {name: array[met] for name, array in columns.items()}
        layout = layout_of(columns)
        with as_output_errors(self.file):
            if not self._layout:
                self._layout = layout
                self._values.create(layout)
            check_layout(self.file, block.start, columns, layout, self._layout)
            self._values.append(columns)
            self._n_kept += len(next(iter(columns.values())))
            self.rows_done = block.stop
            if self._is_due():
                self._save()

    def _complete(self, dataset_attributes: dict[str, Any]) -> dict[str, Any]:
        self._save()  # a process that is killed meanwhile loses nothing
        output = self._output.create()
        is_indexed = ROW in self._layout
        if is_indexed:
            of_index = {
                name: dataset_attributes.pop(name)
                for name in _OF_ALL_ROWS
                if name in dataset_attributes
            }
            output.hdf5.create_group(INDEX)
            output.write_attributes(output.hdf5[INDEX], of_index)
        paths = {name: name if name in (ROW, TIME) else dataset_name(name) for name in self._layout}
        self._values.put_into(output, paths)
        for name, path in paths.items():
            if name not in (ROW, TIME):
                output.write_attributes(output.hdf5[path], dataset_attributes)
        return {"rows_kept": self._n_kept} if is_indexed else {}

    def _create(self) -> None:
        self._values.remove()

    def _resume(self, saved: Mapping[str, Any]) -> None:
        layout = {
            name: (np.dtype(dtype), tuple(shape))
            for name, (dtype, shape) in saved["layout"].items()
        }
        self._values.resume(layout, dict.fromkeys(layout, saved["n_kept"]))
        self._layout, self._n_kept = layout, saved["n_kept"]
        self._not_finite.n_not_finite.update(saved["not_finite"])

    def _make_safe(self) -> dict[str, Any]:
        return {
            "n_kept": self._n_kept,
            "layout": {name: [dtype.str, shape] for name, (dtype, shape) in self._layout.items()},
            "not_finite": self._not_finite.n_not_finite,
        }


def _index_of(rows: Rows) -> dict[str, NDArray[Any]]:
    times = rows.times
    return {ROW: rows.numbers, **({} if times is None else {TIME: times})}
