"""Metrics agree with scikit-learn, however the rows are cut, and say what they cannot take."""

import json
import math
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.aeriel.metrics._metrics import (
    METRICS,
    MetricsResult,
    parse_metrics,
    scalar_names,
)
from hermes.aeriel.metrics._ranking import MAX_CURVE_POINTS
from hermes.errors import DataError, ParameterError
from tests.metrics import compute_metrics

sklearn_metrics = pytest.importorskip("sklearn.metrics")

SCORE_METRICS = [
    "accuracy",
    "top_2_accuracy",
    "log_loss",
    "roc_auc",
    "average_precision",
    "confusion_matrix",
]
REGRESSION_METRICS = ["mse", "rmse", "mae", "bias", "r2", "max_absolute_error"]


def softmax(logits: Any) -> Any:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def class_data(n_rows: int, n_classes: int, seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    labels = np.arange(n_rows) % n_classes
    random.shuffle(labels)
    logits = random.normal(size=(n_rows, n_classes)) * 2 + 0.1
    logits[np.arange(n_rows), labels] += 1
    return logits, labels


# ------------------------------------------------------------------------------ classes


@pytest.mark.parametrize("columns", [1, 2])
def test_probabilities_are_such_but_for_rounding(columns: int) -> None:
    exact = np.array([[1.0, 0.0], [0.25, 0.75], [0.0, 1.0]], np.float32)
    # As a forest of trees sums them in single precision.
    rounded = exact + np.array([[4e-7, -4e-7]] * 3, np.float32)
    labels = np.array([0, 1, 1])
    for scores in ("auto", "probabilities"):
        found, wanted = (
            compute_metrics(
                ["accuracy", "log_loss"],
                values[:, -1] if columns == 1 else values,
                labels,
                scores=scores,
            ).scalars
            for values in (rounded, exact)
        )
        assert found["accuracy"] == 1
        assert found["log_loss"] == pytest.approx(wanted["log_loss"], abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    n_rows=st.integers(12, 60),
    n_classes=st.integers(2, 5),
    chunk_rows=st.integers(1, 70),
    seed=st.integers(0, 1000),
    form=st.sampled_from(["logits", "probabilities"]),
)
def test_class_scores_agree_with_scikit_learn(
    n_rows: int, n_classes: int, chunk_rows: int, seed: int, form: str
) -> None:
    logits, labels = class_data(n_rows, n_classes, seed)
    probabilities = softmax(logits)
    result = compute_metrics(
        SCORE_METRICS,
        logits if form == "logits" else probabilities,
        np.eye(n_classes)[labels] if seed % 2 else labels,
        chunk_rows=chunk_rows,
    )
    hot = np.eye(n_classes)[labels]
    predicted = logits.argmax(axis=1)
    top_2 = np.argsort(logits, axis=1)[:, -2:]
    columns = [1] if n_classes == 2 else range(n_classes)
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
        "top_2_accuracy": np.mean([label in top for label, top in zip(labels, top_2, strict=True)]),
        "log_loss": sklearn_metrics.log_loss(labels, probabilities),
        "roc_auc": np.mean(
            [sklearn_metrics.roc_auc_score(hot[:, c], probabilities[:, c]) for c in columns]
        ),
        "average_precision": np.mean(
            [
                sklearn_metrics.average_precision_score(hot[:, c], probabilities[:, c])
                for c in columns
            ]
        ),
    }
    assert result.scalars == pytest.approx(expected)
    if n_classes > 2:
        assert result.scalars["roc_auc"] == pytest.approx(
            sklearn_metrics.roc_auc_score(labels, probabilities, multi_class="ovr")
        )
    matrix = sklearn_metrics.confusion_matrix(labels, predicted, labels=range(n_classes))
    assert result.confusion_matrix == matrix.tolist()
    assert bool(result.notes) is (form == "logits")
    histogram = result.curves["score_histogram"]["counts"]
    assert sum(map(sum, histogram.values())) == n_rows


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("as_logits", [False, True])
def test_one_score_per_row_is_the_score_of_class_1(shape: tuple[int, ...], as_logits: bool) -> None:
    logits = np.random.default_rng(1).normal(size=50).astype(np.float32)
    labels = (logits + np.random.default_rng(2).normal(size=50) > 0).astype(np.int8)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    result = compute_metrics(
        ["accuracy", "log_loss", "roc_auc", "average_precision"],
        (logits if as_logits else probabilities).reshape(shape),
        labels.reshape(shape),
        chunk_rows=7,
    )
    assert result.scalars == pytest.approx(
        {
            "accuracy": sklearn_metrics.accuracy_score(labels, logits > 0),
            "log_loss": sklearn_metrics.log_loss(labels, probabilities),
            "roc_auc": sklearn_metrics.roc_auc_score(labels, logits),
            "average_precision": sklearn_metrics.average_precision_score(labels, logits),
        }
    )
    assert bool(result.notes) is as_logits


