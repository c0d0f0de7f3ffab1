"""Metrics of residuals: predicted numbers against true ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.aeriel.metrics._details import ErrorDetails
from hermes.aeriel.metrics._groups import GroupSums
from hermes.aeriel.metrics._pairs import (
    N_BINS,
    Floats,
    Integers,
    Metric,
    MetricOptions,
    Pair,
    Rows,
    difference,
)

# Sums of squares of larger numbers are not finite, and tell nothing.
LARGEST = 1e140
# As many are drawn one by one.
MAX_POINTS = 500


@dataclass(kw_only=True)
class RegressionTotals:
    """Sums over the rows that regression metrics are computed from."""

    # A row of targets, and by how much more the mean is: where a target is constant, it is exact.
    origin: npt.NDArray[Any]
    mean_shift: Floats
    residual_edges: Floats
    value_edges: Floats
    n_rows: int = 0
    squared: Floats
    squared_total: Floats
    total: float = 0.0
    absolute: float = 0.0
    max_absolute: float = 0.0
    residuals: Integers
    pairs: Integers
    points: tuple[list[float], list[float]] | None
    details: ErrorDetails
    metrics: tuple[str, ...]

    def add(self, start: int, predictions: npt.NDArray[Any], targets: npt.NDArray[Any]) -> None:
        """Add rows, of which the first has this index, shape (rows, outputs)."""
        residuals = difference(predictions, targets)
        deviations = difference(targets, self.origin) - self.mean_shift
        self.details.add(start, predictions, targets, residuals, deviations)
        self.n_rows += len(residuals)
        self.squared += (residuals**2).sum(axis=0)
        self.squared_total += (deviations**2).sum(axis=0)
        self.total += float(residuals.sum())
        self.absolute += float(np.abs(residuals).sum())
        self.max_absolute = max(self.max_absolute, float(np.abs(residuals).max()))
        self.residuals += np.histogram(residuals, self.residual_edges)[0]
        edges = self.value_edges
        pairs = np.histogram2d(targets.ravel(), predictions.ravel(), bins=(edges, edges))[0]
        self.pairs += pairs.astype(np.int64)
        if self.points is not None:
            self.points[0].extend(targets.ravel().tolist())
            self.points[1].extend(predictions.ravel().tolist())

    def mean(self, total: float) -> float:
        """Return the mean over rows and outputs of what sums to a total."""
        return total / (self.n_rows * self.squared.size)

    def rmse(self) -> float:
        """Return the root of the mean of squares, the mean over the outputs."""
        return float(np.sqrt(self.squared / self.n_rows).mean())

    def r2(self) -> float:
        """Return the coefficient of determination, the mean over the outputs."""
        # As scikit-learn does: a constant target is 1 when met exactly, else 0.
        constant = self.squared_total == 0
        ratio = self.squared / np.where(constant, 1, self.squared_total)
        return float(np.where(constant, self.squared == 0, 1 - ratio).mean())

    def parts(self) -> dict[str, Any]:
        """Return what goes into a `MetricsResult` besides scalars."""
        points = {}
        if self.points is not None:
            points["points"] = {"true": self.points[0], "predicted": self.points[1]}
        return {
            **self.details.parts(self.metrics),
            "curves": {
                "residual_histogram": {
                    "edges": self.residual_edges.tolist(),
                    "counts": self.residuals.tolist(),
                },
                "predicted_vs_true": {
                    "edges": self.value_edges.tolist(),
                    "counts": self.pairs.tolist(),
                    **points,
                },
            },
        }


def gather_residuals(pair: Pair, options: MetricOptions) -> RegressionTotals:
    """Return the totals that the metrics of a pair want.

    Raises
    ------
    DataError
        When the arrays differ in shape, hold NaN, infinity or a number above 1e140 in magnitude, or
        have too few rows for R2.
    """
    pair.check_same_shape()
    n_rows = pair.predictions.shape[0]
    if n_rows < 2 and any(metric.name == "r2" for metric in pair.metrics):
        raise pair.error(pair.targets, "r2 wants at least two rows, given 1")
    n_outputs = math.prod(pair.predictions.shape[1:])
    origin: npt.NDArray[Any] = np.zeros(n_outputs)
    shift = np.zeros(n_outputs)
    ranges = np.array([[np.inf, -np.inf]] * 3)
    for start, predictions, targets in pair.chunks():
        given = _outputs(pair, pair.predictions, predictions, start)
        wanted = _outputs(pair, pair.targets, targets, start)
        if start == 0:
            origin = wanted[0]
        shift += difference(wanted, origin).sum(axis=0)
        for index, values in enumerate((difference(given, wanted), given, wanted)):
            ranges[index, 0] = min(ranges[index, 0], values.min())
            ranges[index, 1] = max(ranges[index, 1], values.max())
    totals = RegressionTotals(
        origin=origin,
        mean_shift=shift / n_rows,
        residual_edges=_edges(*ranges[0]),
        value_edges=_edges(ranges[1:, 0].min(), ranges[1:, 1].max()),
        squared=np.zeros(n_outputs),
        squared_total=np.zeros(n_outputs),
        residuals=np.zeros(N_BINS, np.int64),
        pairs=np.zeros((N_BINS, N_BINS), np.int64),
        points=([], []) if n_rows * n_outputs <= MAX_POINTS else None,
        details=ErrorDetails(n_outputs=n_outputs, groups=GroupSums.of(options.offsets, n_rows)),
        metrics=tuple(metric.name for metric in pair.metrics),
    )
    for start, predictions, targets in pair.chunks():
        totals.add(
            start,
            _outputs(pair, pair.predictions, predictions, start),
            _outputs(pair, pair.targets, targets, start),
        )
    return totals


def _outputs(pair: Pair, array: Rows, chunk: npt.NDArray[Any], start: int) -> npt.NDArray[Any]:
    """Return a chunk with an axis of outputs; whole numbers stay what they are."""
    pair.check_finite(array, chunk, start)
    outputs: npt.NDArray[Any] = chunk.reshape(len(chunk), -1)
    if outputs.dtype.kind in "iu":
        return outputs
    outputs = outputs.astype(np.float64)
    large = np.abs(outputs) > LARGEST
    if large.any():
        row, column = np.argwhere(large)[0]
        problem = f"row {start + row} has the value {outputs[row, column]}"
        raise pair.error(array, f"{problem}, wanted at most {LARGEST} in magnitude")
    return outputs


def _edges(low: float, high: float) -> Floats:
    """Return the edges of bins from low to high, wide enough to tell apart."""
    scale = max(abs(low), abs(high))
    if high - low <= scale * 1e-9:
        margin = scale * 1e-6 or 0.5
        low, high = low - margin, high + margin
    return np.linspace(low, high, N_BINS + 1)


_VALUES: dict[str, Callable[[RegressionTotals], float]] = {
    "mse": lambda totals: totals.mean(float(totals.squared.sum())),
    "rmse": RegressionTotals.rmse,
    "mae": lambda totals: totals.mean(totals.absolute),
    "bias": lambda totals: totals.mean(totals.total),
    "r2": RegressionTotals.r2,
    "max_absolute_error": lambda totals: totals.max_absolute,
}
METRICS = tuple(
    Metric(
        name=name,
        kind="regression",
        needs="values",
        gather=gather_residuals,
        scalars={name: value},
    )
    for name, value in _VALUES.items()
)
