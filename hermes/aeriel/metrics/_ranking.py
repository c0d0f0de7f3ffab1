"""How well the scores of each class rank the rows: ROC and average precision.

The numbers are those of scikit-learn, which takes three times as long and twice the memory: here
one sort of the scores gives both, and no array of every row is made after it. Of very many rows
the scores are sorted range by range, with a pass over the rows for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.aeriel.metrics._classes import Classes, columns_of, labels_of, softmax
from hermes.aeriel.metrics._pairs import Integers, Pair
from hermes.aeriel.metrics._scores import Form

# How many scores are in memory.
SCORES_AT_ONCE = 1 << 24
# Of how many rows the quantiles tell where ranges of scores begin.
SAMPLE_ROWS = 1 << 20
MAX_CURVE_POINTS = 500
MAX_CURVES = 20
# How many scores are looked at together.
LEVELS_AT_ONCE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Rankings:
    """Of each class the area under its ROC and its average precision; of the first ones the ROC."""

    areas: list[float] = field(default_factory=list)
    precisions: list[float] = field(default_factory=list)
    roc: list[dict[str, Any]] = field(default_factory=list)

    @property
    def n_classes(self) -> int:
        """How many classes were ranked."""
        return max(len(self.areas), len(self.precisions))


def gather_rankings(pair: Pair, classes: Classes, class_rows: Integers) -> Rankings:
    """Return the ROC and the average precision of every class, a block of classes per pass.

    Parameters
    ----------
    pair, classes
        The rows, and how their predictions are to be understood.
    class_rows
        How many rows there are of each class.

    Raises
    ------
    DataError
        When the targets lack a class.
    """
    _check_present(pair, class_rows)
    names = {metric.name for metric in pair.metrics}
    rankings = Rankings()
    n_rows = pair.predictions.shape[0]
    columns, per_pass = ranked_columns(classes), max(1, SCORES_AT_ONCE // n_rows)
    for first in range(0, len(columns), per_pass):
        block = columns[first : first + per_pass]
        found = [_Ranking(n_rows - int(class_rows[each]), int(class_rows[each])) for each in block]
        for low, high in _ranges(pair, classes, block):
            tallies = _tallies(pair, classes, block, low, high)
            for ranking, (positive, negative) in zip(found, tallies, strict=True):
                ranking.add(positive.levels(), negative.levels())
        for column, ranking in zip(block, found, strict=True):
            if "average_precision" in names:
                rankings.precisions.append(ranking.precision)
            if "roc_auc" in names:
                rankings.areas.append(ranking.area)
            if len(rankings.roc) < MAX_CURVES:
                rankings.roc.append({"class": column, "auc": ranking.area, **ranking.curve()})
    return rankings


def ranked_columns(classes: Classes) -> Sequence[int]:
    """Return the classes whose scores are ranked: of two only class 1."""
    return [1] if classes.n_classes == 2 else range(classes.n_classes)


def score_chunks(
    pair: Pair, classes: Classes, columns: Sequence[int]
) -> Iterator[tuple[int, Integers, npt.NDArray[Any]]]:
    """Yield the first row of a chunk, its labels, and its scores, a column for each class."""
    for start, predictions, targets in pair.chunks():
        labels = labels_of(pair, pair.targets, targets, start, classes.n_classes)
        yield start, labels, _ranking(predictions, classes.form)[:, columns]


def sample_scores(pair: Pair, classes: Classes, columns: Sequence[int]) -> npt.NDArray[Any]:
    """Return the scores of `SAMPLE_ROWS` rows or more, at even steps; of all where there are fewer.

    The shape is (rows, columns).
    """
    step = max(1, pair.predictions.shape[0] // SAMPLE_ROWS)
    chunks = score_chunks(pair, classes, columns)
    return np.concatenate([scores[-start % step :: step] for start, _, scores in chunks])


def _ranges(pair: Pair, classes: Classes, block: Sequence[int]) -> list[tuple[float, float]]:
    """Return ranges of the scores, the highest first, with as many rows as can be in memory."""
    n_ranges = -(-pair.predictions.shape[0] // SCORES_AT_ONCE)
    cuts = np.zeros(0)
    if n_ranges > 1:  # then a block is one class
        shares = np.arange(1, n_ranges) / n_ranges
        cuts = np.unique(np.quantile(sample_scores(pair, classes, block), shares, method="nearest"))
    return list(pairwise([-np.inf, *cuts, np.inf]))[::-1]


def _tallies(
    pair: Pair, classes: Classes, block: Sequence[int], low: float, high: float
) -> list[tuple[_Tally, _Tally]]:
    """Return the scores from `low` to below `high` of rows of each class, and of all others."""
    tallies = [(_Tally(), _Tally()) for _ in block]
    for _, labels, scores in score_chunks(pair, classes, block):
        for column, score, (positive, negative) in zip(block, scores.T, tallies, strict=True):
            is_inside = (score >= low) & (score < high)
            is_positive = labels == column
            positive.add(score[is_inside & is_positive])
            negative.add(score[is_inside & ~is_positive])
    return tallies


@dataclass(frozen=True, kw_only=True)
class _Levels:
    """Different scores in order, and how many rows have each."""

    scores: npt.NDArray[Any]
    rows: Integers

    def merged(self, other: _Levels) -> _Levels:
        """Return the levels of the rows of both."""
        scores = np.concatenate([self.scores, other.scores])
        order = scores.argsort(kind="stable")
        scores = scores[order]
        first = _first_of_each(scores)
        rows = np.concatenate([self.rows, other.rows])[order]
        return _Levels(scores=scores[first], rows=np.add.reduceat(rows, first))


class _Tally:
    """Scores of rows as they come, and the levels of them all."""

    def __init__(self) -> None:
        self._levels: _Levels | None = None
        self._new: list[npt.NDArray[Any]] = []
        self._n_new = 0

    def add(self, scores: npt.NDArray[Any]) -> None:
        """Add a row for each score."""
        self._new.append(scores)
        self._n_new += len(scores)
        if self._n_new > 2 * SCORES_AT_ONCE:  # very many rows have the same score
            self._levels = self.levels()
            self._new, self._n_new = [scores[:0]], 0

    def levels(self) -> _Levels:
        """Return the levels of all rows."""
        scores = np.concatenate(self._new)
        scores.sort()
        first = _first_of_each(scores)
        new = _Levels(scores=scores[first], rows=np.diff(first, append=len(scores)))
        return new if self._levels is None else self._levels.merged(new)


@dataclass
class _Ranking:
    """How the rows of a class rank among all others, added from the highest score down.

    Attributes
    ----------
    n_negative, n_positive
        How many rows there are, of other classes and of the class.
    """

    n_negative: int
    n_positive: int
    # Rows with a score above those that are added next.
    _negative: int = 0
    _positive: int = 0
    # Twice the pairs of a negative row above a positive one, and once those of equal scores.
    _wrong_pairs: int = 0
    _precisions: float = 0.0
    # The numbers of negative and of positive rows with a score above each, of shape (2, corners).
    _corners: list[Integers] = field(default_factory=lambda: [np.zeros((2, 1), np.int64)])

    def add(self, positive: _Levels, negative: _Levels) -> None:
        """Add rows of which each has a lower score than all that were added before."""
        below = np.append(0, negative.rows.cumsum())
        stop = len(positive.scores)
        while stop:
            start = max(0, stop - LEVELS_AT_ONCE)
            scores, rows = positive.scores[start:stop], positive.rows[start:stop]
            lower = below[np.searchsorted(negative.scores, scores)]
            not_higher = below[np.searchsorted(negative.scores, scores, side="right")]
            # Negative rows that are not below each score, and those above it.
            passed, above = self._negative + below[-1] - np.stack([lower, not_higher])
            right = self._positive + rows[::-1].cumsum()[::-1]
            self._wrong_pairs += int((rows * (passed + above)).sum())
            self._precisions += float((rows * (right / (right + passed))).sum())
            # The ROC goes right up to each score, and upwards (or both, for equal ones) at it.
            sides = np.stack([[passed, above], [right, right - rows]])
            sides = sides.reshape(2, -1, order="F")[:, ::-1]
            self._corners.append(_thinned(sides, self.n_negative, self.n_positive))
            self._positive = int(right[0])
            stop = start
        self._negative += int(below[-1])

    @property
    def area(self) -> float:
        """The area of the trapezoids under the ROC: pairs in the right order, ties by half."""
        pairs = 2 * self.n_positive * self.n_negative
        return (pairs - self._wrong_pairs) / pairs

    @property
    def precision(self) -> float:
        """The sum, over different scores, of the precision at each by the recall that it adds."""
        return self._precisions / self.n_positive

    def curve(self) -> dict[str, list[float]]:
        """Return the ROC, without the corners that lie on a line with their neighbours."""
        last = np.array([[self.n_negative], [self.n_positive]])
        corners = np.concatenate([*self._corners, last], axis=1)
        corners = corners[:, np.r_[True, np.diff(corners).any(axis=0)]]
        steps = np.diff(corners)
        turns = steps[0, 1:] * steps[1, :-1] != steps[0, :-1] * steps[1, 1:]
        below, above = corners[:, np.r_[True, turns, True]] / corners[:, -1:]
        return {"false_positive_rate": below.tolist(), "true_positive_rate": above.tolist()}


def _first_of_each(scores: npt.NDArray[Any]) -> Integers:
    """Return where each different one of sorted scores begins."""
    is_first = np.ones(len(scores), np.bool_)
    np.not_equal(scores[1:], scores[:-1], out=is_first[1:])
    return np.flatnonzero(is_first)


def _thinned(corners: Integers, n_negative: int, n_positive: int) -> Integers:
    """Return corners of the ROC at even steps along it, so that its shape is kept."""
    length = corners[0] / n_negative + corners[1] / n_positive
    if len(length) <= MAX_CURVE_POINTS:
        return corners
    steps = np.linspace(0, 2, MAX_CURVE_POINTS)
    steps = steps[(steps >= length[0]) & (steps <= length[-1])]
    return corners[:, np.unique(np.searchsorted(length, steps))]


def _ranking(chunk: npt.NDArray[Any], form: Form) -> npt.NDArray[Any]:
    """Return scores, one column per class, in the order of the probabilities."""
    scores = columns_of(chunk, form)
    if form == "probabilities":
        return scores
    if scores.shape[1] == 2:
        # The log-odds keep apart what softmax rounds to 1.
        odds = scores[:, 1].astype(np.float64) - scores[:, 0]
        return np.stack([-odds, odds], axis=1)
    return softmax(scores)


def _check_present(pair: Pair, class_rows: Integers) -> None:
    absent = np.flatnonzero(class_rows == 0)
    if len(absent):
        listed = ", ".join(str(label) for label in absent[:10])
        more = ", …" if len(absent) > 10 else ""
        raise pair.error(
            pair.targets,
            f"no row of class {listed}{more}; the ranking metrics want rows of each of the "
            f"{len(class_rows)} classes",
        )
