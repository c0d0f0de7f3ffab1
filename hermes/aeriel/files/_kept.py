"""The HDF5 file that comes out where not every row is stored, or a hook says what is."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hermes._files import as_output_errors
from hermes.aeriel.files._checkpoint import INDEX, Checkpoint, Layout, check_layout
from hermes.aeriel.files._condition import Condition
from hermes.aeriel.files._hooks import Rows
from hermes.aeriel.files._output import OutputFile, dataset_name
from hermes.aeriel.files._predictions import CHECKPOINT_S, INPUT_STAMP, as_attribute
from hermes.aeriel.files._publishing import Publisher
from hermes.aeriel.files._value_files import ValueFiles
from hermes.aeriel.files._values import OutputValues
from hermes.errors import OutputError

logger = logging.getLogger(__name__)

ROW, TIME = f"{INDEX}/row", f"{INDEX}/time"
# Attributes that give the time of a row by its place, which is wrong where rows are missing.
_OF_ALL_ROWS = ("start_time", "sample_rate")


class KeptWriter:
    """Writes the outputs for one input file, block by block, or those of some of its rows.

    What it writes lies in files of its own in ``NAME.partial.values`` until the last block is
    there, because how many rows there will be is known then. Otherwise it is as `PredictionWriter`.

    Parameters
    ----------
    file
        The file to write.
    rows
        How many rows the input has.
    fingerprint, input_stamp, finite
        As for `PredictionWriter`.
    keep
        The condition that a row has to meet to be stored; None for all rows.

    Attributes
    ----------
    rows_done
        How many rows of the input are done; the end of a block.

    Raises
    ------
    OutputError
        The directory cannot be written.
    """

    def __init__(
        self,
        file: Path,
        *,
        rows: int,
        fingerprint: str,
        input_stamp: str = "",
        finite: bool = False,
        keep: Condition | None = None,
    ) -> None:
        self.file = file
        self.rows_done = 0
        self._rows = rows
        self._n_kept = 0
        self._fingerprint = fingerprint
        self._input_stamp = input_stamp
        self._keep = keep
        self._not_finite = OutputValues(file=str(file), finite=finite)
        self._checkpoint = Checkpoint(file, fingerprint=fingerprint, input_stamp=input_stamp)
        # What a row of each output is, and of the index by its path; nothing before the first.
        self._layout: Layout = {}
        self._output = OutputFile(file, keep=True)
        self._values = ValueFiles(file.with_name(file.name + ".partial.values"))
        try:
            with as_output_errors(file):
                self._resume()
        except BaseException:
            with suppress(OSError):
                self._values.remove()
            self._output.discard()
            raise
        self._resumed_at = self.rows_done
        self._saved = time.monotonic()

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
                logger.warning("%s: no last checkpoint: %s", self._output.path, failure)
        self._values.close()
        try:
            self._output.close()
        except (OSError, RuntimeError):
            if error is None:
                raise

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
        layout = {name: (array.dtype, array.shape[1:]) for name, array in columns.items()}
        with as_output_errors(self.file):
            if not self._layout:
                self._layout = layout
                self._values.create(layout)
            check_layout(self.file, block.start, columns, layout, self._layout)
            self._values.append(columns)
            self._n_kept += len(next(iter(columns.values())))
            self.rows_done = block.stop
            if time.monotonic() - self._saved > CHECKPOINT_S:
                self._save()

    def finish(
        self,
        attributes: Mapping[str, Any],
        dataset_attributes: Mapping[str, Any] | None = None,
        publisher: Publisher | None = None,
    ) -> None:
        """Give the file its name, with these attributes at its root, and on each output.

        With a `publisher` it has its name, and is safe, when that has ended.

        Where the numbers of the rows are stored, ``start_time`` and ``sample_rate`` are attributes
        of their group, not of the outputs.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        if self.rows_done != self._rows:
            raise OutputError(str(self.file), f"has {self.rows_done} of {self._rows} rows")
        of_outputs, of_index = dict(dataset_attributes or {}), {}
        counts: dict[str, Any] = {}
        if ROW in self._layout:
            counts = {"rows_kept": self._n_kept}
            of_index = {name: of_outputs.pop(name) for name in _OF_ALL_ROWS if name in of_outputs}
        with as_output_errors(self.file):
            self._save()  # a process that is killed meanwhile loses nothing
            output = self._output.create()
            if ROW in self._layout:
                output.hdf5.create_group(INDEX)
                output.write_attributes(output.hdf5[INDEX], of_index)
            paths = {
                name: name if name in (ROW, TIME) else dataset_name(name) for name in self._layout
            }
            self._values.put_into(output, paths)
            for name, path in paths.items():
                if name not in (ROW, TIME):
                    output.write_attributes(output.hdf5[path], of_outputs)
            output.write_attributes(
                output.hdf5,
                {
                    **{name: as_attribute(value) for name, value in attributes.items()},
                    **counts,
                    "resumed_at_row": self._resumed_at,
                    INPUT_STAMP: self._input_stamp,
                    "not_finite_outputs": json.dumps(self._not_finite.n_not_finite),
                },
            )
            output.flush()
            self._values.remove()
            output.publish(self._fingerprint, publisher, self._checkpoint.remove)

    def _resume(self) -> None:
        """Go on with what an earlier writer left, or begin."""
        saved = self._checkpoint.read()
        if "layout" in saved:
            layout = {
                name: (np.dtype(dtype), tuple(shape))
                for name, (dtype, shape) in saved["layout"].items()
            }
            try:
                self._values.resume(layout, dict.fromkeys(layout, saved["n_kept"]))
            except OSError as error:
                logger.warning("%s cannot be resumed: %s", self._output.path, error)
            else:
                self.rows_done, self._n_kept = saved["rows_done"], saved["n_kept"]
                self._layout = layout
                self._not_finite.n_not_finite.update(saved["not_finite"])
                logger.info("%s: going on at row %d of %d", self.file, self.rows_done, self._rows)
                return
        self._checkpoint.remove()
        self._values.remove()

    def _save(self) -> None:
        """Make the rows so far safe, then say so."""
        self._saved = time.monotonic()
        if not self._layout or any(dtype.kind == "O" for dtype, _ in self._layout.values()):
            return  # where strings end is not known from their number
        self._values.synchronise()
        self._checkpoint.write(
            rows_done=self.rows_done,
            n_kept=self._n_kept,
            layout={name: [dtype.str, shape] for name, (dtype, shape) in self._layout.items()},
            not_finite=self._not_finite.n_not_finite,
        )


def _index_of(rows: Rows) -> dict[str, NDArray[Any]]:
    times = rows.times
    return {ROW: rows.numbers, **({} if times is None else {TIME: times})}
