"""What metrics are made of: how one is declared, and the two arrays it is computed from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from hermes.errors import DataError

Kind: TypeAlias = Literal["classification", "regression", "reference"]
Scores: TypeAlias = Literal["auto", "probabilities", "logits"]
Needs: TypeAlias = Literal["labels", "scores", "all scores", "values"]
Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

CHUNK_ELEMENTS = 1 << 20
N_BINS = 50
# Every whole number up to here is a float64.
EXACT = 2**53


class Rows(Protocol):
    """What is asked of an array: a numpy array and an h5py dataset both have it."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, rows: slice, /) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric that can be asked for by name.

    Attributes
    ----------
    name
        The name it is asked for, and required, by.
    kind
        What the predictions and targets are taken for.
    needs
        What it is computed from. ``"all scores"`` sorts the scores of a class, up to 17 million of
        them in memory at once; the others hold one chunk of rows.
    gather
        Reads the rows and returns their totals. Metrics with the same function share one call.
    scalars
        How each of its scalars is computed from the totals, by name.
    """

    name: str
    kind: Kind
    needs: Needs
    gather: Callable[[Pair, MetricOptions], Totals]
    scalars: Mapping[str, Callable[[Any], float]]


@dataclass(frozen=True, kw_only=True)
class MetricOptions:
    """The options of `compute_metrics`, as `Metric.gather` takes them.

    Attributes
    ----------
    scores
        What the scores of classes are: ``"auto"``, ``"probabilities"`` or ``"logits"``.
    rtol, atol
        The tolerances of ``reference``.
    offsets
        The first row of each file, and the number of rows; empty where all are of one file.
    """

    scores: Scores = "auto"
    rtol: float = 1e-5
    atol: float = 1e-8
    offsets: tuple[int, ...] = ()


class Totals(Protocol):
    """What a metric's function gathers over the rows."""

    def parts(self) -> dict[str, Any]:
        """Return what goes into a `MetricsResult` besides scalars, by the name of the field."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Predictions and targets of as many rows, and the metrics they are read for."""

    predictions: Rows
    targets: Rows
    metrics: tuple[Metric, ...]
    chunk_rows: int

    @classmethod
    def checked(cls, metrics: Sequence[Metric], predictions: Rows, targets: Rows) -> Pair:
        """Return the pair; about a million numbers' worth of rows are read at a time.

        Raises
        ------
        DataError
            When they are no numbers, have no rows, or not equally many.
        """
        shapes = predictions.shape, targets.shape
        row_elements = max(math.prod(shape[1:]) for shape in shapes)
        pair = cls(
            predictions=predictions,
            targets=targets,
            metrics=tuple(metrics),
            chunk_rows=max(1, CHUNK_ELEMENTS // max(1, row_elements)),
        )
        for array in (predictions, targets):
            if array.dtype.kind not in "biuf":
                raise pair.error(array, f"given dtype {array.dtype}, wanted numbers")
            if not math.prod(array.shape) or not array.shape:
                raise pair.error(array, f"given shape {array.shape}, wanted at least one row")
        if shapes[0][0] != shapes[1][0]:
            raise pair.error(
                targets, f"given {shapes[1][0]} rows, wanted {shapes[0][0]}, one per prediction"
            )
        return pair

    def with_chunks(self, chunk_rows: int) -> Pair:
        """Return the same pair, of which so many rows are read at a time."""
        return replace(self, chunk_rows=chunk_rows)

    def chunks(self) -> Iterator[tuple[int, npt.NDArray[Any], npt.NDArray[Any]]]:
        """Yield the index of the first row, predictions, and targets, a chunk at a time."""
        for start in range(0, self.predictions.shape[0], self.chunk_rows):
            yield start, self._read(self.predictions, start), self._read(self.targets, start)

    def check_same_shape(self) -> None:
        """Raise DataError unless both have one shape, (rows,) and (rows, 1) being the same."""
        given, wanted = (
            shape[:1] if shape[1:] == (1,) else shape
            for shape in (self.predictions.shape, self.targets.shape)
        )
        if given != wanted:
            raise self.error(
                self.targets,
                f"given shape {self.targets.shape}, wanted that of the predictions, "
                f"{self.predictions.shape}",
            )

    def check_finite(self, array: Rows, chunk: npt.NDArray[Any], start: int) -> None:
        """Raise DataError for a NaN or infinity in a chunk of one of the two arrays."""
        if chunk.dtype.kind == "f" and not np.isfinite(chunk).all():
            row = start + int(np.argwhere(~np.isfinite(chunk))[0][0])
            raise self.error(array, f"row {row} has a NaN or infinite value, wanted numbers")

    def error(self, array: Rows, problem: str) -> DataError:
        """Return the error that says what is wrong with one of the two arrays."""
        # An h5py dataset says where it is from; an array only what it is for.
        file = getattr(array, "file", None)
        names = ", ".join(metric.name for metric in self.metrics)
        role = "the predictions" if array is self.predictions else "the targets"
        return DataError(
            file=role if file is None else str(file.filename),
            dataset=getattr(array, "name", None),
            problem=f"{names}: {problem}",
        )

    def _read(self, array: Rows, start: int) -> npt.NDArray[Any]:
        try:
            return np.asarray(array[slice(start, start + self.chunk_rows)])
        except OSError as error:
            raise self.error(array, f"cannot be read from row {start}: {error}") from error


def difference(given: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> Floats:
    """Return given minus wanted as float64, exact also for whole numbers that are none."""
    is_large = any(
        array.dtype.kind in "iu" and max(int(array.max()), -int(array.min())) > EXACT
        for array in (given, wanted)
        if array.dtype.itemsize == 8
    )
    dtype: Any = np.longdouble if is_large else np.float64
    result: Floats = (given.astype(dtype) - wanted.astype(dtype)).astype(np.float64)
    return result