def test_one_row_does_not_turn_probabilities_into_logits() -> None:
    logits, labels = class_data(1000, 3)
    probabilities = softmax(logits).astype(np.float32)
    probabilities[5] *= 1.0012
    for scores in ("auto", "probabilities"):
        result = compute_metrics(["log_loss"], probabilities, labels, scores=scores, chunk_rows=7)
        with pytest.warns(UserWarning, match="do not sum to one"):
            expected = sklearn_metrics.log_loss(labels, probabilities)
        assert result.scalars["log_loss"] == pytest.approx(expected, rel=1e-6)
        (note,) = result.notes
        assert note.startswith(
            "1 of 1000 rows of probabilities do not sum to 1 (row 5 sums to 1.00"
        )
        assert note.endswith("They were taken as they are, as scikit-learn takes them.")


@pytest.mark.parametrize(
    ("n_odd", "odd", "message"),
    [
        (
            1,
            [0.5, 0.9],
            "given scores of which 1 of 4 rows are no probabilities (row 1 sums to 1.4)",
        ),
        (
            1,
            [-0.5, 1.5],
            "1 of 4 rows are no probabilities (row 1 has the value -0.5), and too few",
        ),
        (
            2,
            [-0.5, 1.5],
            "2 of 4 rows are no probabilities (row 1 has the value -0.5), and too few",
        ),
        (3, [0.5, 0.9], "3 of 4 rows are no probabilities (row 1 sums to 1.4), and too few"),
    ],
)
def test_scores_that_may_be_either_are_refused(n_odd: int, odd: list[float], message: str) -> None:
    scores = np.array([[0.5, 0.5]] + [odd] * n_odd + [[0.1, 0.9]] * (3 - n_odd))
    labels = np.array([0, 1, 1, 0])
    with pytest.raises(DataError) as caught:
        compute_metrics(["log_loss"], scores, labels, chunk_rows=1)
    assert message in str(caught.value)
    assert "give scores=probabilities or scores=logits" in str(caught.value)
    assert not compute_metrics(["log_loss"], scores, labels, scores="logits").notes


def test_one_score_of_class_1_outside_0_and_1_is_refused() -> None:
    with pytest.raises(DataError, match=r"1 of 3 rows .* \(row 1 has the value 1.5\)"):
        compute_metrics(["accuracy"], np.array([0.5, 1.5, 0.5]), np.array([0, 1, 1]))


def test_a_note_says_that_most_rows_are_no_probabilities() -> None:
    scores = np.array([[0.5, 0.5], [0.5, 1.9], [-0.1, 0.9]])
    for columns, how in ((scores, "softmax"), (scores[:, 1:] * 2, "the sigmoid")):
        result = compute_metrics(["log_loss"], columns, np.array([0, 1, 1]), chunk_rows=1)
        assert list(result.notes) == [
            (
                f"The predictions were taken as logits and normalised with {how}: "
                "2 of 3 rows have a value outside [0, 1]."
            )
        ]


def test_probabilities_outside_0_and_1_are_refused() -> None:
    scores = np.array([[0.5, 0.5], [-0.25, 1.25]])
    with pytest.raises(DataError, match=r"row 1 has the value -0.25, wanted .*give scores=logits"):
        compute_metrics(["accuracy"], scores, np.array([0, 1]), scores="probabilities")
    with pytest.raises(ParameterError, match="scores: given 'logit', wanted one of auto, prob"):
        compute_metrics(["accuracy"], scores, np.array([0, 1]), scores="logit")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_saturated_probabilities_cost_what_they_cost_in_scikit_learn(dtype: type) -> None:
    labels = np.array([0, 1, 2, 0, 1])
    saturated: Any = np.eye(3, dtype=dtype)[[0, 1, 1, 2, 1]]
    result = compute_metrics(["log_loss"], saturated, labels, chunk_rows=2)
    expected = sklearn_metrics.log_loss(labels, saturated)
    assert result.scalars["log_loss"] == pytest.approx(expected, rel=2 * float(np.finfo(dtype).eps))


