"""Whatever the arrays are like, a metric is scikit-learn's number, or the row is refused."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hermes.aeriel.metrics._pairs import Scores
from hermes.errors import DataError
from tests.metrics import compute_metrics

sk = pytest.importorskip("sklearn.metrics")

properties = settings(derandomize=True, database=None, deadline=None, max_examples=60)

Array = Any

LABEL_DTYPES = [
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *(">i4", "float16", "float32", "float64", ">f8"),
]
FLOATS = ["float16", "float32", "float64"]
NUMBERS = [*LABEL_DTYPES, "bool"]
CHUNKS = st.one_of(st.none(), st.integers(1, 40))
# What probabilities and scores are made of: ties, ends, what is just inside them, what underflows.
WEIGHTS = st.sampled_from([0.0, 1.0, 0.5, 0.25, 1e-7, 1e-4, 1 - 1e-4, 1e-30, 0.1, 0.3, 3.0])
NOT_FINITE = st.sampled_from([math.nan, math.inf, -math.inf])


def scikit_learn(function: Callable[..., float], *arguments: Any, **options: Any) -> float:
    """Return its number, without the warnings about what it thinks of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


@st.composite
def labels(draw: st.DrawFn, n_rows: int, n_classes: int) -> Array:
    """Labels, some classes of which may be missing, all but one among them."""
    present = draw(st.integers(1, n_classes))
    return draw(arrays.arrays(np.int64, n_rows, elements=st.integers(0, present - 1)))


def in_some_shape(values: Array) -> st.SearchStrategy[Array]:
    """Return one value per row as (rows,) or (rows, 1)."""
    return st.sampled_from([values, values[:, None]])


@st.composite
def probabilities(draw: st.DrawFn, n_rows: int, n_classes: int) -> Array:
    """Rows of float64 that sum to 1."""
    weights = draw(arrays.arrays(np.float64, (n_rows, n_classes), elements=WEIGHTS, fill=WEIGHTS))
    weights[weights.sum(axis=1) == 0] = 1
    return weights / weights.sum(axis=1, keepdims=True)


def softmax(logits: Array) -> Array:
    """Return probabilities as float64, as scipy's softmax does."""
    wide = logits.astype(np.float64)
    exponentials = np.exp(wide - wide.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def ranked(function: Callable[..., float], truth: Array, scores: Array) -> float:
    """Return the mean over the classes, one against the rest; of two classes, that of class 1."""
    columns = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    return float(np.mean([scikit_learn(function, truth == c, scores[:, c]) for c in columns]))


# ------------------------------------------------------------------------------- labels


@properties
@given(st.data())
def test_labels_of_any_dtype(data: st.DataObject) -> None:
    n_rows, n_classes = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 12))
    truth = data.draw(labels(n_rows, n_classes))
    predicted = data.draw(labels(n_rows, n_classes))
    dtype = data.draw(st.sampled_from(LABEL_DTYPES))
    result = compute_metrics(
        ["accuracy", "confusion_matrix"],
        data.draw(in_some_shape(predicted.astype(dtype))),
        data.draw(in_some_shape(truth.astype(data.draw(st.sampled_from(LABEL_DTYPES))))),
        chunk_rows=data.draw(CHUNKS),
    )
    assert result.scalars["accuracy"] == sk.accuracy_score(truth, predicted)
    n_found = max(2, truth.max() + 1, predicted.max() + 1)
    matrix = sk.confusion_matrix(truth, predicted, labels=range(n_found))
    assert result.confusion_matrix == matrix.tolist()
    assert not result.notes


@properties
@given(st.data())
def test_bool_is_a_label(data: st.DataObject) -> None:
    n_rows = data.draw(st.integers(1, 20))
    truth, predicted = data.draw(arrays.arrays(np.bool_, (2, n_rows)))
    result = compute_metrics(
        ["accuracy", "confusion_matrix"], predicted, truth, chunk_rows=data.draw(CHUNKS)
    )
    assert result.scalars["accuracy"] == sk.accuracy_score(truth, predicted)
    assert (
        result.confusion_matrix
        == sk.confusion_matrix(truth, predicted, labels=[False, True]).tolist()
    )


