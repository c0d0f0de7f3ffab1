"""Two sets of predictions for the same rows: their metrics, the differences, the changed rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hermes.aeriel.metrics._bootstrap import (
    MIN_GROUPS,
    Resampling,
    interval_of,
    metric_replicates,
)
from hermes.aeriel.metrics._classes import Classes, columns_of, labels_of, scan_classes, softmax
from hermes.aeriel.metrics._classification import TOP_K_NAME
from hermes.aeriel.metrics._groups import WorstRows
from hermes.aeriel.metrics._metrics import METRICS, MetricsResult, find_metrics
from hermes.aeriel.metrics._pairs import Floats, Integers, Metric, Pair, Rows, difference
from hermes.aeriel.metrics._rank_bootstrap import rank_replicates
from hermes.aeriel.metrics._requirements import difference_name
from hermes.aeriel.metrics._scores import check_scores

Columns: TypeAlias = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A model's metrics beside those of a baseline, over the same rows.

    Attributes
    ----------
    metrics
        By name ``value``, ``baseline`` and ``difference``; and, where it can be resampled, ``low``
        and ``high``: the bootstrap interval of 95 % of the difference, with the same rows drawn for
        both.
    changed_rows
        The rows whose predictions changed most, by the score of the target, or the value: ``row``,
        ``target``, ``predicted``, ``baseline_predicted``, and ``score_of_target`` and
        ``baseline_score_of_target``, or ``output`` where there are several.
    n_newly_right, n_newly_wrong
        How many rows have the right class here and not in the baseline, and the reverse; None of
        numbers.
    curves
        The baseline's curves, as those of `MetricsResult`.
    """

    metrics: dict[str, dict[str, float]]
    changed_rows: list[dict[str, Any]] = field(default_factory=list)
    n_newly_right: int | None = None
    n_newly_wrong: int | None = None
    curves: dict[str, Any] = field(default_factory=dict)

    @property
    def scalars(self) -> dict[str, float]:
        """The differences, by the names that requirements have for them."""
        return {difference_name(name): found["difference"] for name, found in self.metrics.items()}


def compare_predictions(
    result: MetricsResult,
    baseline: MetricsResult,
    predictions: Rows,
    baseline_predictions: Rows,
    targets: Rows,
    *,
    scores: str = "auto",
) -> Comparison:
    """Return two models' metrics side by side, with intervals of the differences.

    The rows are resampled a thousand times, in runs of consecutive rows where there are more than
    a thousand, and both models are given the same resamples. The seed is fixed. Of a largest error
    there is no interval: resampling does not tell how it varies.

    Parameters
    ----------
    result, baseline
        What `compute_metrics` gave for each of the two, with the same metrics and offsets.
    predictions, baseline_predictions, targets
        What they were computed from.
    scores
        As for `compute_metrics`.

    Raises
    ------
    DataError
        For predictions or targets that a metric cannot be computed from.
    """
    names = [name for name in result.scalars if name in baseline.scalars]
    pairs = [
        Pair.checked(_metrics(names), each, targets) for each in (predictions, baseline_predictions)
    ]
    kinds = {metric.kind for metric in pairs[0].metrics}
    classes = (
        [scan_classes(pair, check_scores(scores)) for pair in pairs]
        if "classification" in kinds
        else []
    )
    intervals = _intervals(names, (result, baseline), pairs, classes)
    metrics = {
        name: {
            "value": result.scalars[name],
            "baseline": baseline.scalars[name],
            "difference": result.scalars[name] - baseline.scalars[name],
            **intervals.get(name, {}),
        }
        for name in names
    }
    changed = WorstRows()
    right = wrong = None
    if classes:
        right = wrong = 0
        for start, values, is_right, was_right in _class_rows(pairs, classes):
            right += int(np.count_nonzero(is_right & ~was_right))
            wrong += int(np.count_nonzero(was_right & ~is_right))
            changed.add(start, _class_change(values), _chosen(values))
    elif "regression" in kinds:
        for start, change, values in _number_rows(pairs):
            changed.add(start, change, _chosen(values))
    return Comparison(
        metrics=metrics,
        changed_rows=changed.to_list(),
        n_newly_right=right,
        n_newly_wrong=wrong,
        curves=baseline.curves,
    )


