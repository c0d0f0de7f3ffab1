"""Metrics of classes: labels or scores against the labels that are right."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.aeriel.metrics._classes import Classes, columns_of, labels_of, scan_classes, softmax
from hermes.aeriel.metrics._details import ClassDetails, precision_recall
from hermes.aeriel.metrics._groups import GroupSums
from hermes.aeriel.metrics._pairs import N_BINS, Integers, Metric, MetricOptions, Needs, Pair
from hermes.aeriel.metrics._ranking import Rankings, gather_rankings
from hermes.aeriel.metrics._scores import precision
from hermes.errors import ParameterError

MAX_CONFUSION_CLASSES = 1000
TOP_K_NAME = re.compile(r"top_([1-9][0-9]*)_accuracy")


@dataclass(kw_only=True)
class ClassTotals:
    """Sums over the rows that classification metrics are computed from."""

    classes: Classes
    n_rows: int = 0
    n_correct: int = 0
    class_rows: Integers
    ranks: Integers
    log_loss: float = 0.0
    confusion: Integers | None
    histograms: Integers
    details: ClassDetails
    metrics: tuple[str, ...]
    rankings: Rankings = field(default_factory=Rankings)

    def add_labels(self, start: int, predicted: Integers, labels: Integers) -> None:
        """Add rows, of which the first has this index, with a label each."""
        self._count(predicted, labels)
        self.details.add_labels(start, predicted, labels)

    def _count(self, predicted: Integers, labels: Integers) -> None:
        self.n_rows += len(labels)
        self.n_correct += int(np.count_nonzero(predicted == labels))
        if self.confusion is not None:
            n_classes = self.classes.n_classes
            pairs = np.bincount(labels * n_classes + predicted, minlength=n_classes**2)
            self.confusion += pairs.reshape(n_classes, n_classes)

    def add_scores(self, start: int, chunk: npt.NDArray[Any], labels: Integers) -> None:
        """Add rows with probabilities or logits, a column per class or that of class 1."""
        form, n_classes = self.classes.form, self.classes.n_classes
        scores = columns_of(chunk, form)
        predicted = scores.argmax(axis=1)
        self._count(predicted, labels)
        self.class_rows += np.bincount(labels, minlength=n_classes)
        in_top = {}
        if self.ranks.size:
            own = np.take_along_axis(scores, labels[:, None], axis=1)
            # As scikit-learn does: of equal scores of several classes the higher class is first.
            classes, label = np.arange(n_classes), labels[:, None]
            ahead = classes < label if n_classes == 2 else classes > label
            rank = np.count_nonzero((scores > own) | ((scores == own) & ahead), axis=1)
            self.ranks += np.bincount(rank, minlength=n_classes)
            matches = (TOP_K_NAME.fullmatch(name) for name in self.metrics)
            in_top = {match[0]: rank < int(match[1]) for match in matches if match}
        probabilities = softmax(scores) if form == "logits" else scores
        rows = np.arange(len(labels))
        # As scikit-learn does: no probability is nearer to 0 or 1 than the dtype's precision.
        eps = precision(probabilities.dtype if form == "logits" else chunk.dtype)
        true = np.clip(probabilities[rows, labels].astype(np.float64), eps, 1 - eps)
        losses = -np.log(true)
        self.log_loss += float(losses.sum())
        # Two classes: by target, the score of class 1. More: right and wrong, the highest score.
        group = labels if n_classes == 2 else (predicted != labels).astype(np.int64)
        shown = probabilities[:, 1] if n_classes == 2 else probabilities[rows, predicted]
        shown = shown.astype(np.float64)
        bins = np.minimum((shown * N_BINS).astype(np.int64), N_BINS - 1)
        self.histograms += np.bincount(group * N_BINS + bins, minlength=2 * N_BINS).reshape(2, -1)
        self.details.add_scores(
            start,
            predicted=predicted,
            labels=labels,
            probabilities=probabilities,
            shown=shown,
            losses=losses,
            in_top=in_top,
        )

    def parts(self) -> dict[str, Any]:
        """Return what goes into a `MetricsResult` besides scalars."""
        parts: dict[str, Any] = {"notes": [], **self.details.parts(self.metrics)}
        if self.classes.note:
            parts["notes"].append(self.classes.note)
        if self.confusion is not None:
            parts["confusion_matrix"] = self.confusion.tolist()
        if self.classes.form != "labels":
            binary = self.classes.n_classes == 2
            first, second = ("class 0", "class 1") if binary else ("correct", "incorrect")
            parts["curves"]["score_histogram"] = {
                "label": "score of class 1" if binary else "score of the predicted class",
                "edges": np.linspace(0, 1, N_BINS + 1).tolist(),
                "counts": {
                    first: self.histograms[0].tolist(),
                    second: self.histograms[1].tolist(),
                },
            }
        roc, n_classes = self.rankings.roc, self.rankings.n_classes
        if roc:
            parts["curves"]["roc"] = roc
            parts["curves"]["precision_recall"] = [
                {
                    "class": curve["class"],
                    **({"average_precision": value} if value is not None else {}),
                    **precision_recall(curve, int(self.class_rows[curve["class"]]), self.n_rows),
                }
                for curve, value in zip_longest(roc, self.rankings.precisions[: len(roc)])
            ]
        if len(roc) < n_classes:
            parts["notes"].append(
                f"ROC curves are given for the first {len(roc)} of {n_classes} classes."
            )
        return parts


def gather_classes(pair: Pair, options: MetricOptions) -> ClassTotals:
    """Return the totals that the metrics of a pair want.

    Raises
    ------
    ParameterError
        When there are fewer classes than a k, or too many for a confusion matrix.
    DataError
        When the arrays do not make sense.
    """
    classes = scan_classes(pair, options.scores)
    n_classes = classes.n_classes
    names = [metric.name for metric in pair.metrics]
    for name in names:
        if (match := TOP_K_NAME.fullmatch(name)) and int(match[1]) > n_classes:
            raise ParameterError("metrics", f"{name} of only {n_classes} classes")
    wants_ranks = any(TOP_K_NAME.fullmatch(name) for name in names)
    wants_confusion = "confusion_matrix" in names
    if wants_confusion and n_classes > MAX_CONFUSION_CLASSES:
        raise ParameterError(
            "metrics",
            f"confusion_matrix of {n_classes} classes, wanted at most {MAX_CONFUSION_CLASSES}",
        )
    totals = ClassTotals(
        classes=classes,
        class_rows=np.zeros(0 if classes.form == "labels" else n_classes, np.int64),
        ranks=np.zeros(n_classes if wants_ranks else 0, np.int64),
        confusion=np.zeros((n_classes, n_classes), np.int64) if wants_confusion else None,
        histograms=np.zeros((2, N_BINS), np.int64),
        details=ClassDetails(
            n_classes=n_classes, groups=GroupSums.of(options.offsets, pair.predictions.shape[0])
        ),
        metrics=tuple(names),
    )
    for start, predictions, targets in pair.chunks():
        labels = labels_of(pair, pair.targets, targets, start, n_classes)
        if classes.form == "labels":
            predicted = labels_of(pair, pair.predictions, predictions, start, n_classes)
            totals.add_labels(start, predicted, labels)
        else:
            totals.add_scores(start, predictions, labels)
    if any(metric.needs == "all scores" for metric in pair.metrics):
        totals.rankings = gather_rankings(pair, classes, totals.class_rows)
    return totals


def top_k_accuracy(k: int) -> Metric:
    """Return the metric that tells how often the right class is among the k highest scores."""

    def value(totals: ClassTotals) -> float:
        return int(totals.ranks[:k].sum()) / totals.n_rows

    return _metric(f"top_{k}_accuracy", "scores", value)


def _metric(name: str, needs: Needs, value: Callable[[Any], float] | None = None) -> Metric:
    scalars = {} if value is None else {name: value}
    return Metric(
        name=name, kind="classification", needs=needs, gather=gather_classes, scalars=scalars
    )


METRICS = (
    _metric("accuracy", "labels", lambda totals: totals.n_correct / totals.n_rows),
    _metric("log_loss", "scores", lambda totals: totals.log_loss / totals.n_rows),
    _metric("roc_auc", "all scores", lambda totals: np.mean(totals.rankings.areas).item()),
    _metric(
        "average_precision",
        "all scores",
        lambda totals: np.mean(totals.rankings.precisions).item(),
    ),
    _metric("confusion_matrix", "labels"),
)
