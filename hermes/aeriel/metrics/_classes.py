"""How predictions of classes are to be understood: as labels, as probabilities or as logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.aeriel.metrics._pairs import Floats, Integers, Pair, Rows, Scores
from hermes.aeriel.metrics._scores import Form, form_of, note_of, scan_scores


@dataclass(frozen=True, kw_only=True)
class Classes:
    """How predictions are to be understood, found by a first pass over them."""

    form: Form
    n_classes: int
    note: str | None = None


def scan_classes(pair: Pair, scores: Scores = "auto") -> Classes:
    """Return the form of the predictions and the number of classes, after reading all of them.

    Parameters
    ----------
    pair
        Predictions and targets.
    scores
        What the predictions are; ``"auto"`` finds out, or refuses to guess.

    Raises
    ------
    DataError
        When the arrays do not make sense, `scores` is not true of the predictions, ``"auto"``
        does not fit them, or a metric wants more than labels.
    """
    shape, target_shape = pair.predictions.shape, pair.targets.shape
    if len(shape) > 2:
        wanted = "(rows, classes), (rows,) or (rows, 1)"
        raise pair.error(pair.predictions, f"given shape {shape}, wanted {wanted}")
    if len(target_shape) > 2:
        wanted = "labels (rows,) or (rows, 1), or one-hot (rows, classes)"
        raise pair.error(pair.targets, f"given shape {target_shape}, wanted {wanted}")
    one_column = _is_one_column(shape)
    if one_column and scores == "auto" and pair.predictions.dtype.kind in "biu":
        return _scan_labels(pair)
    scan = scan_scores(pair)
    form = form_of(pair, scan, scores)
    if form == "labels":
        return _scan_labels(pair)
    n_classes = 2 if one_column else shape[1]
    if target_shape[1:] not in ((), (1,), (n_classes,)):
        raise pair.error(
            pair.targets,
            f"given shape {target_shape}, wanted labels (rows,) or (rows, 1), or one-hot "
            f"(rows, {n_classes}) as there are {n_classes} classes",
        )
    return Classes(form=form, n_classes=n_classes, note=note_of(scan, form, scores))


def has_labels(pair: Pair, scores: Scores) -> bool:
    """Tell whether the predictions of a pair, for metrics that want no scores, are labels.

    Raises
    ------
    DataError
        When the arrays do not make sense, or it is in doubt what the predictions are.
    """
    is_told = scores != "auto" or not _is_one_column(pair.predictions.shape)
    return not is_told and scan_classes(pair, scores).form == "labels"


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
    # Widened, as half precision and bool cannot be compared with every limit; and a power of two
    # where there is no other limit, as float64 has no 2**63 - 1.
    wide = {"f": np.float64, "b": np.int64}.get(flat.dtype.kind, flat.dtype)
    values = flat.astype(wide, copy=False)
    bad = ~((values >= 0) & (values < (1 << 63 if n_classes is None else n_classes)))
    if values.dtype.kind == "f":
        bad |= values != np.floor(values)
    if bad.any():
        row = int(bad.argmax())
        wanted = "not negative" if n_classes is None else f"from 0 to {n_classes - 1}"
        if n_classes and array is pair.targets and _is_one_column(pair.predictions.shape):
            wanted += ", as the predictions are one score per row, that of class 1"
        raise pair.error(
            array, f"row {start + row} has the label {flat[row]}, wanted an integer {wanted}"
        )
    return flat.astype(np.int64)


def columns_of(chunk: npt.NDArray[Any], form: Form) -> npt.NDArray[Any]:
    """Return probabilities or logits, one column per class, of a chunk of predictions."""
    scores = chunk.reshape(len(chunk), -1)
    if scores.shape[1] == 1:
        scores = scores.astype(np.float64)
        other = 1 - scores if form == "probabilities" else np.zeros_like(scores)
        scores = np.concatenate([other, scores], axis=1)
    return scores


def softmax(logits: npt.NDArray[Any]) -> Floats:
    """Return probabilities, as float64, of logits with a column per class."""
    exponentials = logits.astype(np.float64)
    exponentials -= exponentials.max(axis=1, keepdims=True)
    np.exp(exponentials, out=exponentials)
    exponentials /= exponentials.sum(axis=1, keepdims=True)
    return exponentials


def _scan_labels(pair: Pair) -> Classes:
    for metric in pair.metrics:
        if metric.needs != "labels":
            raise pair.error(
                pair.predictions,
                f"{metric.name} needs scores, given {pair.predictions.dtype} labels of shape "
                f"{pair.predictions.shape}; give scores=probabilities or scores=logits "
                "if these are scores",
            )
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
