"""How predictions of classes are to be understood: as labels, as probabilities or as logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from workflows._pairs import Floats, Integers, Pair, Rows

Form: TypeAlias = Literal["labels", "probabilities", "logits"]


@dataclass(frozen=True, kw_only=True)
class Classes:
    """How predictions are to be understood, found by a first pass over them."""

    form: Form
    n_classes: int
    note: str | None = None


def scan_classes(pair: Pair) -> Classes:
    """Return the form of the predictions and the number of classes, after reading all of them.

    Raises
    ------
    DataError
        When the arrays do not make sense, or a metric wants more than labels.
    """
    shape, target_shape = pair.predictions.shape, pair.targets.shape
    if len(shape) > 2:
        wanted = "(rows, classes), (rows,) or (rows, 1)"
        raise pair.error(pair.predictions, f"given shape {shape}, wanted {wanted}")
    if len(target_shape) > 2:
        wanted = "labels (rows,) or (rows, 1), or one-hot (rows, classes)"
        raise pair.error(pair.targets, f"given shape {target_shape}, wanted {wanted}")
    one_column = _is_one_column(shape)
    if one_column and pair.predictions.dtype.kind in "biu":
        for metric in pair.metrics:
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
    return Classes(form="logits" if note else "probabilities", n_classes=n_classes, note=note)


def labels_of(
    pair: Pair, array: Rows, chunk: npt.NDArray[Any], start: int, n_classes: int | None
) -> Integers:
    """Return integer labels, shape (rows,), of a chunk of labels or one-hot rows.

    Raises
    ------
    DataError
        For a row that is no label from 0 to `n_classes` - 1 (of any size where it is None), and
        no one-hot row.
    """
    if not _is_one_column(chunk.shape):
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


def scores_of(chunk: npt.NDArray[Any], form: Form) -> Floats:
    """Return probabilities or logits, one column per class, of a chunk of predictions."""
    scores = chunk.reshape(len(chunk), -1).astype(np.float64)
    if scores.shape[1] == 1:
        other = 1 - scores if form == "probabilities" else np.zeros_like(scores)
        scores = np.concatenate([other, scores], axis=1)
    return scores


def log_probabilities(scores: Floats, form: Form) -> Floats:
    """Return the logarithms of the probabilities, of scores with a column per class."""
    if form == "probabilities":
        # As scikit-learn does: a probability of 0 costs much, but not infinitely much.
        tiny = np.finfo(np.float64).eps
        probabilities: Floats = scores / scores.sum(axis=1, keepdims=True)
        clipped: Floats = np.log(np.clip(probabilities, tiny, 1 - tiny))
        return clipped
    shifted = scores - scores.max(axis=1, keepdims=True)
    logs: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def _scan_labels(pair: Pair) -> Classes:
    one_hot = not _is_one_column(pair.targets.shape)
    n_classes = pair.targets.shape[1] if one_hot else 2
    for start, predictions, targets in pair.chunks():
        # Any label is a class, unless one-hot targets say how many there are.
        limit = n_classes if one_hot else None
        labels = [
            labels_of(pair, pair.predictions, predictions, start, limit),
            labels_of(pair, pair.targets, targets, start, limit),
        ]
        n_classes = max(n_classes, *(int(chunk.max()) + 1 for chunk in labels))
    return Classes(form="labels", n_classes=n_classes)


def _is_one_column(shape: tuple[int, ...]) -> bool:
    return shape[1:] in ((), (1,))
