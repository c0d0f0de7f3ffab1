"""How well the scores of each class rank the rows: ROC and average precision, by scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.aeriel.metrics._classes import Classes, columns_of, labels_of, softmax
from hermes.aeriel.metrics._pairs import Floats, Integers, Pair
from hermes.aeriel.metrics._scores import Form
from hermes.errors import MissingExtraError

SCORES_AT_ONCE = 1 << 25
MAX_CURVE_POINTS = 500
MAX_CURVES = 20


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
    MissingExtraError
        When scikit-learn is not installed.
    """
    metrics = sklearn_metrics()
    names = {metric.name for metric in pair.metrics}
    rankings = Rankings()
    for column, positive, score in ranked_columns(pair, classes):
        if "average_precision" in names:
            value = float(metrics.average_precision_score(positive, score))
            rankings.precisions.append(value)
        false_rate, true_rate, _ = metrics.roc_curve(positive, score)
        area = float(metrics.auc(false_rate, true_rate))
        if "roc_auc" in names:
            rankings.areas.append(area)
        if len(rankings.roc) < MAX_CURVES:
            curve = _thinned(false_rate, true_rate)
            rankings.roc.append({"class": column, "auc": area, **curve})
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
        labels = np.empty(n_rows, np.int64)
        for start, predictions, targets in pair.chunks():
            stop = start + len(predictions)
            labels[start:stop] = labels_of(pair, pair.targets, targets, start, n_classes)
            scores[:, start:stop] = _ranking(predictions, classes.form)[:, block].T
        if first == 0:
            _check_present(pair, labels, n_classes)
        for column, score in zip(block, scores, strict=True):
            yield column, labels == column, score


def sklearn_metrics() -> Any:
    """Return the module that ranks.

    Raises
    ------
    MissingExtraError
        When scikit-learn is not installed.
    """
    try:
        import sklearn.metrics  # noqa: PLC0415 (an extra: only these metrics need it)
    except ImportError as error:
        raise MissingExtraError(package="scikit-learn", extra="report") from error
    return sklearn.metrics


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


def _thinned(false_rate: Floats, true_rate: Floats) -> dict[str, list[float]]:
    # Even steps along the curve keep its shape, the steep start included.
    length = false_rate + true_rate
    steps = np.linspace(0, length[-1], MAX_CURVE_POINTS)
    keep = np.arange(len(length))
    if len(length) > MAX_CURVE_POINTS:
        keep = np.unique(np.searchsorted(length, steps))
        keep[0], keep[-1] = 0, len(length) - 1
    return {
        "false_positive_rate": false_rate[keep].tolist(),
        "true_positive_rate": true_rate[keep].tolist(),
    }
