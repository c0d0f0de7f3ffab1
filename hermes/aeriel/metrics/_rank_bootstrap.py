"""Replicates of the ranking metrics, from histograms of the scores over groups of rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.aeriel.metrics._bootstrap import Resampling
from hermes.aeriel.metrics._classes import Classes
from hermes.aeriel.metrics._groups import GroupSums
from hermes.aeriel.metrics._pairs import Floats, Pair
from hermes.aeriel.metrics._ranking import ranked_columns, sample_scores, score_chunks

# As many different scores are told apart, and all of them where there are no more.
N_LEVELS = 1024
# Of more classes the histograms take too long.
MAX_CLASSES = 100
# Of how many classes the histograms are in memory.
COLUMNS_AT_ONCE = 8
NAMES = ("roc_auc", "average_precision")


def rank_replicates(
    names: Collection[str], pair: Pair, classes: Classes, groups: GroupSums, resampling: Resampling
) -> dict[str, Floats]:
    """Return each ranking metric of each replicate less that of all rows, by name.

    The scores are taken together in at most `N_LEVELS` levels with about as many rows each, which
    shifts a metric alike in every replicate; hence the differences. A replicate that lacks a class
    is NaN. There is nothing for more than `MAX_CLASSES` classes.

    Parameters
    ----------
    names
        Those of `NAMES` that are wanted.
    pair, classes
        The rows, and how their predictions are to be understood.
    groups, resampling
        The groups of rows, and those that each replicate draws.
    """
    wanted = [name for name in NAMES if name in names]
    if not wanted or classes.n_classes > MAX_CLASSES:
        return {}
    found: dict[str, list[Floats]] = {name: [] for name in wanted}
    columns = ranked_columns(classes)
    for first in range(0, len(columns), COLUMNS_AT_ONCE):
        block = columns[first : first + COLUMNS_AT_ONCE]
        for positive, negative in _histograms(pair, classes, block, groups):
            # Of all rows first, then of each replicate; from the highest level down.
            above, below = (
                _resampled(counts, resampling)[:, ::-1] for counts in (positive, negative)
            )
            with np.errstate(invalid="ignore"):
                if "roc_auc" in found:
                    found["roc_auc"].append(_areas(above, below))
                if "average_precision" in found:
                    found["average_precision"].append(_precisions(above, below))
    means = {name: np.mean(columns, axis=0) for name, columns in found.items()}
    return {name: values[1:] - values[0] for name, values in means.items()}


def _histograms(
    pair: Pair, classes: Classes, block: Sequence[int], groups: GroupSums
) -> npt.NDArray[np.int64]:
    """Return how many rows have each level of a class's score, of the class and of all others.

    The shape is (classes, 2, groups, levels).
    """
    levels = [_levels(scores) for scores in sample_scores(pair, classes, block).T]
    size = groups.n_groups * N_LEVELS
    counts = np.zeros((len(block), 2, size), np.int64)
    for start, labels, scores in score_chunks(pair, classes, block):
        rows = np.arange(start, start + len(labels))
        group = np.searchsorted(groups.bounds, rows, side="right") - 1
        for column, edges, score, count in zip(block, levels, scores.T, counts, strict=True):
            # The highest score may not be in the sample.
            level = np.minimum(np.searchsorted(edges, score), len(edges) - 1)
            cells = group * N_LEVELS + level
            is_positive = labels == column
            count[0] += np.bincount(cells[is_positive], minlength=size)
            count[1] += np.bincount(cells[~is_positive], minlength=size)
    return counts.reshape(len(block), 2, groups.n_groups, N_LEVELS)


def _levels(scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
    distinct = np.unique(scores)
    if len(distinct) > N_LEVELS:
        shares = np.linspace(0, 1, N_LEVELS)
        distinct = np.unique(np.quantile(scores, shares, method="higher"))
    return distinct


def _resampled(counts: npt.NDArray[np.int64], resampling: Resampling) -> npt.NDArray[np.float64]:
    # Counts of rows are whole numbers: float32 has them up to 2**24, which no cell comes near.
    drawn = resampling.weights @ counts.astype(np.float32)
    return np.concatenate([counts.sum(axis=0, keepdims=True), drawn]).astype(np.float64)


def _areas(above: Floats, below: Floats) -> Floats:
    """Return the area under the ROC: pairs in the right order, ties by half."""
    higher = np.cumsum(above, axis=1) - above / 2
    pairs = above.sum(axis=1) * below.sum(axis=1)
    result: Floats = (below * higher).sum(axis=1) / pairs
    return result


def _precisions(above: Floats, below: Floats) -> Floats:
    """Return the average precision: the precision at each level, by the recall that it adds."""
    right = np.cumsum(above, axis=1)
    taken = right + np.cumsum(below, axis=1)
    precision = np.divide(right, taken, out=np.zeros_like(right), where=taken > 0)
    result: Floats = (above * precision).sum(axis=1) / above.sum(axis=1)
    return result
