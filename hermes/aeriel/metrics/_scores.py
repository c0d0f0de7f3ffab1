"""What scores are: probabilities or logits, as was said, or as all of the rows together show."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt

from hermes.aeriel.metrics._pairs import Pair, Scores
from hermes.errors import ParameterError

Form: TypeAlias = Literal["labels", "probabilities", "logits"]

# How far from 1 a row of probabilities sums: half precision and bfloat16 sum to 1 only roughly.
NEAR_ONE = 1 / 32


@dataclass
class Odd:
    """Rows that are out of the ordinary: how many, and the first of them with its value."""

    n_rows: int = 0
    row: int = -1
    value: float = math.nan

    def add(self, start: int, is_odd: npt.NDArray[np.bool_], values: npt.NDArray[Any]) -> None:
        """Add a chunk of rows, of which the first has the index `start`."""
        if not self.n_rows and is_odd.any():
            first = int(is_odd.argmax())
            self.row, self.value = start + first, float(values[first])
        self.n_rows += int(np.count_nonzero(is_odd))


@dataclass(kw_only=True)
class ScoreScan:
    """What a pass over predictions, taken as scores, has found.

    Attributes
    ----------
    n_rows
        All rows.
    one_column
        Whether a row has one score, that of class 1.
    outside
        Rows with a value outside [0, 1], by more than what rounding does.
    far
        Rows that sum to anything but roughly 1.
    off
        Rows that do not sum to 1 as nearly as scikit-learn's ``log_loss`` wants without a warning.
    highest_label
        The highest label in predictions and targets if the predictions may be labels: whole
        numbers that are not negative, one in a row. Otherwise -1.
    """

    n_rows: int
    one_column: bool
    outside: Odd = field(default_factory=Odd)
    far: Odd = field(default_factory=Odd)
    off: Odd = field(default_factory=Odd)
    highest_label: float = 0.0


def check_scores(scores: str) -> Scores:
    """Return what the parameter ``scores`` says.

    Raises
    ------
    ParameterError
        For anything but ``auto``, ``probabilities`` and ``logits``.
    """
    if scores not in get_args(Scores):
        wanted = ", ".join(get_args(Scores))
        raise ParameterError("scores", f"given {scores!r}, wanted one of {wanted}")
    return cast("Scores", scores)


def precision(dtype: np.dtype[Any]) -> float:
    """Return the eps that scikit-learn clips probabilities of a dtype by."""
    known = dtype.kind == "f" and dtype.itemsize <= np.dtype(np.float64).itemsize
    return float(np.finfo(dtype.newbyteorder("=") if known else np.float64).eps)


def scan_scores(pair: Pair) -> ScoreScan:
    """Return what a pass over the predictions of a pair finds.

    Raises
    ------
    DataError
        For a NaN or infinity in them.
    """
    shape = pair.predictions.shape
    scan = ScoreScan(n_rows=shape[0], one_column=shape[1:] in ((), (1,)))
    tolerance = math.sqrt(precision(pair.predictions.dtype))
    for start, predictions, targets in pair.chunks():
        pair.check_finite(pair.predictions, predictions, start)
        scores = predictions.reshape(len(predictions), -1)
        low, high = scores.min(axis=1), scores.max(axis=1)
        # A sum over many trees in single precision, for one, ends at 1.0000004, or below 0.
        is_outside = (low < -tolerance) | (high > 1 + tolerance)
        scan.outside.add(start, is_outside, np.where(low < -tolerance, low, high))
        if not scan.one_column:
            sums = scores.sum(axis=1, dtype=np.float64)
            scan.far.add(start, np.abs(sums - 1) > NEAR_ONE, sums)
            scan.off.add(start, ~np.isclose(sums, 1, rtol=tolerance), sums)
        elif scan.highest_label >= 0:
            is_label = bool((low >= 0).all() and (low == np.floor(low)).all())
            one_hot = targets.shape[1:] not in ((), (1,))
            highest = float(max(low.max(), targets.shape[1] - 1 if one_hot else targets.max()))
            scan.highest_label = max(scan.highest_label, highest) if is_label else -1.0
    return scan


def form_of(pair: Pair, scan: ScoreScan, scores: Scores) -> Form:
    """Return the form of the predictions: what was said, or what they show beyond doubt.

    Found out are labels where there is one whole number in a row, and not only 0 and 1;
    probabilities where every row lies in [0, 1] and sums to 1, roughly; and logits where most rows
    have a value outside [0, 1]. One row never makes logits of probabilities.

    Raises
    ------
    DataError
        When the predictions are not what was said, or it is in doubt what they are.
    """
    outside, far = scan.outside, scan.far
    if scores == "logits":
        return "logits"
    if scores == "probabilities":
        if outside.n_rows:
            raise pair.error(
                pair.predictions,
                f"row {outside.row} has the value {outside.value:.9g}, wanted probabilities from 0 "
                "to 1; give scores=logits if these are logits",
            )
        return "probabilities"
    if scan.highest_label > 1:
        return "labels"
    if not outside.n_rows and not far.n_rows:
        return "probabilities"
    if 2 * outside.n_rows > scan.n_rows:
        return "logits"
    odd, does = (outside, "has the value") if outside.n_rows else (far, "sums to")
    raise pair.error(
        pair.predictions,
        f"given scores of which {odd.n_rows} of {scan.n_rows} rows are no probabilities (row "
        f"{odd.row} {does} {odd.value:.9g}), and too few for logits; give scores=probabilities or "
        "scores=logits, whichever they are",
    )


def note_of(scan: ScoreScan, form: Form, scores: Scores) -> str | None:
    """Return a sentence on what a reader should know of how scores were understood."""
    if form == "logits" and scores == "auto":
        how = "the sigmoid" if scan.one_column else "softmax"
        return (
            f"The predictions were taken as logits and normalised with {how}: {scan.outside.n_rows}"
            f" of {scan.n_rows} rows have a value outside [0, 1]."
        )
    if form == "probabilities" and scan.off.n_rows:
        return (
            f"{scan.off.n_rows} of {scan.n_rows} rows of probabilities do not sum to 1 (row "
            f"{scan.off.row} sums to {scan.off.value:.9g}). They were taken as they are, as "
            "scikit-learn takes them."
        )
    return None
