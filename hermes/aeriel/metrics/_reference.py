"""The metric ``reference``: whether predictions are the outputs that were expected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.aeriel.metrics._pairs import Metric, MetricOptions, Pair, difference


@dataclass(kw_only=True)
class ReferenceTotals:
    """What the comparison with expected outputs found."""

    rtol: float
    atol: float
    n_elements: int = 0
    n_disagreeing: int = 0
    max_absolute: float = 0.0
    max_relative: float = 0.0
    first: list[int] | None = None

    def add(self, start: int, predictions: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
        """Add rows, of which the first has this index."""
        # Compared as they are: integers above 2**53 would be equal as floats.
        equal = (predictions == expected) | (
            (predictions != predictions) & (expected != expected)  # noqa: PLR0124 (NaN is not)
        )
        wanted = expected.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            absolute = np.where(equal, 0, np.abs(difference(predictions, expected)))
            absolute[np.isnan(absolute)] = np.inf
            relative = np.where(equal | (wanted == 0), 0, absolute / np.abs(wanted))
            relative[np.isnan(relative)] = np.inf
            allowed = self.atol + self.rtol * np.abs(wanted)
            near = (absolute <= allowed) & (allowed > 0) & np.isfinite(wanted)
        disagree = ~(equal | near)
        self.n_elements += disagree.size
        self.n_disagreeing += int(np.count_nonzero(disagree))
        self.max_absolute = max(self.max_absolute, float(absolute.max()))
        self.max_relative = max(self.max_relative, float(relative.max()))
        if self.first is None and disagree.any():
            row, *rest = (int(index) for index in np.argwhere(disagree)[0])
            self.first = [start + row, *rest]

    @property
    def fraction_agreeing(self) -> float:
        """The part of the elements that agree."""
        return 1 - self.n_disagreeing / self.n_elements

    def parts(self) -> dict[str, Any]:
        """Return what goes into a `MetricsResult` besides scalars."""
        return {
            "reference": {
                "rtol": self.rtol,
                "atol": self.atol,
                "n_elements": self.n_elements,
                "n_disagreeing": self.n_disagreeing,
                "fraction_agreeing": self.fraction_agreeing,
                "max_absolute_difference": self.max_absolute,
                "max_relative_difference": self.max_relative,
                "first_disagreeing_index": self.first,
            }
        }


def gather_reference(pair: Pair, options: MetricOptions) -> ReferenceTotals:
    """Return what the comparison of a pair finds, within a relative and an absolute tolerance.

    Raises
    ------
    DataError
        When the arrays differ in shape.
    """
    pair.check_same_shape()
    totals = ReferenceTotals(rtol=options.rtol, atol=options.atol)
    for start, predictions, expected in pair.chunks():
        totals.add(start, predictions, expected.reshape(predictions.shape))
    return totals


_VALUES: dict[str, Callable[[ReferenceTotals], float]] = {
    "reference": lambda totals: totals.fraction_agreeing,
    "reference_n_elements": lambda totals: float(totals.n_elements),
    "reference_n_disagreeing": lambda totals: float(totals.n_disagreeing),
    "reference_max_absolute_difference": lambda totals: totals.max_absolute,
    "reference_max_relative_difference": lambda totals: totals.max_relative,
}
METRICS = (
    Metric(
        name="reference",
        kind="reference",
        needs="values",
        gather=gather_reference,
        scalars=_VALUES,
    ),
)