def test_saturated_logits_cost_what_their_softmax_costs_in_scikit_learn() -> None:
    logits = np.array([[500, 0, 0], [0, 500, 1], [3, 1, 2]], np.float32)
    labels = np.array([1, 1, 2])
    expected = sklearn_metrics.log_loss(labels, softmax(logits.astype(np.float64)), labels=range(3))
    result = compute_metrics(["log_loss"], logits, labels)
    assert result.scalars["log_loss"] == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_whole_numbers_of_a_float_dtype_are_labels(dtype: type) -> None:
    labels = np.array([0, 2, 1, 2])
    # In two of them the predictions alone might be probabilities.
    for predicted in ([0, 2, 2, 2], [0, 1, 1, 0], [1, 1, 1, 1]):
        predictions: Any = np.array(predicted, dtype)
        result = compute_metrics(["accuracy", "confusion_matrix"], predictions, labels)
        assert result.scalars["accuracy"] == sklearn_metrics.accuracy_score(labels, predicted)
        hot = compute_metrics(["accuracy"], predictions[:, None], np.eye(4)[labels], chunk_rows=1)
        assert hot.scalars == result.scalars
        with pytest.raises(DataError, match=r"the predictions: log_loss: log_loss needs scores"):
            compute_metrics(["log_loss"], predictions, labels)


def test_labels_beside_scores_of_class_1_say_what_is_wrong() -> None:
    with pytest.raises(DataError, match="wanted an integer from 0 to 1, as the predictions are on"):
        compute_metrics(["accuracy"], np.array([0.5, 0.25]), np.array([0, 2]))


def test_half_precision_probabilities_are_probabilities() -> None:
    probabilities = softmax(class_data(40, 10)[0]).astype(np.float16)
    assert not compute_metrics(["log_loss"], probabilities, np.arange(40) % 10).notes


def test_saturated_logits_keep_their_order() -> None:
    logits = np.array([40.0, 41.0, 42.0, 43.0])
    labels = np.array([0, 0, 1, 1])
    for scores in (logits, np.stack([np.zeros(4), logits], axis=1)):
        result = compute_metrics(["roc_auc"], scores, labels, scores="logits")
        assert result.scalars == {"roc_auc": 1.0}


def test_a_probability_of_0_for_the_true_class_costs_a_finite_log_loss() -> None:
    scores = np.array([[1.0, 0.0], [0.0, 1.0]])
    labels = np.array([1, 1])
    expected = sklearn_metrics.log_loss(labels, scores, labels=[0, 1])
    assert compute_metrics(["log_loss"], scores, labels).scalars["log_loss"] == pytest.approx(
        expected
    )


