"""Metrics of predictions against targets, gathered over row chunks so that memory stays bounded."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from hermes.errors import DataError, MissingExtraError, ParameterError

Kind: TypeAlias = Literal["classification", "regression", "reference"]
Needs: TypeAlias = Literal["labels", "scores", "all scores", "values"]
Form: TypeAlias = Literal["labels", "probabilities", "logits"]
Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

CHUNK_ELEMENTS = 1 << 20
SCORES_AT_ONCE = 1 << 25
MAX_CURVE_POINTS = 500
MAX_CURVES = 20
MAX_CONFUSION_CLASSES = 1000
N_BINS = 50
TOP_K_NAME = re.compile(r"top_([1-9][0-9]*)_accuracy")


class Rows(Protocol):
    """What is asked of an array: a numpy array and an h5py dataset both have it."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, rows: slice, /) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric that can be asked for by name.

    Attributes
    ----------
    name
        The name it is asked for, and required, by.
    kind
        What the predictions and targets are taken for.
    needs
        What it is computed from. ``"all scores"`` holds the scores of at least one class,
        for every row, in memory; the others hold one chunk of rows.
    function
        Its scalars, by name, out of the totals that were gathered over the rows.
    """

    name: str
    kind: Kind
    needs: Needs
    function: Callable[[Any], dict[str, float]]


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
        ``roc``, ``score_histogram``, ``residual_histogram``, ``predicted_vs_true``: whichever
        the metrics gave.
    notes
        Sentences on how the predictions were understood.
    """

    n_rows: int
    scalars: dict[str, float]
    confusion_matrix: list[list[int]] | None = None
    reference: dict[str, Any] | None = None
    curves: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain dicts, lists and numbers (NaN and infinities among them)."""
        return {
            "n_rows": self.n_rows,
            "scalars": dict(self.scalars),
            "confusion_matrix": self.confusion_matrix,
            "reference": self.reference,
            "curves": self.curves,
            "notes": list(self.notes),
        }


def parse_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names without repetitions, in order, once each is known to exist.

    ``top_k_accuracy`` stands for every ``top_k`` of `compute_metrics`; ``top_3_accuracy``, and
    so on, for itself.

    Raises
    ------
    ParameterError
        For an unknown name; the message lists those that exist.
    """
    for name in names:
        if name not in METRICS and not TOP_K_NAME.fullmatch(name):
            known = ", ".join((*METRICS, "top_3_accuracy (or any other k)"))
            raise ParameterError("metrics", f"there is no metric {name!r}; there are: {known}")
    return tuple(dict.fromkeys(names))


def scalar_names(names: Sequence[str], *, top_k: Sequence[int] = (5,)) -> tuple[str, ...]:
    """Return the names of the scalars that `compute_metrics` will give: what gates can be set on.

    Raises
    ------
    ParameterError
        For an unknown metric, or a k below 1.
    """
    scalars: list[str] = []
    for metric in _find(names, top_k):
        if metric.kind == "reference":
            scalars.extend(_REFERENCE_SCALARS)
        elif metric.name != "confusion_matrix":
            scalars.append(metric.name)
    return tuple(scalars)


def check_extra(names: Sequence[str]) -> None:
    """Check, before anything runs, that what the metrics are computed with is installed.

    Raises
    ------
    MissingExtraError
        When one of them needs scikit-learn and it is not installed.
    """
    if any(name in METRICS and METRICS[name].needs == "all scores" for name in names):
        _sklearn_metrics()