@properties
@given(st.data())
def test_what_is_no_label_is_refused_with_its_row(data: st.DataObject) -> None:
    n_rows = data.draw(st.integers(1, 30))
    good = data.draw(labels(n_rows, 5))
    # Scores whose targets are bad, labels that are bad themselves, and the other way round.
    bad: Array = good.astype(data.draw(st.sampled_from(["int64", "float64", "float32"])))
    row = data.draw(st.integers(0, n_rows - 1))
    wrong = [-1, -(2**31), 2**62] if bad.dtype.kind == "i" else [-1, 0.5, 2.0**63, 1e30]
    if bad.dtype.kind == "f":
        wrong += [math.nan, math.inf, -math.inf]
    bad[row] = data.draw(st.sampled_from(wrong))
    predictions = data.draw(st.sampled_from([good, np.eye(5)[good]]))
    assume(predictions.ndim == 2 or bad[row] != 2**62)  # a label, if nothing says how many
    with pytest.raises(DataError, match=rf"the targets: accuracy: row {row} has the label"):
        compute_metrics(["accuracy"], predictions, bad, chunk_rows=data.draw(CHUNKS))


@pytest.mark.parametrize("dtype", ["U3", "S3", "O", "datetime64[s]", "complex64"])
def test_what_is_no_number_is_refused(dtype: str) -> None:
    words = np.array([1, 0, 1]).astype(dtype)
    for metric in ("accuracy", "mse", "reference"):
        with pytest.raises(DataError, match=r"the targets: .*, wanted numbers"):
            compute_metrics([metric], np.array([1, 0, 1]), words)
        with pytest.raises(DataError, match=r"the predictions: .*, wanted numbers"):
            compute_metrics([metric], words, np.array([1, 0, 1]))


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_nothing_is_refused(dtype: str, shape: tuple[int, ...]) -> None:
    nothing = np.zeros(shape, dtype)
    for metric in ("accuracy", "log_loss", "mse", "reference"):
        with pytest.raises(DataError, match="wanted at least one row"):
            compute_metrics([metric], nothing, nothing)


def test_labels_that_are_huge_have_an_accuracy() -> None:
    truth = np.array([2**62, 5, 2**62], np.uint64)
    predicted = np.array([2**62, 5, 2**62 - 1], np.int64)
    assert compute_metrics(["accuracy"], predicted, truth).scalars == {"accuracy": 2 / 3}


# ------------------------------------------------------------------------------- scores


def check_scores(
    data: st.DataObject, given: Array, shown: Array, truth: Array, scores: Scores
) -> None:
    """Compare all metrics of scores with those of the probabilities that they show."""
    n_classes = shown.shape[1]
    names = ["accuracy", "top_1_accuracy", "top_2_accuracy", "log_loss", "confusion_matrix"]
    options: Any = {"scores": scores, "chunk_rows": data.draw(CHUNKS)}
    hot = data.draw(st.booleans())
    result = compute_metrics(names, given, np.eye(n_classes)[truth] if hot else truth, **options)
    predicted = shown.argmax(axis=1)
    assert result.scalars["accuracy"] == sk.accuracy_score(truth, predicted)
    matrix = sk.confusion_matrix(truth, predicted, labels=range(n_classes))
    assert result.confusion_matrix == matrix.tolist()
    classes = np.arange(n_classes)
    for k in (1, 2):
        column = shown[:, 1] if n_classes == 2 else shown
        expected = scikit_learn(sk.top_k_accuracy_score, truth, column, k=k, labels=classes)
        assert result.scalars[f"top_{k}_accuracy"] == pytest.approx(expected, abs=1e-15)
    eps = float(np.finfo(shown.dtype).eps)
    # Its sums are of the dtype, ours are float64.
    expected = scikit_learn(sk.log_loss, truth, shown, labels=classes)
    assert result.scalars["log_loss"] == pytest.approx(expected, rel=4 * eps, abs=2 * eps)

    ranking = ["roc_auc", "average_precision"]
    if len(np.unique(truth)) < n_classes:
        with pytest.raises(DataError, match="roc_auc, average_precision: no row of class"):
            compute_metrics(ranking, given, truth, **options)
        return
    scalars = compute_metrics(ranking, given, truth, **options).scalars
    assert scalars["roc_auc"] == pytest.approx(ranked(sk.roc_auc_score, truth, shown), abs=1e-12)
    expected = ranked(sk.average_precision_score, truth, shown)
    assert scalars["average_precision"] == pytest.approx(expected, abs=1e-12)
    if n_classes > 2 and np.allclose(1, shown.sum(axis=1)):
        macro = sk.roc_auc_score(truth, shown, multi_class="ovr", average="macro")
        assert scalars["roc_auc"] == pytest.approx(macro, abs=1e-12)


