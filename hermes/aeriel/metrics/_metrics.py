"""Metrics of predictions against targets, gathered over row chunks so that memory stays bounded."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hermes.aeriel.metrics import _classification, _reference, _regression
from hermes.aeriel.metrics._bootstrap import metric_intervals
from hermes.aeriel.metrics._classification import TOP_K_NAME, top_k_accuracy
from hermes.aeriel.metrics._groups import GroupSums, Interval
from hermes.aeriel.metrics._pairs import Metric, MetricOptions, Pair, Rows
from hermes.aeriel.metrics._scores import check_scores
from hermes.errors import ParameterError

# Every metric by its name; a project may add its own.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (*_classification.METRICS, *_regression.METRICS, *_reference.METRICS)
} | {"top_k_accuracy": top_k_accuracy(5)}


@dataclass(frozen=True, kw_only=True)
class MetricsResult:
    """Every metric that was asked for, and what the plots of a report are drawn from.

    Attributes
    ----------
    n_rows
        The rows that were compared.
    scalars
        The value of each metric, by name.
    confusion_matrix
        Counts: row, the class in the targets; column, the predicted class.
    reference
        The facts of the comparison with expected outputs, by name.
    curves
        ``roc``, ``precision_recall``, ``calibration``, ``score_histogram``,
        ``residual_histogram``, ``predicted_vs_true``: whichever the metrics gave.
    intervals
        The bootstrap interval of 95 % of each metric that has one, by name: low and high.
    classes
        For each class ``rows`` and ``predicted_rows``; ``recall`` and ``precision``, each with
        ``value``, ``low`` and ``high``, its Wilson interval of 95 %; and ``f1``.
    files
        For each file ``rows``, and each metric that a file has by itself, with ``value``, ``low``
        and ``high``, its interval of 95 %.
    worst_rows
        The rows with the highest log loss or absolute error, or the first wrong ones of labels:
        ``row``, ``target``, ``predicted``, and ``score_of_target`` and ``score_of_predicted``, or
        ``error`` (and ``output``, where there are several).
    groups
        Sums over groups of rows, from which `metric_replicates` resamples.
    notes
        Sentences on how the predictions were understood.
    """

    n_rows: int
    scalars: dict[str, float]
    confusion_matrix: list[list[int]] | None = None
    reference: dict[str, Any] | None = None
    curves: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    classes: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    worst_rows: list[dict[str, Any]] = field(default_factory=list)
    groups: GroupSums | None = field(default=None, repr=False, compare=False)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain dicts, lists and numbers (NaN and infinities among them)."""
        return {
            "n_rows": self.n_rows,
            "scalars": dict(self.scalars),
            "confusion_matrix": self.confusion_matrix,
            "reference": self.reference,
            "curves": self.curves,
            "intervals": self.intervals,
            "classes": self.classes,
            "files": self.files,
            "worst_rows": self.worst_rows,
            "notes": list(self.notes),
        }


def parse_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names without repetitions, in order, once each is known to exist.

    ``top_k_accuracy`` is ``top_5_accuracy``; ``top_3_accuracy``, and so on, are metrics too.

    Raises
    ------
    ParameterError
        For an unknown name; the message lists those that exist.
    """
    for name in names:
        if name not in METRICS and not TOP_K_NAME.fullmatch(name):
            if "," in name:
                several = json.dumps([part.strip() for part in name.split(",")])
                raise ParameterError("metrics", f"{name!r} is one text; several are {several}")
            known = ", ".join((*METRICS, "top_3_accuracy (or any other k)"))
            raise ParameterError("metrics", f"there is no metric {name!r}; there are: {known}")
    return tuple(dict.fromkeys(names))


def scalar_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the scalars that `compute_metrics` gives, for requirements.

    Raises
    ------
    ParameterError
        For an unknown metric.
    """
    return tuple(name for metric in find_metrics(names) for name in metric.scalars)


