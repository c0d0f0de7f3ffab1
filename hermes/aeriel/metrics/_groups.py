"""Sums of what each row adds to the metrics, over groups of consecutive rows, and intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hermes.aeriel.metrics._pairs import Floats, Integers

# Its low and its high end.
Interval: TypeAlias = list[float]

# Rows beyond as many are taken together in runs; resampling runs costs the same for any file.
MAX_RUNS = 1000
# Of sums with a number for each output, in all.
MAX_SUMS = 1 << 22
# The quantile of the standard normal distribution for a two-sided interval of 95 %.
Z = 1.959963984540054


@dataclass
class GroupSums:
    """Sums of values of rows, and of their squares, over groups of consecutive rows.

    Attributes
    ----------
    offsets
        The first row of each file, and the number of rows, shape (files + 1,).
    bounds
        The first row of each group, and the number of rows, shape (groups + 1,). No group has
        rows of two files; there are about `MAX_RUNS` groups, or one for each row or each file.
    sums, squares
        By the name of a value: sums, shape (groups,) or (groups, outputs).
    """

    offsets: Integers
    bounds: Integers = field(init=False)
    sums: dict[str, Floats] = field(default_factory=dict)
    squares: dict[str, Floats] = field(default_factory=dict)

    @classmethod
    def of(cls, offsets: Sequence[int], n_rows: int) -> GroupSums:
        """Return no sums yet, over files with these offsets; over one file where none are given."""
        return cls(np.asarray(offsets or (0, n_rows), np.int64))

    def __post_init__(self) -> None:
        n_rows = int(self.offsets[-1])
        runs = np.linspace(0, n_rows, min(n_rows, MAX_RUNS) + 1).astype(np.int64)
        self.bounds = np.union1d(runs, self.offsets)

    @property
    def n_groups(self) -> int:
        """How many groups there are."""
        return len(self.bounds) - 1

    def add(self, start: int, values: Mapping[str, npt.NDArray[Any]]) -> None:
        """Add values of rows, of which the first has this index, shape (rows,) or (rows, outputs).

        Squares are summed of those with one number a row, which is not a truth value.
        """
        for name, value in values.items():
            first = int(np.searchsorted(self.bounds, start, "right")) - 1
            last = int(np.searchsorted(self.bounds, start + len(value), "left"))
            cuts = np.maximum(self.bounds[first:last] - start, 0)
            shape = self.n_groups, *value.shape[1:]
            numbers = value.astype(np.float64, copy=False)
            into = self.sums.setdefault(name, np.zeros(shape))
            into[first:last] += np.add.reduceat(numbers, cuts, axis=0)
            if value.ndim == 1 and value.dtype != np.bool_:
                into = self.squares.setdefault(name, np.zeros(shape))
                with np.errstate(over="ignore"):  # a mean without an interval
                    into[first:last] += np.add.reduceat(numbers * numbers, cuts)

    def include(self, others: GroupSums) -> None:
        """Take over the sums of other values over the same groups."""
        self.sums |= others.sums
        self.squares |= others.squares

    def of_files(self, sums: Floats) -> list[Any]:
        """Return sums over groups as one for each file."""
        groups = np.searchsorted(self.bounds, self.offsets).tolist()
        return [sums[first:last].sum(axis=0) for first, last in pairwise(groups)]

    def file_means(self, name: str) -> list[dict[str, float] | None]:
        """Return mean and interval of a value in each file; None for a file without rows."""
        return [
            mean_with_interval(float(total), float(squares), int(n_rows)) if n_rows else None
            for total, squares, n_rows in zip(
                self.of_files(self.sums[name]),
                self.of_files(self.squares[name]),
                np.diff(self.offsets),
                strict=True,
            )
        ]


def mean_with_interval(total: float, squares: float, n_rows: int) -> dict[str, float]:
    """Return ``value``, ``low`` and ``high``: a mean and its normal interval of 95 %.

    Rows are taken as independent. One row has no interval, and neither have numbers whose squares
    are too large for a float: the ends are NaN.
    """
    mean = total / n_rows
    if n_rows < 2 or not math.isfinite(squares):
        return {"value": mean, "low": math.nan, "high": math.nan}
    variance = max(0.0, squares - total * mean) / (n_rows - 1)
    margin = Z * float(np.sqrt(variance / n_rows))
    return {"value": mean, "low": mean - margin, "high": mean + margin}


def share_with_interval(count: float, n_rows: float) -> dict[str, float]:
    """Return ``value``, ``low`` and ``high``: a proportion and its Wilson interval of 95 %.

    Wilson, E. B. (1927), J. Am. Stat. Assoc. 22, 209. Of no rows all three are NaN.
    """
    if not n_rows:
        return dict.fromkeys(("value", "low", "high"), math.nan)
    share = count / n_rows
    scale = 1 / (1 + Z**2 / n_rows)
    centre = scale * (share + Z**2 / (2 * n_rows))
    margin = scale * Z * float(np.sqrt(share * (1 - share) / n_rows + (Z / (2 * n_rows)) ** 2))
    # Rounding may leave 0 and 1 by a hair.
    return {
        "value": share,
        "low": max(0.0, min(share, centre - margin)),
        "high": min(1.0, max(share, centre + margin)),
    }


@dataclass
class WorstRows:
    """The rows with the highest losses, of which a bounded number is kept.

    Of equal losses those of the first rows are kept, whatever the size of the chunks.
    """

    n_kept: int = 20
    _losses: Floats = field(default_factory=lambda: np.empty(0))
    _rows: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    _facts: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def add(
        self,
        start: int,
        losses: Floats,
        facts_of: Callable[[Integers], Mapping[str, npt.NDArray[Any]]],
    ) -> None:
        """Add rows, of which the first has this index; a loss of 0 or less never counts.

        `facts_of` returns what is kept of some of these rows, which it is given by their place.
        """
        least = self._losses[-1] if len(self._losses) == self.n_kept else 0.0
        chosen = np.flatnonzero(losses > least)
        if len(chosen) > self.n_kept:
            there = losses[chosen]
            threshold = np.partition(there, len(there) - self.n_kept)[len(there) - self.n_kept]
            above, equal = chosen[there > threshold], chosen[there == threshold]
            chosen = np.concatenate([above, equal[: self.n_kept - len(above)]])
        rows = np.concatenate([self._rows, start + chosen])
        all_losses = np.concatenate([self._losses, losses[chosen]])
        order = np.lexsort((rows, -all_losses))[: self.n_kept]
        self._rows, self._losses = rows[order], all_losses[order]
        for name, values in facts_of(chosen).items():
            before = self._facts.get(name, values[:0])
            self._facts[name] = np.concatenate([before, values])[order]

    def to_list(self) -> list[dict[str, Any]]:
        """Return a dict for each row, the worst first: ``row``, its index, and the facts."""
        columns = {"row": self._rows, **self._facts}
        return [
            dict(zip(columns, values, strict=True))
            for values in zip(*(column.tolist() for column in columns.values()), strict=True)
        ]