def compute_metrics(
    names: Sequence[str],
    predictions: Rows,
    targets: Rows,
    *,
    top_k: Sequence[int] = (5,),
    rtol: float = 1e-5,
    atol: float = 1e-8,
    chunk_rows: int | None = None,
) -> MetricsResult:
    """Return the metrics of predictions against targets.

    Both are read in chunks of rows, more than once, so they may be h5py datasets larger than
    memory. ``roc_auc`` and ``average_precision`` hold every row's score of at least one class,
    and of as many classes as fit in 256 MiB, besides what sorting one class takes (about 100 bytes
    a row).

    Classification takes, as predictions, scores of shape (rows, classes); one score of class 1
    per row, shape (rows,) or (rows, 1); or integer labels of these shapes. Scores are
    probabilities when all lie in [0, 1] and, with a column per class, every row sums to 1.
    Otherwise they are logits, which softmax (or the sigmoid, for one score) turns into
    probabilities, and a note says so. Targets are labels from 0, shape (rows,) or (rows, 1), or
    one-hot, shape (rows, classes). Of equal scores the lower class wins. More than two classes
    give the unweighted mean over classes, one against the rest, of the ROC AUC and the average
    precision.

    Regression and ``reference`` take arrays of one shape, (rows,) and (rows, 1) being the same.
    R2 is the unweighted mean over the columns, as in scikit-learn.

    Parameters
    ----------
    names
        Metrics, as `parse_metrics` takes them.
    predictions, targets
        Arrays with rows along their first axis.
    top_k
        The k, from 1, that ``top_k_accuracy`` stands for.
    rtol, atol
        ``reference`` agrees where ``|p - t| <= atol + rtol * |t|``, and where both are NaN or the
        same infinity.
    chunk_rows
        Rows read at a time; about a million numbers' worth where it is None.

    Raises
    ------
    ParameterError
        For an unknown metric, a k that the classes do not allow, or a negative tolerance.
    DataError
        For predictions or targets that a metric cannot be computed from.
    MissingExtraError
        When a metric needs scikit-learn and it is not installed.
    """
    metrics = _find(names, top_k)
    check_extra(names)
    for parameter, value in (("rtol", rtol), ("atol", atol)):
        if not 0 <= value < math.inf:
            raise ParameterError(parameter, f"given {value}, wanted a number that is not negative")
    found: dict[str, dict[str, float]] = {}
    parts: dict[str, Any] = {"curves": {}, "notes": []}
    for kind in ("classification", "regression", "reference"):
        wanted = [metric for metric in metrics if metric.kind == kind]
        if not wanted:
            continue
        pair = _Pair.checked(wanted, predictions, targets, chunk_rows)
        totals: _ClassTotals | _RegressionTotals | _ReferenceTotals
        if kind == "classification":
            totals = _gather_classes(pair, wanted)
        elif kind == "regression":
            totals = _gather_residuals(pair)
        else:
            totals = _gather_reference(pair, rtol, atol)
        found |= {metric.name: metric.function(totals) for metric in wanted}
        _merge(parts, totals.parts())
    scalars = {key: value for metric in metrics for key, value in found[metric.name].items()}
    parts["notes"] = tuple(parts["notes"])
    return MetricsResult(n_rows=int(predictions.shape[0]), scalars=scalars, **parts)