def _metrics(names: Sequence[str]) -> list[Metric]:
    # Not every scalar is a metric: one may have several.
    metrics = (name for name in names if name in METRICS or TOP_K_NAME.fullmatch(name))
    return find_metrics(list(metrics))


def _intervals(
    names: Sequence[str],
    results: Sequence[MetricsResult],
    pairs: Sequence[Pair],
    classes: Sequence[Classes],
) -> dict[str, dict[str, float]]:
    """Return the interval of the difference of each metric that can be resampled."""
    groups = [each.groups for each in results if each.groups is not None]
    if len(groups) < 2 or groups[0].n_groups < MIN_GROUPS:
        return {}
    resampling = Resampling(groups[0].n_groups)
    found: list[dict[str, Floats]] = [
        {
            name: values - result.scalars[name]
            for name in names
            if (values := metric_replicates(name, sums, resampling)) is not None
        }
        for result, sums in zip(results, groups, strict=True)
    ]
    for replicates, pair, each, sums in zip(found, pairs, classes, groups, strict=False):
        replicates.update(rank_replicates(names, pair, each, sums, resampling))
    intervals = {}
    for name in names:
        if all(name in replicates for replicates in found):
            shift = results[0].scalars[name] - results[1].scalars[name]
            low, high = interval_of(shift + found[0][name] - found[1][name])
            intervals[name] = {"low": low, "high": high}
    return intervals


def _class_rows(
    pairs: Sequence[Pair], classes: Sequence[Classes]
) -> Iterator[tuple[int, Columns, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
    """Yield the first row, what is shown of rows, and whether both models have them right."""
    both = [pair.with_chunks(min(each.chunk_rows for each in pairs)) for pair in pairs]
    for new, old in zip(both[0].chunks(), both[1].chunks(), strict=True):
        start = new[0]
        labels = labels_of(pairs[0], pairs[0].targets, new[2], start, None)
        predicted, score = _class_columns(pairs[0], classes[0], new[1], labels, start)
        was_predicted, old_score = _class_columns(pairs[1], classes[1], old[1], labels, start)
        values = {"target": labels, "predicted": predicted, "baseline_predicted": was_predicted}
        if score is not None and old_score is not None:
            values |= {"score_of_target": score, "baseline_score_of_target": old_score}
        yield start, values, predicted == labels, was_predicted == labels


def _class_columns(
    pair: Pair, classes: Classes, chunk: npt.NDArray[Any], labels: npt.NDArray[Any], start: int
) -> tuple[npt.NDArray[Any], Floats | None]:
    """Return the predicted class of rows, and the scores of their targets where there are any."""
    if classes.form == "labels":
        return labels_of(pair, pair.predictions, chunk, start, classes.n_classes), None
    scores = columns_of(chunk, classes.form)
    probabilities = softmax(scores) if classes.form == "logits" else scores
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return scores.argmax(axis=1), own


def _chosen(values: Columns) -> Callable[[Integers], Columns]:
    return lambda rows: {name: column[rows] for name, column in values.items()}


def _class_change(values: Mapping[str, npt.NDArray[Any]]) -> Floats:
    if "score_of_target" in values:
        change: Floats = np.abs(values["score_of_target"] - values["baseline_score_of_target"])
    else:
        change = (values["predicted"] != values["baseline_predicted"]).astype(np.float64)
    return change


def _number_rows(pairs: Sequence[Pair]) -> Iterator[tuple[int, Floats, Columns]]:
    """Yield the first row, by how much rows changed, and what is shown of them."""
    both = [pair.with_chunks(min(each.chunk_rows for each in pairs)) for pair in pairs]
    for new, old in zip(both[0].chunks(), both[1].chunks(), strict=True):
        given, was, wanted = (array.reshape(len(array), -1) for array in (new[1], old[1], new[2]))
        change = np.abs(difference(given, was))
        outputs = change.argmax(axis=1)
        at = np.arange(len(outputs)), outputs
        values = {
            "target": wanted[at],
            "predicted": given[at],
            "baseline_predicted": was[at],
        }
        yield new[0], change[at], {"output": outputs, **values} if change.shape[1] > 1 else values