@properties
@given(st.data())
def test_probabilities_of_any_dtype(data: st.DataObject) -> None:
    n_rows, n_classes = data.draw(st.integers(1, 30)), data.draw(st.integers(2, 6))
    dtype = data.draw(st.sampled_from(FLOATS))
    shown = data.draw(probabilities(n_rows, n_classes)).astype(dtype)
    truth = data.draw(labels(n_rows, n_classes))
    scores: Scores = data.draw(st.sampled_from(["auto", "probabilities"]))
    check_scores(data, shown, shown, truth, scores)


@properties
@given(st.data())
def test_probabilities_of_class_1(data: st.DataObject) -> None:
    n_rows, dtype = data.draw(st.integers(1, 30)), data.draw(st.sampled_from(FLOATS))
    one = data.draw(probabilities(n_rows, 2))[:, 1].astype(dtype)
    truth = data.draw(labels(n_rows, 2))
    shown = np.stack([1 - one, one], axis=1)
    # What rounds to a tie, or out of one, is no matter of metrics.
    assume((shown.astype(np.float64).sum(axis=1) == 1).all() or dtype == "float64")
    scores: Scores = data.draw(st.sampled_from(["auto", "probabilities"]))
    check_scores(data, data.draw(in_some_shape(one)), shown, truth, scores)


@properties
@given(st.data())
def test_logits_of_any_dtype(data: st.DataObject) -> None:
    n_rows, n_classes = data.draw(st.integers(1, 30)), data.draw(st.integers(2, 6))
    dtype = data.draw(st.sampled_from([*FLOATS, "int8", "int64"]))
    wide = data.draw(st.sampled_from([1, 8, 100, 60000 if dtype != "int8" else 100]))
    logits = data.draw(
        arrays.arrays(np.int64, (n_rows, n_classes), elements=st.integers(-wide, wide))
    ).astype(dtype)
    truth = data.draw(labels(n_rows, n_classes))
    shown = softmax(logits)
    # Where softmax rounds to ties the logits still tell apart.
    rows = np.arange(n_rows)
    assume((np.sort(shown)[:, 1:] != np.sort(shown)[:, :-1]).any() or n_rows == 1)
    order = np.argsort(logits, axis=1, kind="stable")
    assume((order == np.argsort(shown, axis=1, kind="stable")).all())
    assume(n_classes > 2 or len(np.unique(shown[rows, 1])) == len(set(logits[:, 1] - logits[:, 0])))
    check_scores(data, logits, shown, truth, "logits")


