"""What the writers of output files share: a file is whole or not at all, and goes on until then."""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Required, Self, TypedDict

import h5py

from hermes._files import as_output_errors
from hermes.aeriel.files._attributes import Attribute
from hermes.aeriel.files._checkpoint import Checkpoint, Layout
from hermes.aeriel.files._output import NO_ATTRIBUTES, OutputFile
from hermes.aeriel.files._publishing import Publisher
from hermes.aeriel.files._value_files import ValueFiles
from hermes.aeriel.files._values import OutputValues
from hermes.errors import OutputError

logger = logging.getLogger(__name__)

CHECKPOINT_S = 2.0
INPUT_STAMP = "input_stamp"


class WriterOptions(TypedDict, total=False):
    """What every writer takes; see `OutputWriter`."""

    rows: Required[int]
    fingerprint: Required[str]
    input_stamp: str
    finite: bool
    attributes: Mapping[str, Any]


class OutputWriter(ABC):
    """Writes the outputs for one input file.

    They go to ``NAME.partial``, and values whose number is known at the end to
    ``NAME.partial.values``. The file gets its own name when the last row is there. Every
    `CHECKPOINT_S` seconds ``NAME.partial.json`` says how many rows are safe on the disk; a writer
    that finds one with its own fingerprint goes on from there.

    A subclass calls `_begin` when it has what it needs.

    Parameters
    ----------
    file
        The file to write.
    rows
        How many rows the input has.
    fingerprint
        Stands for everything that the result depends on.
    input_stamp
        Stands for the input as it is now; a checkpoint of another one counts for nothing.
    finite
        Whether every value has to be finite.
    attributes
        Attributes of the root that the outputs of the next inputs have as well.

    Attributes
    ----------
    rows_done
        How many rows of the input, from the first one on, are done; where to go on.

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
        attributes: Mapping[str, Any] = NO_ATTRIBUTES,
    ) -> None:
        self.file = file
        self.rows_done = 0
        self._rows = rows
        self._fingerprint = fingerprint
        self._input_stamp = input_stamp
        self._not_finite = OutputValues(file=str(file), finite=finite)
        self._checkpoint = Checkpoint(file, fingerprint=fingerprint, input_stamp=input_stamp)
        # What a row of each output is: dtype and shape; nothing before the first.
        self._layout: Layout = {}
        self._output = OutputFile(file, keep=True, attributes=_as_attributes(attributes))
        self._values = ValueFiles(file.with_name(file.name + ".partial.values"))

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

    def finish(
        self,
        attributes: Mapping[str, Any],
        dataset_attributes: Mapping[str, Any] | None = None,
        publisher: Publisher | None = None,
    ) -> None:
        """Give the file its name, with these attributes at its root, and on each output.

        With a `publisher` it has its name, and is safe, when that has ended.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        if self.rows_done != self._rows:
            raise OutputError(str(self.file), f"has {self.rows_done} of {self._rows} rows")
        with as_output_errors(self.file):
            more = self._complete(dict(dataset_attributes or {}))
            self._output.write_attributes(
                self._output.hdf5,
                {
                    **_as_attributes(attributes),
                    **more,
                    "resumed_at_row": self._resumed_at,
                    INPUT_STAMP: self._input_stamp,
                    "not_finite_outputs": json.dumps(self._not_finite.n_not_finite),
                },
            )
            if self._values.names:  # they are needed until what was made of them is safe
                self._output.flush()
            self._values.remove()
            self._output.publish(self._fingerprint, publisher, self._checkpoint.remove)

    def _begin(self) -> None:
        """Go on where an earlier writer stopped, or begin anew."""
        try:
            with as_output_errors(self.file):
                saved = self._checkpoint.read()
                try:
                    if saved:
                        self._resume(saved)
                        self.rows_done = saved["rows_done"]
                except OutputError:  # a value that has to be finite
                    raise
                except (OSError, RuntimeError, KeyError) as error:
                    logger.warning("%s cannot be resumed: %s", self._output.path, error)
                    self._not_finite.n_not_finite.clear()
                if self.rows_done:
                    where = self.rows_done, self._rows
                    logger.info("%s: going on at row %d of %d", self.file, *where)
                else:
                    self._checkpoint.remove()
                    self._create()
        except BaseException:
            with suppress(OSError):
                self._values.remove()
            self._output.discard()
            raise
        self._resumed_at = self.rows_done
        self._saved = time.monotonic()

    def _is_due(self) -> bool:
        """Tell whether it is time for a checkpoint."""
        return time.monotonic() - self._saved > CHECKPOINT_S

    def _save(self) -> None:
        """Make the rows so far safe, then say so."""
        self._saved = time.monotonic()
        if self.rows_done == 0 or any(dtype.kind == "O" for dtype, _ in self._layout.values()):
            return  # where strings end is not known from their number
        facts = self._make_safe()
        self._values.synchronise()
        self._checkpoint.write(rows_done=self.rows_done, **facts)

    @abstractmethod
    def _create(self) -> None:
        """Begin with the first row."""

    @abstractmethod
    def _resume(self, saved: Mapping[str, Any]) -> None:
        """Go on after the rows that an earlier writer has made safe, by what it saved.

        Raises
        ------
        OutputError
            A value of theirs is not finite and has to be.
        OSError, RuntimeError, KeyError
            They are not there.
        """

    @abstractmethod
    def _make_safe(self) -> dict[str, Any]:
        """Make safe what is beside the values, and return what `_resume` is to know of it."""

    @abstractmethod
    def _complete(self, dataset_attributes: dict[str, Any]) -> dict[str, Any]:
        """Write what is left of the outputs, and return further attributes of the root."""


def stamp_in(file: Path, inputs: Sequence[Path]) -> str | None:
    """Return what stands for the inputs that a whole output was made of, by what it says itself.

    None where it was made of others.
    """
    if inputs_of(file) != tuple(inputs):
        return None
    with h5py.File(file, "r") as opened:
        return str(opened.attrs[INPUT_STAMP])


def inputs_of(file: Path) -> tuple[Path, ...]:
    """Return the files that a whole output was made of, as it says itself."""
    with h5py.File(file, "r") as opened:
        name = "input_file" if "input_file" in opened.attrs else "input_files"
        given = str(opened.attrs.get(name, "[]"))
        return tuple(map(Path, [given] if name == "input_file" else json.loads(given)))


def named(files: Sequence[Path]) -> dict[str, Any]:
    """Return attributes that name the files that were read: ``input_file``, or ``input_files``."""
    if len(files) == 1:
        return {"input_file": str(files[0])}
    return {"input_files": list(map(str, files))}


def _as_attributes(values: Mapping[str, Any]) -> dict[str, Attribute]:
    """Return values as attributes have them."""
    return {
        name: value if isinstance(value, str | int | float) else json.dumps(value, default=str)
        for name, value in values.items()
    }