def compute_metrics(
    names: Sequence[str],
    predictions: Rows,
    targets: Rows,
    *,
    scores: str = "auto",
    rtol: float = 1e-5,
    atol: float = 1e-8,
    offsets: Sequence[int] | None = None,
) -> MetricsResult:
    """Return the metrics of predictions against targets.

    Both are read in chunks of about a million numbers, more than once, so they may be h5py datasets
    larger than memory. ``roc_auc`` and ``average_precision`` alone sort scores, 17 million of them
    at a time in 25 bytes each, with a pass over the rows for as many.

    Every number is that of scikit-learn's function for the whole arrays as float64, whatever the
    size of the chunks, but for the order of summation.

    Classification takes, as predictions, scores of shape (rows, classes); one score of class 1
    per row, shape (rows,) or (rows, 1); or labels of these shapes: integers, or whole numbers that
    are not only 0 and 1. Scores are probabilities or logits, as `scores` says. Logits become
    probabilities, as float64, by softmax (or the sigmoid, for one score). Targets are labels from
    0, shape (rows,) or (rows, 1), or one-hot, shape (rows, classes).

    The accuracy takes the lower class of equal scores, as ``numpy.argmax`` does. ``top_k_accuracy``
    takes the higher of more than two, as scikit-learn does. ``log_loss`` clips probabilities by
    the precision of their dtype. Probabilities that do not sum to 1 are used as they are, and a
    note says so. More than two classes give the unweighted mean over classes, one against the
    rest, of the ROC AUC and the average precision (``average="macro"``, ``multi_class="ovr"``).

    Regression and ``reference`` take arrays of one shape, (rows,) and (rows, 1) being the same.
    ``bias`` is the mean of prediction minus target. R2 and ``rmse`` are unweighted means over the
    columns. A column of equal targets has an R2 of 1 where every prediction meets them, and else 0.

    Parameters
    ----------
    names
        Metrics, as `parse_metrics` takes them.
    predictions, targets
        Arrays with rows along their first axis.
    scores
        What the scores of classes are: ``"probabilities"``, ``"logits"``, or ``"auto"``. The
        last takes them for probabilities where all lie in [0, 1] (but for rounding: the square root
        of the dtype's precision) and, with a column per class,
        every row sums to 1 within 1/32; for logits, with a note, where most rows have a value
        outside [0, 1]; and refuses anything between the two.
    rtol, atol
        ``reference`` agrees where ``|p - t| <= atol + rtol * |t|``, and where both are NaN or the
        same infinity.
    offsets
        The first row of each file, and the number of rows; by default all rows are of one file.

    Raises
    ------
    ParameterError
        For an unknown metric, a k that the classes do not allow, a negative tolerance, or an
        unknown word for `scores`.
    DataError
        For predictions or targets that a metric cannot be computed from.
    """
    metrics = find_metrics(names)
    for parameter, value in (("rtol", rtol), ("atol", atol)):
        if not 0 <= value < math.inf:
            raise ParameterError(parameter, f"given {value}, wanted a number that is not negative")
    options = MetricOptions(
        scores=check_scores(scores), rtol=rtol, atol=atol, offsets=tuple(offsets or ())
    )
    groups = GroupSums.of(options.offsets, predictions.shape[0])
    found: dict[str, float] = {}
    parts: dict[str, Any] = {
        "curves": {},
        "notes": [],
        "files": [{} for _ in groups.offsets[1:]],
        "groups": groups,
    }
    for gather in dict.fromkeys(metric.gather for metric in metrics):
        wanted = [metric for metric in metrics if metric.gather is gather]
        totals = gather(Pair.checked(wanted, predictions, targets), options)
        for metric in wanted:
            found |= {name: value(totals) for name, value in metric.scalars.items()}
        _merge(parts, totals.parts())
    scalars = {name: found[name] for metric in metrics for name in metric.scalars}
    parts["notes"] = tuple(parts["notes"])
    parts["intervals"] = metric_intervals(scalars, groups)
    return MetricsResult(n_rows=int(predictions.shape[0]), scalars=scalars, **parts)


def find_metrics(names: Sequence[str]) -> list[Metric]:
    """Return the metrics of these names, each once."""
    found: dict[str, Metric] = {}
    for name in parse_metrics(names):
        match = TOP_K_NAME.fullmatch(name)
        metric = top_k_accuracy(int(match[1])) if match else METRICS[name]
        found[metric.name] = metric
    return list(found.values())


def _merge(parts: dict[str, Any], more: dict[str, Any]) -> None:
    parts["curves"] |= more.pop("curves", {})
    parts["notes"] += more.pop("notes", [])
    if groups := more.pop("groups", None):
        parts["groups"].include(groups)
    for file, found in zip(parts["files"], more.pop("files", parts["files"]), strict=True):
        file.update(found)
    parts |= more