@properties
@given(st.data())
def test_one_row_makes_no_logits_of_probabilities(data: st.DataObject) -> None:
    n_rows, n_classes = data.draw(st.integers(3, 30)), data.draw(st.integers(2, 6))
    shown = data.draw(probabilities(n_rows, n_classes))
    row = data.draw(st.integers(0, n_rows - 1))
    shown[row] *= data.draw(st.sampled_from([1 - 1e-3, 1 + 1e-3, 1.2, 1e4, -1.0]))
    truth = data.draw(labels(n_rows, n_classes))
    assume(not np.isclose(shown[row].sum(), 1, rtol=1e-8))
    given = data.draw(st.sampled_from([shown, shown[:, 0]])) if n_classes == 2 else shown
    try:
        result = compute_metrics(["log_loss"], given, truth, chunk_rows=data.draw(CHUNKS))
    except DataError as error:
        assert f"1 of {n_rows} rows are no probabilities (row {row} " in str(error)  # noqa: PT017
        return
    assert not any("logits" in note for note in result.notes)
    if given is shown:
        expected = scikit_learn(sk.log_loss, truth, shown, labels=range(n_classes))
        assert result.scalars["log_loss"] == pytest.approx(expected, rel=1e-12)
        assert f"1 of {n_rows} rows of probabilities do not sum to 1 (row {row}" in result.notes[0]


# --------------------------------------------------------------------------- regression

VALUES: dict[str, st.SearchStrategy[float]] = {
    "tiny": st.sampled_from([0.0, 1e-300, -1e-300, 5e-324, 1e-160]),
    "huge": st.sampled_from([0.0, 1e139, -1e139, 1.0, 9e139]),
    "offset": st.floats(1e8, 1e8 + 1),
    "plain": st.floats(-100, 100),
}


def check_regression(predictions: Array, targets: Array, chunk_rows: int | None) -> None:
    names = ["mse", "rmse", "mae", "bias", "max_absolute_error"]
    result = compute_metrics(names, predictions, targets, chunk_rows=chunk_rows)
    p, t = (array.reshape(len(array), -1).astype(np.float64) for array in (predictions, targets))
    expected = {
        "mse": scikit_learn(sk.mean_squared_error, t, p),
        "rmse": scikit_learn(sk.root_mean_squared_error, t, p),
        "mae": scikit_learn(sk.mean_absolute_error, t, p),
        "max_absolute_error": scikit_learn(sk.max_error, t.ravel(), p.ravel()),
    }
    bias = result.scalars.pop("bias")
    assert result.scalars == pytest.approx(expected, rel=1e-12, abs=0)
    scale = max(1e-300, expected["mae"])
    assert bias / scale == pytest.approx((p - t).mean() / scale, abs=1e-12)
    assert sum(result.curves["residual_histogram"]["counts"]) == p.size
    assert sum(map(sum, result.curves["predicted_vs_true"]["counts"])) == p.size
    if len(p) > 1:
        scalars = compute_metrics(["r2"], predictions, targets, chunk_rows=chunk_rows).scalars
        spread = np.ptp(t, axis=0) ** 2
        # Rounding decides of a target that is all but constant; one that is constant is exact.
        if (spread > 1e-9 * (t**2).sum(axis=0)).all():
            expected_r2 = scikit_learn(sk.r2_score, t, p)
            assert scalars["r2"] == pytest.approx(expected_r2, rel=1e-5, abs=1e-5)
        elif (spread == 0).all() and (t[0] == t).all():
            met = ((p - t) ** 2 == 0).all(axis=0)
            assert scalars["r2"] == pytest.approx(met.mean())


@properties
@given(st.data())
def test_regression_of_floats(data: st.DataObject) -> None:
    n_rows, n_outputs = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 3))
    kind = data.draw(st.sampled_from(list(VALUES)))
    dtype = data.draw(st.sampled_from(FLOATS if kind == "plain" else ["float64"]))
    pair = arrays.arrays(np.float64, (2, n_rows, n_outputs), elements=VALUES[kind])
    predictions, targets = data.draw(pair).astype(dtype)
    if n_outputs == 1:
        predictions = predictions[:, 0]
    check_regression(predictions, targets, data.draw(CHUNKS))