def test_equal_scores_go_where_argmax_and_scikit_learn_send_them() -> None:
    scores = np.full((3, 3), 1 / 3)
    labels = np.array([0, 1, 1])
    names = ["accuracy", "top_1_accuracy", "top_2_accuracy", "top_3_accuracy"]
    result = compute_metrics(names, scores, labels)
    assert result.scalars == {
        "accuracy": sklearn_metrics.accuracy_score(labels, scores.argmax(axis=1)),
        "top_1_accuracy": sklearn_metrics.top_k_accuracy_score(
            labels, scores, k=1, labels=range(3)
        ),
        "top_2_accuracy": sklearn_metrics.top_k_accuracy_score(
            labels, scores, k=2, labels=range(3)
        ),
        "top_3_accuracy": 1,
    }
    half = np.full(3, 0.5)
    expected = sklearn_metrics.top_k_accuracy_score([0, 1, 1], half, k=1)
    result = compute_metrics(["accuracy", "top_1_accuracy"], half, labels)
    assert list(result.scalars.values()) == [expected, expected]


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_labels_as_predictions(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(3)
    labels, predicted = random.integers(0, 4, size=(2, 33))
    matrix = sklearn_metrics.confusion_matrix(labels, predicted).tolist()
    for targets in (labels, labels.astype(np.float32), np.eye(4)[labels]):
        result = compute_metrics(
            ["accuracy", "confusion_matrix"], predicted.reshape(shape), targets, chunk_rows=10
        )
        assert result.scalars == {"accuracy": np.mean(labels == predicted)}
        assert result.confusion_matrix == matrix
        assert not result.curves


def test_top_k_accuracy_is_that_of_5_and_counts_once() -> None:
    logits, labels = class_data(30, 7)
    names = ["top_2_accuracy", "top_k_accuracy", "top_5_accuracy"]
    result = compute_metrics(names, logits, labels)
    assert list(result.scalars) == ["top_2_accuracy", "top_5_accuracy"]


def test_roc_curves_are_thinned_and_keep_their_ends_and_area() -> None:
    random = np.random.default_rng(4)
    labels = random.integers(0, 2, size=20000)
    scores = random.normal(size=20000) + labels
    result = compute_metrics(["roc_auc"], scores, labels)
    (curve,) = result.curves["roc"]
    x, y = curve["false_positive_rate"], curve["true_positive_rate"]
    assert len(x) <= MAX_CURVE_POINTS
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert sklearn_metrics.auc(x, y) == pytest.approx(result.scalars["roc_auc"], abs=1e-3)


def test_classes_are_ranked_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = class_data(50, 25)
    whole = compute_metrics(["roc_auc", "average_precision"], logits, labels)
    monkeypatch.setattr("hermes.aeriel.metrics._ranking.SCORES_AT_ONCE", 350)
    assert compute_metrics(["roc_auc", "average_precision"], logits, labels) == whole
    assert len(whole.curves["roc"]) == 20
    assert whole.notes[-1] == "ROC curves are given for the first 20 of 25 classes."


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decimals", [0, 1, 7])
def test_scores_are_ranked_a_range_at_a_time(
    monkeypatch: pytest.MonkeyPatch, decimals: int, dtype: npt.DTypeLike
) -> None:
    random = np.random.default_rng(5)
    labels = random.integers(0, 2, size=5000)
    scores = random.normal(0.4 + 0.2 * labels, 0.3).clip(0, 1).round(decimals).astype(dtype)
    names = ["roc_auc", "average_precision"]
    whole = compute_metrics(names, scores, labels)
    monkeypatch.setattr("hermes.aeriel.metrics._ranking.SCORES_AT_ONCE", 300)
    monkeypatch.setattr("hermes.aeriel.metrics._ranking.SAMPLE_ROWS", 500)
    monkeypatch.setattr("hermes.aeriel.metrics._pairs.CHUNK_ELEMENTS", 100)
    parted = compute_metrics(names, scores, labels)
    assert parted.scalars == pytest.approx(whole.scalars, rel=1e-14)
    area = sklearn_metrics.roc_auc_score(labels, scores)
    assert parted.scalars["roc_auc"] == pytest.approx(area, rel=1e-12)
    precision = sklearn_metrics.average_precision_score(labels, scores)
    assert parted.scalars["average_precision"] == pytest.approx(precision, rel=1e-12)
    (curve,) = parted.curves["roc"]
    x, y = curve["false_positive_rate"], curve["true_positive_rate"]
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert sklearn_metrics.auc(x, y) == pytest.approx(parted.scalars["roc_auc"], abs=1e-3)


# --------------------------------------------------------------------------- regression


@settings(deadline=None, max_examples=40)
@given(
    n_rows=st.integers(2, 40),
    n_outputs=st.integers(0, 3),
    chunk_rows=st.integers(1, 50),
    offset=st.sampled_from([0.0, 1e6]),
    dtype=st.sampled_from([np.float32, np.float64, np.int32]),
)
def test_regression_agrees_with_scikit_learn(
    n_rows: int, n_outputs: int, chunk_rows: int, offset: float, dtype: type
) -> None:
    random = np.random.default_rng(n_rows)
    shape = (n_rows, n_outputs) if n_outputs else (n_rows,)
    targets: Any = (random.normal(size=shape) * 100 + offset).astype(dtype)
    predictions: Any = (targets + random.normal(size=shape) * 10).astype(dtype)
    result = compute_metrics(REGRESSION_METRICS, predictions, targets, chunk_rows=chunk_rows)
    p, t = predictions.astype(np.float64), targets.astype(np.float64)
    assert result.scalars == pytest.approx(
        {
            "mse": sklearn_metrics.mean_squared_error(t, p),
            "rmse": sklearn_metrics.root_mean_squared_error(t, p),
            "mae": sklearn_metrics.mean_absolute_error(t, p),
            "bias": (p - t).mean(),
            "r2": sklearn_metrics.r2_score(t, p),
            "max_absolute_error": sklearn_metrics.max_error(t.ravel(), p.ravel()),
        },
        rel=1e-9,
    )
    assert sum(result.curves["residual_histogram"]["counts"]) == p.size
    assert sum(map(sum, result.curves["predicted_vs_true"]["counts"])) == p.size


@pytest.mark.parametrize(("shift", "r2"), [(0, 1), (1, 0)])
def test_a_constant_target_has_the_r2_of_scikit_learn(shift: float, r2: float) -> None:
    targets = np.full(5, 1e17)
    result = compute_metrics(["r2"], targets + shift * 1e9, targets)
    assert result.scalars == {"r2": r2}
    assert sum(result.curves["residual_histogram"]["counts"]) == 5


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, None])
def test_a_constant_target_is_constant_though_its_mean_is_rounded(chunk_rows: int | None) -> None:
    # The sum of three tenths is not 0.3.
    targets = np.full(3, 0.1)
    for shift, r2 in ((0.0, 1.0), (0.25, 0.0)):
        result = compute_metrics(["r2"], targets + shift, targets, chunk_rows=chunk_rows)
        assert result.scalars == {"r2": r2}


