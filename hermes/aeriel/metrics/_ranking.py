"""How well the scores of each class rank the rows: ROC and average precision.

The numbers are those of scikit-learn, which takes three times as long and twice the memory: here
one sort of the scores gives both, and no array of every row is made after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.aeriel.metrics._classes import Classes, columns_of, labels_of, softmax
from hermes.aeriel.metrics._pairs import Floats, Integers, Pair
from hermes.aeriel.metrics._scores import Form

SCORES_AT_ONCE = 1 << 25
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


def gather_rankings(pair: Pair, classes: Classes) -> Rankings:
    """Return the ROC and the average precision of every class, a block of classes per pass.

    Raises
    ------
    DataError
        When the targets lack a class.
    """
    names = {metric.name for metric in pair.metrics}
    rankings = Rankings()
    for column, positive, score in ranked_columns(pair, classes):
        ranking = _rank(score[positive], score[~positive])
        if "average_precision" in names:
            rankings.precisions.append(ranking.precision)
        if "roc_auc" in names:
            rankings.areas.append(ranking.area)
        if len(rankings.roc) < MAX_CURVES:
            rankings.roc.append({"class": column, "auc": ranking.area, **ranking.curve()})
    return rankings


def ranked_columns(
    pair: Pair, classes: Classes
) -> Iterator[tuple[int, npt.NDArray[np.bool_], Floats]]:
    """Yield each class, whether a row is of it, and its scores; of two classes only class 1.

    The scores are in memory, those of a block of classes at a time, with a pass over the rows for
    each block.

    Raises
    ------
    DataError
        When the targets lack a class.
    """
    n_rows, n_classes = pair.predictions.shape[0], classes.n_classes
    columns = [1] if n_classes == 2 else list(range(n_classes))
    per_pass = max(1, SCORES_AT_ONCE // n_rows)
    for first in range(0, len(columns), per_pass):
        block = columns[first : first + per_pass]
        scores = np.empty((len(block), n_rows))
        labels = np.empty(n_rows, np.min_scalar_type(n_classes))
        for start, predictions, targets in pair.chunks():
            stop = start + len(predictions)
            labels[start:stop] = labels_of(pair, pair.targets, targets, start, n_classes)
            scores[:, start:stop] = _ranking(predictions, classes.form)[:, block].T
        if first == 0:
            _check_present(pair, labels, n_classes)
        for column, score in zip(block, scores, strict=True):
            yield column, labels == column, score


@dataclass(frozen=True, kw_only=True)
class _Ranking:
    """How positive rows rank among all: the area, the precision, and corners of the ROC.

    ``corners`` has the numbers of negative and of positive rows with a score above each, shape
    (2, corners).
    """

    area: float
    precision: float
    corners: Integers

    def curve(self) -> dict[str, list[float]]:
        """Return the ROC, without the corners that lie on a line with their neighbours."""
        corners = self.corners[:, np.r_[True, np.diff(self.corners).any(axis=0)]]
        steps = np.diff(corners)
        turns = steps[0, 1:] * steps[1, :-1] != steps[0, :-1] * steps[1, 1:]
        below, above = corners[:, np.r_[True, turns, True]] / corners[:, -1:]
        return {"false_positive_rate": below.tolist(), "true_positive_rate": above.tolist()}


def _rank(positive: Floats, negative: Floats) -> _Ranking:
    """Return how scores of rows of a class rank above those of the others; both are sorted.

    The area is that of the trapezoids under the ROC: pairs in the right order, ties by half. The
    average precision is the sum, over different scores, of the precision at each by the recall that
    it adds.
    """
    positive.sort()
    negative.sort()
    n_positive, n_negative = len(positive), len(negative)
    pairs, precision = 0, 0.0
    corners = [np.zeros((2, 1), np.int64)]
    stop = n_positive
    while stop:
        # A part of the scores, from the highest down, with all rows that have the lowest of them.
        start = int(np.searchsorted(positive, positive[max(0, stop - LEVELS_AT_ONCE)]))
        scores = positive[start:stop]
        first = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
        rows = np.diff(first, append=len(scores))
        lower = np.searchsorted(negative, scores[first])
        not_higher = np.searchsorted(negative, scores[first], side="right")
        pairs += int((rows * (lower + not_higher)).sum())
        right = n_positive - start - first
        precision += float((rows * (right / (right + n_negative - lower))).sum())
        # The ROC goes to the right up to each score, and upwards (or both, for equal ones) at it.
        sides = np.stack([n_negative - np.stack([lower, not_higher]), [right, right - rows]])
        corners.append(_thinned(sides.reshape(2, -1, order="F")[:, ::-1], n_negative, n_positive))
        stop = start
    corners.append(np.array([[n_negative], [n_positive]]))
    return _Ranking(
        area=pairs / (2 * n_positive * n_negative),
        precision=precision / n_positive,
        corners=np.concatenate(corners, axis=1),
    )


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


def _check_present(pair: Pair, labels: Integers, n_classes: int) -> None:
    absent = np.flatnonzero(np.bincount(labels, minlength=n_classes) == 0)
    if len(absent):
        listed = ", ".join(str(label) for label in absent[:10])
        more = ", …" if len(absent) > 10 else ""
        raise pair.error(
            pair.targets,
            f"no row of class {listed}{more}; the ranking metrics want rows of each of the "
            f"{n_classes} classes",
        )