@properties
@given(st.data())
def test_regression_of_whole_numbers_does_not_wrap(data: st.DataObject) -> None:
    n_rows, n_outputs = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 3))
    dtypes = st.sampled_from(["int8", "uint8", "int16", "uint32", "int64", "uint64", "bool"])
    shape = (n_rows, n_outputs)
    predictions, targets = (data.draw(arrays.arrays(data.draw(dtypes), shape)) for _ in range(2))
    check_regression(predictions, targets, data.draw(CHUNKS))


def test_half_precision_is_summed_in_double() -> None:
    targets = np.full(100_000, 2.0, np.float16)
    predictions = np.full(100_000, 60_000.0, np.float16)
    scalars = compute_metrics(["mse", "mae"], predictions, targets).scalars
    assert scalars == {"mse": (60_000.0 - 2) ** 2, "mae": 60_000.0 - 2}


def test_constant_targets() -> None:
    for value in (0.1, 1 / 3, 1e17, -7.0, 0.0):
        targets = np.full(13, value)
        for shift, expected in ((0.0, 1.0), (1e9, 0.0)):
            for chunk_rows in (None, 1, 5):
                scalars = compute_metrics(
                    ["r2"], targets + shift, targets, chunk_rows=chunk_rows
                ).scalars
                assert scalars == {"r2": expected}


# ----------------------------------------------------------------- not finite, and chunks


@properties
@given(st.data())
def test_what_is_not_finite_is_refused_with_its_row(data: st.DataObject) -> None:
    n_rows, n_outputs = data.draw(st.integers(1, 30)), data.draw(st.integers(2, 4))
    dtype = data.draw(st.sampled_from(FLOATS))
    good = data.draw(probabilities(n_rows, n_outputs)).astype(dtype)
    bad = good.copy()
    row, column = data.draw(st.integers(0, n_rows - 1)), data.draw(st.integers(0, n_outputs - 1))
    bad[row, column] = data.draw(NOT_FINITE)
    said = rf"row {row} has a NaN or infinite value"
    chunk_rows = data.draw(CHUNKS)
    truth = data.draw(labels(n_rows, n_outputs))
    scores: Scores = data.draw(st.sampled_from(["auto", "probabilities", "logits"]))
    for name in ("accuracy", "log_loss", "roc_auc", "top_1_accuracy"):
        with pytest.raises(DataError, match=f"the predictions: {name}: {said}"):
            compute_metrics([name], bad, truth, chunk_rows=chunk_rows, scores=scores)
    for name in ("mse", "mae", "bias"):
        with pytest.raises(DataError, match=f"the predictions: {name}: {said}"):
            compute_metrics([name], bad, good, chunk_rows=chunk_rows)
        with pytest.raises(DataError, match=f"the targets: {name}: {said}"):
            compute_metrics([name], good, bad, chunk_rows=chunk_rows)


@properties
@given(st.data())
def test_the_size_of_the_chunks_is_no_matter(data: st.DataObject) -> None:
    n_rows, n_classes = data.draw(st.integers(2, 40)), data.draw(st.integers(2, 5))
    shown = data.draw(probabilities(n_rows, n_classes))
    truth = np.arange(n_rows) % n_classes
    assume(n_rows >= n_classes)
    names = ["accuracy", "log_loss", "top_2_accuracy", "roc_auc", "average_precision"]
    names += ["confusion_matrix", "mse", "rmse", "mae", "bias", "r2", "max_absolute_error"]
    hot = np.eye(n_classes)[truth]
    whole = compute_metrics([*names, "reference"], shown, hot)
    parts = compute_metrics(
        [*names, "reference"], shown, hot, chunk_rows=data.draw(st.integers(1, 40))
    )
    assert parts.scalars == pytest.approx(whole.scalars, rel=1e-12, abs=1e-14)
    assert parts.confusion_matrix == whole.confusion_matrix
    assert parts.reference == whole.reference
    assert parts.notes == whole.notes