# --------------------------------------------------------------------------- what is read


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """Predictions and targets of as many rows, and the metrics they are read for."""

    predictions: Rows
    targets: Rows
    metrics: str
    chunk_rows: int

    @classmethod
    def checked(
        cls, metrics: list[Metric], predictions: Rows, targets: Rows, chunk_rows: int | None
    ) -> _Pair:
        shapes = predictions.shape, targets.shape
        row_elements = max(math.prod(shape[1:]) for shape in shapes)
        pair = cls(
            predictions=predictions,
            targets=targets,
            metrics=", ".join(metric.name for metric in metrics),
            chunk_rows=chunk_rows or max(1, CHUNK_ELEMENTS // max(1, row_elements)),
        )
        for array in (predictions, targets):
            if array.dtype.kind not in "biuf":
                raise pair.error(array, f"given dtype {array.dtype}, wanted numbers")
            if not math.prod(array.shape) or not array.shape:
                raise pair.error(array, f"given shape {array.shape}, wanted at least one row")
        if shapes[0][0] != shapes[1][0]:
            raise pair.error(
                targets, f"given {shapes[1][0]} rows, wanted {shapes[0][0]}, one per prediction"
            )
        return pair

    def chunks(self) -> Iterator[tuple[int, npt.NDArray[Any], npt.NDArray[Any]]]:
        """Yield the index of the first row, predictions, and targets, a chunk at a time."""
        for start in range(0, self.predictions.shape[0], self.chunk_rows):
            yield start, self._read(self.predictions, start), self._read(self.targets, start)

    def _read(self, array: Rows, start: int) -> npt.NDArray[Any]:
        try:
            return np.asarray(array[slice(start, start + self.chunk_rows)])
        except OSError as error:
            raise self.error(array, f"cannot be read from row {start}: {error}") from error

    def check_same_shape(self) -> None:
        given, wanted = (
            shape[:1] if shape[1:] == (1,) else shape
            for shape in (self.predictions.shape, self.targets.shape)
        )
        if given != wanted:
            raise self.error(
                self.targets,
                f"given shape {self.targets.shape}, wanted that of the predictions, "
                f"{self.predictions.shape}",
            )

    def check_finite(self, array: Rows, chunk: npt.NDArray[Any], start: int) -> None:
        if chunk.dtype.kind == "f" and not np.isfinite(chunk).all():
            row = start + int(np.argwhere(~np.isfinite(chunk))[0][0])
            raise self.error(array, f"row {row} has a NaN or infinite value, wanted numbers")

    def error(self, array: Rows, problem: str) -> DataError:
        # An h5py dataset says where it is from; an array only what it is for.
        file = getattr(array, "file", None)
        role = "the predictions" if array is self.predictions else "the targets"
        return DataError(
            file=role if file is None else str(file.filename),
            dataset=getattr(array, "name", None),
            problem=f"{self.metrics}: {problem}",
        )


# ------------------------------------------------------------------------- classification


@dataclass(frozen=True, kw_only=True)
class _Classes:
    """How predictions are to be understood, found by a first pass over them."""

    form: Form
    n_classes: int
    note: str | None = None


@dataclass(kw_only=True)
class _ClassTotals:
    """Sums over the rows that classification metrics are computed from."""

    classes: _Classes
    n_rows: int = 0
    n_correct: int = 0
    ranks: Integers
    log_loss: float = 0.0
    confusion: Integers | None
    histograms: Integers
    areas: list[float] = field(default_factory=list)
    precisions: list[float] = field(default_factory=list)
    roc: list[dict[str, Any]] = field(default_factory=list)

    def add_labels(self, predicted: Integers, labels: Integers) -> None:
        self.n_rows += len(labels)
        self.n_correct += int(np.count_nonzero(predicted == labels))
        if self.confusion is not None:
            n_classes = self.classes.n_classes
            pairs = np.bincount(labels * n_classes + predicted, minlength=n_classes**2)
            self.confusion += pairs.reshape(n_classes, n_classes)

    def add_scores(self, scores: Floats, labels: Integers) -> None:
        n_classes = self.classes.n_classes
        predicted = scores.argmax(axis=1)
        self.add_labels(predicted, labels)
        own = np.take_along_axis(scores, labels[:, None], axis=1)
        ahead = (scores == own) & (np.arange(n_classes) < labels[:, None])
        rank = np.count_nonzero((scores > own) | ahead, axis=1)
        self.ranks += np.bincount(rank, minlength=n_classes)
        logs = _log_probabilities(scores, self.classes.form)
        self.log_loss -= float(np.take_along_axis(logs, labels[:, None], axis=1).sum())
        # Two classes: by target, the score of class 1. More: right and wrong, the highest score.
        group = labels if n_classes == 2 else (predicted != labels).astype(np.int64)
        score = np.exp(logs[:, 1] if n_classes == 2 else logs.max(axis=1))
        bins = np.minimum((score * N_BINS).astype(np.int64), N_BINS - 1)
        self.histograms += np.bincount(group * N_BINS + bins, minlength=2 * N_BINS).reshape(2, -1)

    def parts(self) -> dict[str, Any]:
        """Return what goes into a `MetricsResult` besides scalars."""
        parts: dict[str, Any] = {"curves": {}, "notes": []}
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
        if self.roc:
            parts["curves"]["roc"] = self.roc
        if len(self.areas) > len(self.roc) > 0:
            parts["notes"].append(
                f"ROC curves are given for the first {len(self.roc)} of {len(self.areas)} classes."
            )
        return parts


def _gather_classes(pair: _Pair, metrics: list[Metric]) -> _ClassTotals:
    names = {metric.name for metric in metrics}
    classes = _scan_classes(pair, metrics)
    n_classes = classes.n_classes
    for name in names:
        if (match := TOP_K_NAME.fullmatch(name)) and int(match[1]) > n_classes:
            raise ParameterError("metrics", f"{name} of only {n_classes} classes")
    if "confusion_matrix" in names and n_classes > MAX_CONFUSION_CLASSES:
        raise ParameterError(
            "metrics",
            f"confusion_matrix of {n_classes} classes, wanted at most {MAX_CONFUSION_CLASSES}",
        )
    square = (n_classes, n_classes)
    wants_confusion = "confusion_matrix" in names
    totals = _ClassTotals(
        classes=classes,
        ranks=np.zeros(n_classes if classes.form != "labels" else 0, np.int64),
        confusion=np.zeros(square, np.int64) if wants_confusion else None,
        histograms=np.zeros((2, N_BINS), np.int64),
    )
    for start, predictions, targets in pair.chunks():
        labels = _labels(pair, pair.targets, targets, start, n_classes)
        if classes.form == "labels":
            totals.add_labels(
                _labels(pair, pair.predictions, predictions, start, n_classes), labels
            )
        else:
            totals.add_scores(_scores(predictions, classes.form), labels)
    if any(metric.needs == "all scores" for metric in metrics):
        _gather_rankings(pair, totals, names)
    return totals


def _scan_classes(pair: _Pair, metrics: list[Metric]) -> _Classes:
    """Return the form of the predictions and the number of classes, once both arrays make sense."""
    shape, target_shape = pair.predictions.shape, pair.targets.shape
    if len(shape) > 2:
        wanted = "(rows, classes), (rows,) or (rows, 1)"
        raise pair.error(pair.predictions, f"given shape {shape}, wanted {wanted}")
    if len(target_shape) > 2:
        wanted = "labels (rows,) or (rows, 1), or one-hot (rows, classes)"
        raise pair.error(pair.targets, f"given shape {target_shape}, wanted {wanted}")
    one_column = shape[1:] in ((), (1,))
    if one_column and pair.predictions.dtype.kind in "biu":
        for metric in metrics:
            if metric.needs != "labels":
                raise pair.error(
                    pair.predictions,
                    f"{metric.name} needs scores, given {pair.predictions.dtype} labels of shape "
                    f"{shape}",
                )
        return _scan_labels(pair)
    n_classes = 2 if one_column else shape[1]
    if target_shape[1:] not in ((), (1,), (n_classes,)):
        raise pair.error(
            pair.targets,
            f"given shape {target_shape}, wanted labels (rows,) or (rows, 1), or one-hot "
            f"(rows, {n_classes}) as there are {n_classes} classes",
        )
    # Half precision sums to 1 only roughly.
    tolerance = 1e-2 if pair.predictions.dtype.itemsize <= 2 else 1e-3
    note = None
    for start, predictions, _ in pair.chunks():
        pair.check_finite(pair.predictions, predictions, start)
        scores = predictions.reshape(len(predictions), -1).astype(np.float64)
        outside = (scores.min(axis=1) < 0) | (scores.max(axis=1) > 1)
        sums = scores.sum(axis=1)
        off = outside if one_column else outside | (np.abs(sums - 1) > tolerance)
        if note is None and off.any():
            row = int(off.argmax())
            why = "has a value outside [0, 1]" if outside[row] else f"sums to {sums[row]:.4g}"
            how = "the sigmoid" if one_column else "softmax"
            note = (
                f"The predictions were taken as logits and normalised with {how}: "
                f"row {start + row} {why}."
            )
    return _Classes(form="logits" if note else "probabilities", n_classes=n_classes, note=note)


def _scan_labels(pair: _Pair) -> _Classes:
    one_hot = pair.targets.shape[1:] not in ((), (1,))
    n_classes = pair.targets.shape[1] if one_hot else 2
    for start, predictions, targets in pair.chunks():
        # Any label is a class, unless one-hot targets say how many there are.
        limit = n_classes if one_hot else None
        labels = [
            _labels(pair, pair.predictions, predictions, start, limit),
            _labels(pair, pair.targets, targets, start, limit),
        ]
        n_classes = max(n_classes, *(int(chunk.max()) + 1 for chunk in labels))
    return _Classes(form="labels", n_classes=n_classes)


def _labels(
    pair: _Pair, array: Rows, chunk: npt.NDArray[Any], start: int, n_classes: int | None
) -> Integers:
    """Return integer labels, shape (rows,), of a chunk of labels or one-hot rows."""
    if chunk.shape[1:] not in ((), (1,)):
        bad = ~(((chunk == 0) | (chunk == 1)).all(axis=1) & (chunk.sum(axis=1) == 1))
        if bad.any():
            row = int(bad.argmax())
            raise pair.error(
                array, f"row {start + row} is not one-hot: wanted a single 1, all others 0"
            )
        hot: Integers = chunk.argmax(axis=1)
        return hot
    flat = chunk.reshape(-1)
    last = np.iinfo(np.int64).max if n_classes is None else n_classes - 1
    bad = ~((flat >= 0) & (flat <= last) & (flat == np.floor(flat)))
    if bad.any():
        row = int(bad.argmax())
        wanted = "not negative" if n_classes is None else f"from 0 to {last}"
        raise pair.error(
            array, f"row {start + row} has the label {flat[row]}, wanted an integer {wanted}"
        )
    return flat.astype(np.int64)


def _scores(chunk: npt.NDArray[Any], form: Form) -> Floats:
    """Return probabilities or logits, one column per class, of a chunk of predictions."""
    scores = chunk.reshape(len(chunk), -1).astype(np.float64)
    if scores.shape[1] == 1:
        other = 1 - scores if form == "probabilities" else np.zeros_like(scores)
        scores = np.concatenate([other, scores], axis=1)
    return scores


def _log_probabilities(scores: Floats, form: Form) -> Floats:
    if form == "probabilities":
        # As scikit-learn does: a probability of 0 costs much, but not infinitely much.
        tiny = np.finfo(np.float64).eps
        probabilities: Floats = scores / scores.sum(axis=1, keepdims=True)
        clipped: Floats = np.log(np.clip(probabilities, tiny, 1 - tiny))
        return clipped
    shifted = scores - scores.max(axis=1, keepdims=True)
    logs: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def _gather_rankings(pair: _Pair, totals: _ClassTotals, names: set[str]) -> None:
    """Add the ROC and the average precision of every class, a block of classes per pass."""
    metrics = _sklearn_metrics()
    n_rows, n_classes = totals.n_rows, totals.classes.n_classes
    columns = [1] if n_classes == 2 else list(range(n_classes))
    per_pass = max(1, SCORES_AT_ONCE // n_rows)
    for first in range(0, len(columns), per_pass):
        block = columns[first : first + per_pass]
        scores = np.empty((len(block), n_rows))
        labels = np.empty(n_rows, np.int64)
        for start, predictions, targets in pair.chunks():
            stop = start + len(predictions)
            labels[start:stop] = _labels(pair, pair.targets, targets, start, n_classes)
            scores[:, start:stop] = _ranking(predictions, totals.classes.form)[:, block].T
        if first == 0:
            _check_present(pair, labels, n_classes)
        for column, score in zip(block, scores, strict=True):
            positive = labels == column
            if "average_precision" in names:
                value = float(metrics.average_precision_score(positive, score))
                totals.precisions.append(value)
            if "roc_auc" in names:
                false_rate, true_rate, _ = metrics.roc_curve(positive, score)
                totals.areas.append(float(metrics.auc(false_rate, true_rate)))
                if len(totals.roc) < MAX_CURVES:
                    curve = _thinned(false_rate, true_rate)
                    totals.roc.append({"class": column, "auc": totals.areas[-1], **curve})


def _ranking(chunk: npt.NDArray[Any], form: Form) -> Floats:
    """Return scores, one column per class, in the order of the probabilities."""
    scores = _scores(chunk, form)
    if form == "probabilities":
        return scores
    if scores.shape[1] == 2:
        # The log-odds keep apart what softmax rounds to 1.
        odds = scores[:, 1] - scores[:, 0]
        return np.stack([-odds, odds], axis=1)
    probabilities: Floats = np.exp(_log_probabilities(scores, form))
    return probabilities


def _check_present(pair: _Pair, labels: Integers, n_classes: int) -> None:
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


def _sklearn_metrics() -> Any:
    try:
        import sklearn.metrics  # noqa: PLC0415 (an extra: only these metrics need it)
    except ImportError as error:
        raise MissingExtraError(package="scikit-learn", extra="report") from error
    return sklearn.metrics


# ----------------------------------------------------------------------------- regression


@dataclass(kw_only=True)
class _RegressionTotals:
    """Sums over the rows that regression metrics are computed from."""

    target_mean: Floats
    residual_edges: Floats
    value_edges: Floats
    n_rows: int = 0
    squared: Floats
    squared_total: Floats
    absolute: float = 0.0
    max_absolute: float = 0.0
    residuals: Integers
    pairs: Integers

    def add(self, predictions: Floats, targets: Floats) -> None:
        residuals = predictions - targets
        self.n_rows += len(residuals)
        self.squared += (residuals**2).sum(axis=0)
        self.squared_total += ((targets - self.target_mean) ** 2).sum(axis=0)
        self.absolute += float(np.abs(residuals).sum())
        self.max_absolute = max(self.max_absolute, float(np.abs(residuals).max()))
        self.residuals += np.histogram(residuals, self.residual_edges)[0]
        edges = self.value_edges
        pairs = np.histogram2d(targets.ravel(), predictions.ravel(), bins=(edges, edges))[0]
        self.pairs += pairs.astype(np.int64)

    def mean(self, total: float) -> float:
        return total / (self.n_rows * self.squared.size)

    def r2(self) -> float:
        # As scikit-learn does: a constant target is 1 when met exactly, else 0.
        constant = self.squared_total == 0
        ratio = self.squared / np.where(constant, 1, self.squared_total)
        return float(np.where(constant, self.squared == 0, 1 - ratio).mean())

    def parts(self) -> dict[str, Any]:
        """Return what goes into a `MetricsResult` besides scalars."""
        return {
            "curves": {
                "residual_histogram": {
                    "edges": self.residual_edges.tolist(),
                    "counts": self.residuals.tolist(),
                },
                "predicted_vs_true": {
                    "edges": self.value_edges.tolist(),
                    "counts": self.pairs.tolist(),
                },
            }
        }


def _gather_residuals(pair: _Pair) -> _RegressionTotals:
    pair.check_same_shape()
    n_rows = pair.predictions.shape[0]
    if n_rows < 2 and "r2" in pair.metrics.split(", "):
        raise pair.error(pair.targets, "r2 wants at least two rows, given 1")
    n_outputs = math.prod(pair.predictions.shape[1:])
    target_sum = np.zeros(n_outputs)
    ranges = np.array([[np.inf, -np.inf]] * 3)
    for start, predictions, targets in pair.chunks():
        pair.check_finite(pair.predictions, predictions, start)
        pair.check_finite(pair.targets, targets, start)
        given, wanted = _outputs(predictions), _outputs(targets)
        target_sum += wanted.sum(axis=0)
        for index, values in enumerate((given - wanted, given, wanted)):
            ranges[index, 0] = min(ranges[index, 0], values.min())
            ranges[index, 1] = max(ranges[index, 1], values.max())
    totals = _RegressionTotals(
        target_mean=target_sum / n_rows,
        residual_edges=_edges(*ranges[0]),
        value_edges=_edges(ranges[1:, 0].min(), ranges[1:, 1].max()),
        squared=np.zeros(n_outputs),
        squared_total=np.zeros(n_outputs),
        residuals=np.zeros(N_BINS, np.int64),
        pairs=np.zeros((N_BINS, N_BINS), np.int64),
    )
    for _, predictions, targets in pair.chunks():
        totals.add(_outputs(predictions), _outputs(targets))
    return totals


def _outputs(chunk: npt.NDArray[Any]) -> Floats:
    return chunk.reshape(len(chunk), -1).astype(np.float64)


def _edges(low: float, high: float) -> Floats:
    """Return the edges of bins from low to high, wide enough to tell apart."""
    scale = max(abs(low), abs(high))
    if high - low <= scale * 1e-9:
        margin = scale * 1e-6 or 0.5
        low, high = low - margin, high + margin
    return np.linspace(low, high, N_BINS + 1)


# ------------------------------------------------------------------------------ reference


@dataclass(kw_only=True)
class _ReferenceTotals:
    """What the comparison with expected outputs found."""

    rtol: float
    atol: float
    n_elements: int = 0
    n_disagreeing: int = 0
    max_absolute: float = 0.0
    max_relative: float = 0.0
    first: list[int] | None = None

    def add(self, start: int, predictions: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
        # Compared as they are: integers above 2**53 would be equal as floats.
        equal = (predictions == expected) | (
            (predictions != predictions) & (expected != expected)  # noqa: PLR0124 (NaN is not)
        )
        given, wanted = predictions.astype(np.float64), expected.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            absolute = np.where(equal, 0, np.abs(given - wanted))
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

    def scalars(self) -> dict[str, float]:
        agreeing = 1 - self.n_disagreeing / self.n_elements
        values = (agreeing, self.n_elements, self.n_disagreeing)
        differences = (self.max_absolute, self.max_relative)
        return dict(zip(_REFERENCE_SCALARS, map(float, values + differences), strict=True))

    def parts(self) -> dict[str, Any]:
        """Return what goes into a `MetricsResult` besides scalars."""
        return {
            "reference": {
                "rtol": self.rtol,
                "atol": self.atol,
                "n_elements": self.n_elements,
                "n_disagreeing": self.n_disagreeing,
                "fraction_agreeing": 1 - self.n_disagreeing / self.n_elements,
                "max_absolute_difference": self.max_absolute,
                "max_relative_difference": self.max_relative,
                "first_disagreeing_index": self.first,
            }
        }


def _gather_reference(pair: _Pair, rtol: float, atol: float) -> _ReferenceTotals:
    pair.check_same_shape()
    totals = _ReferenceTotals(rtol=rtol, atol=atol)
    for start, predictions, expected in pair.chunks():
        totals.add(start, predictions, expected.reshape(predictions.shape))
    return totals


# ------------------------------------------------------------------------------- registry


_REFERENCE_SCALARS = (
    "reference",
    "reference_n_elements",
    "reference_n_disagreeing",
    "reference_max_absolute_difference",
    "reference_max_relative_difference",
)


def _top_k_accuracy(totals: _ClassTotals, *, k: int) -> dict[str, float]:
    return {f"top_{k}_accuracy": int(totals.ranks[:k].sum()) / totals.n_rows}


def _metric(
    name: str, kind: Kind, needs: Needs, value: Callable[[Any], float] | None = None
) -> Metric:
    def function(totals: Any) -> dict[str, float]:
        return {} if value is None else {name: value(totals)}

    return Metric(name=name, kind=kind, needs=needs, function=function)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            _metric("accuracy", "classification", "labels", lambda t: t.n_correct / t.n_rows),
            _metric("top_k_accuracy", "classification", "scores"),
            _metric("log_loss", "classification", "scores", lambda t: t.log_loss / t.n_rows),
            _metric("roc_auc", "classification", "all scores", lambda t: np.mean(t.areas).item()),
            _metric(
                "average_precision",
                "classification",
                "all scores",
                lambda t: np.mean(t.precisions).item(),
            ),
            _metric("confusion_matrix", "classification", "labels"),
            _metric("mse", "regression", "values", lambda t: t.mean(float(t.squared.sum()))),
            _metric("mae", "regression", "values", lambda t: t.mean(t.absolute)),
            _metric("r2", "regression", "values", lambda t: t.r2()),
            _metric("max_absolute_error", "regression", "values", lambda t: t.max_absolute),
            Metric(
                name="reference",
                kind="reference",
                needs="values",
                function=lambda totals: totals.scalars(),
            ),
        )
    }
)


def _find(names: Sequence[str], top_k: Sequence[int]) -> list[Metric]:
    """Return the metrics asked for, with ``top_k_accuracy`` as one metric for each k."""
    found: dict[str, Metric] = {}
    for name in parse_metrics(names):
        match = TOP_K_NAME.fullmatch(name)
        if not match and name != "top_k_accuracy":
            found[name] = METRICS[name]
            continue
        for k in [int(match[1])] if match else top_k:
            if k < 1:
                raise ParameterError("top_k", f"given {k}, wanted integers from 1")
            found[f"top_{k}_accuracy"] = Metric(
                name=f"top_{k}_accuracy",
                kind="classification",
                needs="scores",
                function=partial(_top_k_accuracy, k=k),
            )
    return list(found.values())


def _merge(parts: dict[str, Any], more: dict[str, Any]) -> None:
    parts["curves"] |= more.pop("curves", {})
    parts["notes"] += more.pop("notes", [])
    parts |= more
