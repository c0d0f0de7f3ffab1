"""What a report shows besides the metrics: classes, files, calibration and the worst rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.aeriel.metrics._groups import (
    MAX_SUMS,
    GroupSums,
    WorstRows,
    share_with_interval,
)
from hermes.aeriel.metrics._pairs import Floats, Integers

# As scikit-learn's calibration_curve has them: bins of equal width.
CALIBRATION_BINS = 10
MAX_CLASSES = 1000
# What is told of each file, in this order.
_OF_FILES = ("accuracy", "log_loss", "mse", "rmse", "mae", "bias")


@dataclass(kw_only=True)
class ClassDetails:
    """What classification metrics leave to be said of classes, files and rows."""

    n_classes: int
    groups: GroupSums
    worst: WorstRows = field(default_factory=WorstRows)
    # Of each of few classes: rows that are of it, that are taken for it, and both.
    counts: Integers = field(init=False)
    # Of each bin of scores: rows, the sum of the scores, and the rows that are right.
    calibration: Floats = field(default_factory=lambda: np.zeros((3, CALIBRATION_BINS)))

    def __post_init__(self) -> None:
        self.counts = np.zeros((3, self.n_classes if self.has_few_classes else 0), np.int64)

    @property
    def has_few_classes(self) -> bool:
        """Whether the classes are told apart."""
        return self.n_classes <= MAX_CLASSES

    def add_labels(self, start: int, predicted: Integers, labels: Integers) -> None:
        """Add rows, of which the first has this index, of predictions that are labels."""
        is_wrong = predicted != labels
        self._count(predicted, labels)
        self.worst.add(
            start,
            is_wrong.astype(np.float64),
            lambda rows: {"target": labels[rows], "predicted": predicted[rows]},
        )
        self.groups.add(start, {"accuracy": ~is_wrong})

    def add_scores(
        self,
        start: int,
        *,
        predicted: Integers,
        labels: Integers,
        probabilities: npt.NDArray[Any],
        shown: Floats,
        losses: Floats,
        in_top: Mapping[str, npt.NDArray[np.bool_]],
    ) -> None:
        """Add rows, of which the first has this index.

        Parameters
        ----------
        start
            The index of the first row.
        predicted, labels
            Classes, shape (rows,).
        probabilities
            A column for each class.
        shown
            The probability of class 1, of two; of more, that of the predicted class.
        losses
            The log loss of each row.
        in_top
            Whether the class is among those with the k highest scores, by the metric's name.
        """
        is_right = predicted == labels
        self._count(predicted, labels)
        self.worst.add(
            start,
            losses,
            lambda rows: {
                "target": labels[rows],
                "predicted": predicted[rows],
                "score_of_target": probabilities[rows, labels[rows]].astype(np.float64),
                "score_of_predicted": probabilities[rows, predicted[rows]].astype(np.float64),
            },
        )
        self.groups.add(start, {"accuracy": is_right, "log_loss": losses, **in_top})
        # np.searchsorted gives the same, and takes four times as long for so few edges.
        bins = np.zeros(len(shown), np.uint8)
        for edge in np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]:
            bins += shown > edge
        is_of_class = labels == 1 if self.n_classes == 2 else is_right
        for total, weights in zip(self.calibration, (None, shown, is_of_class), strict=True):
            total += np.bincount(bins, weights, minlength=CALIBRATION_BINS)  # noqa: PLW2901 (a view)

    def parts(self, metrics: Sequence[str]) -> dict[str, Any]:
        """Return what goes into a `MetricsResult`."""
        parts: dict[str, Any] = {
            "curves": {},
            "groups": self.groups,
            "files": _of_files(self.groups, metrics),
            "worst_rows": self.worst.to_list(),
        }
        if self.has_few_classes:
            parts["classes"] = [_class_facts(*counts) for counts in self.counts.T.tolist()]
        if self.calibration.any():
            two = self.n_classes == 2
            parts["curves"]["calibration"] = {
                "label": "score of class 1" if two else "score of the predicted class",
                "fraction_of": "rows of class 1" if two else "correct rows",
                "bins": [
                    {"rows": int(rows), "mean_score": total / rows, **share_with_interval(n, rows)}
                    for rows, total, n in self.calibration.T.tolist()
                    if rows
                ],
            }
        return parts

    def _count(self, predicted: Integers, labels: Integers) -> None:
        if not self.has_few_classes:
            return
        right = labels[predicted == labels]
        for total, classes in zip(self.counts, (labels, predicted, right), strict=True):
            total += np.bincount(classes, minlength=self.n_classes)  # noqa: PLW2901 (a view)


@dataclass(kw_only=True)
class ErrorDetails:
    """What regression metrics leave to be said of files and rows."""

    n_outputs: int
    groups: GroupSums
    worst: WorstRows = field(default_factory=WorstRows)

    def add(
        self,
        start: int,
        predictions: npt.NDArray[Any],
        targets: npt.NDArray[Any],
        residuals: Floats,
        deviations: Floats,
    ) -> None:
        """Add rows, of which the first has this index, each of shape (rows, outputs)."""
        squared, absolute = residuals * residuals, np.abs(residuals)
        values = {"mse": squared, "mae": absolute, "bias": residuals}
        self.groups.add(start, {name: _row_means(value) for name, value in values.items()})
        if self.groups.n_groups * self.n_outputs <= MAX_SUMS:
            of_outputs = {"deviation": deviations, "deviation_squared": deviations * deviations}
            self.groups.add(start, {"squared": squared, **of_outputs})

        def facts(rows: Integers) -> dict[str, npt.NDArray[Any]]:
            outputs = absolute[rows].argmax(axis=1)
            found = {
                "target": targets[rows, outputs],
                "predicted": predictions[rows, outputs],
                "error": residuals[rows, outputs],
            }
            return {"output": outputs, **found} if self.n_outputs > 1 else found

        self.worst.add(start, absolute.max(axis=1) if self.n_outputs > 1 else absolute[:, 0], facts)

    def parts(self, metrics: Sequence[str]) -> dict[str, Any]:
        """Return what goes into a `MetricsResult`."""
        return {
            "groups": self.groups,
            "files": _of_files(self.groups, metrics),
            "worst_rows": self.worst.to_list(),
        }


def _row_means(values: Floats) -> Floats:
    means: Floats = values[:, 0] if values.shape[1] == 1 else values.mean(axis=1)
    return means


def precision_recall(
    roc: Mapping[str, Any], n_positive: int, n_rows: int
) -> dict[str, list[float]]:
    """Return precision and recall at the points of an ROC curve.

    Where no row is taken for the class the precision is 1, as scikit-learn has it.
    """
    recall = np.asarray(roc["true_positive_rate"])
    right = recall * n_positive
    taken = right + np.asarray(roc["false_positive_rate"]) * (n_rows - n_positive)
    precision = np.divide(right, taken, out=np.ones_like(taken), where=taken > 0)
    return {"recall": recall.tolist(), "precision": precision.tolist()}


def _class_facts(n_rows: int, n_predicted: int, n_right: int) -> dict[str, Any]:
    both = n_rows + n_predicted
    return {
        "rows": n_rows,
        "predicted_rows": n_predicted,
        "recall": share_with_interval(n_right, n_rows),
        "precision": share_with_interval(n_right, n_predicted),
        "f1": 2 * n_right / both if both else math.nan,
    }


def _of_files(groups: GroupSums, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Return, for each file, ``rows`` and each metric that it can have, with an interval."""
    files: list[dict[str, Any]] = [{"rows": int(n)} for n in np.diff(groups.offsets)]
    wanted = [name for name in metrics if name in _OF_FILES or name.startswith("top_")]
    if "rmse" in wanted:
        wanted = [name for name in wanted if name != "mse"]
    for name in wanted:
        for file, found in zip(files, _file_values(groups, name), strict=True):
            if found is not None:
                file[name] = found
    return files


def _file_values(groups: GroupSums, name: str) -> list[dict[str, float] | None]:
    if name.endswith("accuracy"):
        counts, n_rows = groups.of_files(groups.sums[name]), np.diff(groups.offsets)
        return [
            share_with_interval(float(count), int(n)) if n else None
            for count, n in zip(counts, n_rows, strict=True)
        ]
    if name != "rmse":
        return groups.file_means(name)
    means = groups.file_means("mse")
    if "squared" not in groups.sums:
        return [None] * len(means)
    squared = zip(
        means, groups.of_files(groups.sums["squared"]), np.diff(groups.offsets), strict=True
    )
    return [found and _root(found, sums / n_rows) for found, sums, n_rows in squared]


def _root(mse: dict[str, float], of_outputs: Floats) -> dict[str, float]:
    """Return the mean of the roots of mean squares, with the interval of the mean of squares."""
    value = float(np.sqrt(of_outputs).mean())
    scale = value / np.sqrt(mse["value"]) if value else 1.0
    ends = {key: float(scale * np.sqrt(np.maximum(0.0, mse[key]))) for key in ("low", "high")}
    return {"value": value, **ends}