def test_numbers_that_no_sum_of_squares_can_hold_are_refused() -> None:
    large = np.array([0.0, -1e141])
    with pytest.raises(
        DataError, match=r"the targets: mae: row 1 has the value -1e\+141, wanted at"
    ):
        compute_metrics(["mae"], np.zeros(2), large)
    with pytest.raises(DataError, match="the predictions: mse: row 1 has the value"):
        compute_metrics(["mse"], large, np.zeros(2), chunk_rows=1)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
@pytest.mark.parametrize("chunk_rows", [1, None])
def test_whole_numbers_that_are_no_float64_are_compared_exactly(
    dtype: type, chunk_rows: int | None
) -> None:
    targets: Any = 1126259462391000001 + np.arange(3).astype(dtype)
    predictions = targets + dtype(64)
    result = compute_metrics(
        ["max_absolute_error", "mse", "bias", "r2", "reference"],
        predictions, targets, chunk_rows=chunk_rows, rtol=0.0, atol=63.0,
    )  # fmt: skip
    assert result.scalars["max_absolute_error"] == 64
    assert result.scalars["mse"] == 4096
    assert result.scalars["bias"] == 64
    assert result.scalars["r2"] == 1 - 3 * 4096 / 2
    assert result.scalars["reference"] == 0
    assert result.scalars["reference_max_absolute_difference"] == 64
    # Nor where the other side is a float.
    below = compute_metrics(["bias"], targets.astype(np.float64), targets)
    assert below.scalars == {"bias": 62.0}


def test_one_column_and_none_are_the_same() -> None:
    values = np.arange(4.0)
    assert compute_metrics(["mse"], values[:, None], values + 2).scalars == {"mse": 4.0}


# ---------------------------------------------------------------------------- reference


AWKWARD = st.sampled_from([0.0, -0.0, 1.0, 1.0 + 1e-6, -2.0, np.nan, np.inf, -np.inf, 1e300])


@settings(deadline=None)
@given(
    pairs=st.lists(st.tuples(AWKWARD, AWKWARD), min_size=1, max_size=20),
    rtol=st.sampled_from([0.0, 1e-5, 1.0]),
    atol=st.sampled_from([0.0, 1e-8, 2.0]),
    chunk_rows=st.integers(1, 21),
)
def test_reference_agrees_where_isclose_does(
    pairs: list[tuple[float, float]], rtol: float, atol: float, chunk_rows: int
) -> None:
    predictions, expected = np.array(pairs).T
    close = np.isclose(predictions, expected, rtol=rtol, atol=atol, equal_nan=True)
    result = compute_metrics(
        ["reference"], predictions, expected, rtol=rtol, atol=atol, chunk_rows=chunk_rows
    )
    reference = result.reference
    assert reference is not None
    assert reference["n_elements"] == len(pairs)
    assert reference["n_disagreeing"] == np.count_nonzero(~close)
    assert result.scalars["reference"] == pytest.approx(close.mean())
    first = None if close.all() else [int(np.argmin(close))]
    assert reference["first_disagreeing_index"] == first


def test_reference_reports_differences_and_the_first_index() -> None:
    expected = np.zeros((4, 2, 3), np.float32)
    expected[3] = 10
    predictions = expected.copy()
    predictions[2, 1, 0] = 0.5
    predictions[3, 0, 1] = 12
    result = compute_metrics(["reference"], predictions, expected, chunk_rows=1)
    assert result.reference == {
        "rtol": 1e-5,
        "atol": 1e-8,
        "n_elements": 24,
        "n_disagreeing": 2,
        "fraction_agreeing": 1 - 2 / 24,
        "max_absolute_difference": 2.0,
        "max_relative_difference": pytest.approx(0.2),
        "first_disagreeing_index": [2, 1, 0],
    }
    assert tuple(result.scalars) == scalar_names(["reference"])


def test_reference_tells_apart_integers_that_are_equal_as_floats() -> None:
    big = np.array([2**53])
    result = compute_metrics(["reference"], big, big + 1, rtol=0, atol=0)
    assert result.scalars["reference_n_disagreeing"] == 1


def test_a_nan_that_was_not_expected_differs_without_bound() -> None:
    result = compute_metrics(["reference"], np.array([np.nan, 1]), np.array([1.0, 1]))
    assert result.scalars["reference_max_absolute_difference"] == math.inf
    both = np.array([np.nan])
    result = compute_metrics(["reference"], both, both)
    assert result.scalars["reference_max_relative_difference"] == 0


# ---------------------------------------------------------------------------- bad input


LABELS = np.array([0, 1, 2, 1])
SCORES = softmax(class_data(4, 3)[0])
NAN = np.where(np.eye(4, 3, k=-2) > 0, np.nan, SCORES)


@pytest.mark.parametrize(
    ("names", "predictions", "targets", "message"),
    [
        (["accuracy"], SCORES, LABELS[:3], "the targets: accuracy: given 3 rows, wanted 4"),
        (["mse"], SCORES[:0], LABELS[:0], "mse: given shape (0, 3), wanted at least one row"),
        (["mse"], np.array(["a"]), LABELS[:1], "mse: given dtype <U1, wanted numbers"),
        (
            ["accuracy"],
            SCORES,
            LABELS + 1,
            "accuracy: row 2 has the label 3, wanted an integer from",
        ),
        (["accuracy"], SCORES, LABELS - 1, "row 0 has the label -1, wanted an integer from 0 to 2"),
        (
            ["accuracy"],
            LABELS,
            LABELS - 1,
            "row 0 has the label -1, wanted an integer not negative",
        ),
        (["accuracy"], SCORES, LABELS + 0.5, "row 0 has the label 0.5, wanted an integer"),
        (["accuracy"], LABELS % 2, np.eye(4)[:, :2], "row 2 is not one-hot"),
        (
            ["accuracy"],
            LABELS + 2,
            np.eye(3)[LABELS],
            "the predictions: accuracy: row 1 has the lab",
        ),
        (["accuracy"], SCORES, np.eye(4), "given shape (4, 4), wanted labels (rows,) or (rows, 1)"),
        (["accuracy"], SCORES, np.zeros((4, 3, 1)), "given shape (4, 3, 1), wanted labels"),
        (["accuracy"], SCORES[:, None], LABELS, "given shape (4, 1, 3), wanted (rows, classes)"),
        (["accuracy"], NAN, LABELS, "the predictions: accuracy: row 2 has a NaN or infinite value"),
        (["log_loss", "accuracy"], LABELS, LABELS, "log_loss needs scores, given int64 labels"),
        (
            ["roc_auc"],
            SCORES,
            LABELS * 0,
            "roc_auc: no row of class 1, 2; the ranking metrics want",
        ),
        (
            ["mse", "mae"],
            SCORES,
            LABELS,
            "mse, mae: given shape (4,), wanted that of the predictio",
        ),
        (["mse"], NAN, SCORES, "the predictions: mse: row 2 has a NaN or infinite value"),
        (["mse"], SCORES, NAN, "the targets: mse: row 2 has a NaN or infinite value"),
        (["r2"], SCORES[:1], SCORES[:1], "r2 wants at least two rows, given 1"),
        (["reference"], SCORES, SCORES[:, :2], "reference: given shape (4, 2), wanted that of"),
    ],
)
def test_data_that_cannot_work_is_refused(
    names: list[str], predictions: Any, targets: Any, message: str
) -> None:
    for chunk_rows in (None, 1):
        with pytest.raises(DataError) as caught:
            compute_metrics(names, predictions, targets, chunk_rows=chunk_rows)
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"names": ["acuracy"]},
            "metrics: there is no metric 'acuracy'; there are: accuracy, log_loss",
        ),
        ({"names": ["top_0_accuracy"]}, "there is no metric 'top_0_accuracy'"),
        ({"names": ["top_4_accuracy"]}, "metrics: top_4_accuracy of only 3 classes"),
        ({"names": ["top_k_accuracy"]}, "metrics: top_5_accuracy of only 3 classes"),
        ({"names": ["reference"], "rtol": -1}, "rtol: given -1, wanted a number that is not"),
        ({"names": ["reference"], "atol": math.nan}, "atol: given nan, wanted"),
    ],
)
def test_parameters_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        compute_metrics(predictions=SCORES, targets=LABELS, **options)
    assert message in str(caught.value)


def test_a_huge_confusion_matrix_is_refused() -> None:
    labels = np.array([0, 5000])
    assert compute_metrics(["accuracy"], labels, labels).scalars == {"accuracy": 1.0}
    with pytest.raises(ParameterError, match="of 5001 classes, wanted at most 1000"):
        compute_metrics(["confusion_matrix"], labels, labels)


def test_many_absent_classes_are_not_all_listed() -> None:
    logits, _ = class_data(30, 20)
    with pytest.raises(DataError, match=r"no row of class 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …;"):
        compute_metrics(["average_precision"], logits, np.zeros(30))


# -------------------------------------------------------------------------------- files


def test_datasets_are_read_in_chunks_and_named_in_errors(tmp_path: Any) -> None:
    logits, labels = class_data(101, 3)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        predictions = file.create_dataset("output/logits", data=logits, chunks=(10, 3))
        targets = file.create_dataset("label", data=labels)
        given = compute_metrics(SCORE_METRICS, predictions, targets, chunk_rows=8)
        assert given == compute_metrics(SCORE_METRICS, logits, labels, chunk_rows=8)
        targets[7] = 3
        with pytest.raises(DataError) as caught:
            compute_metrics(["accuracy"], predictions, targets)
    assert str(caught.value) == (
        f"{tmp_path / 'data.h5'}, dataset '/label': accuracy: row 7 has the label 3, "
        "wanted an integer from 0 to 2"
    )


def test_rows_that_cannot_be_read_are_a_data_error() -> None:
    class Truncated:
        shape = (4,)
        dtype = np.dtype(float)

        def __getitem__(self, rows: slice) -> Any:
            raise OSError("file is truncated")

    with pytest.raises(DataError, match="cannot be read from row 0: file is truncated"):
        compute_metrics(["mse"], Truncated(), np.zeros(4))


# ----------------------------------------------------------------------------- registry


def test_names_are_kept_in_order_once() -> None:
    names = ["mse", "top_3_accuracy", "mse", "accuracy"]
    assert parse_metrics(names) == ("mse", "top_3_accuracy", "accuracy")


def test_scalar_names_are_those_computed() -> None:
    logits, labels = class_data(30, 5)
    names = [name for name, metric in METRICS.items() if metric.kind == "classification"]
    result = compute_metrics(names, logits, labels)
    assert tuple(result.scalars) == scalar_names(names)


def test_a_result_turns_into_json_and_back() -> None:
    logits, labels = class_data(30, 5)
    result = compute_metrics([*SCORE_METRICS, *REGRESSION_METRICS], logits, np.eye(5)[labels])
    facts = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert MetricsResult(**{**facts, "notes": tuple(facts["notes"])}) == result


def test_metrics_work_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    logits, labels = class_data(30, 3)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    compute_metrics(["accuracy", "log_loss", "roc_auc", "average_precision"], logits, labels)
