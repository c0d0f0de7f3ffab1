"""What a report shows besides the metrics is what scikit-learn and scipy give of the same rows."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest

from hermes.aeriel.metrics import MetricsResult
from hermes.aeriel.metrics._bootstrap import MIN_GROUPS
from hermes.aeriel.metrics._groups import MAX_RUNS, GroupSums, WorstRows, share_with_interval
from tests.metrics import compute_metrics

sklearn_metrics = pytest.importorskip("sklearn.metrics")
calibration_curve = pytest.importorskip("sklearn.calibration").calibration_curve
stats = pytest.importorskip("scipy.stats")

OFFSETS = [0, 120, 120, 121, 400]


def classes(n_classes: int, **options: Any) -> tuple[Any, Any, MetricsResult]:
    random = np.random.default_rng(n_classes)
    labels = np.arange(400) % n_classes
    logits = random.normal(size=(400, n_classes)) + 1.5 * np.eye(n_classes)[labels]
    exponentials = np.exp(logits)
    scores = exponentials / exponentials.sum(axis=1, keepdims=True)
    names = ["accuracy", "log_loss", "roc_auc", "average_precision"]
    return scores, labels, compute_metrics(names, scores, labels, offsets=OFFSETS, **options)


@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize("chunk_rows", [1, 37, 400])
def test_classes_are_those_of_scikit_learn(n_classes: int, chunk_rows: int) -> None:
    scores, labels, result = classes(n_classes, chunk_rows=chunk_rows)
    predicted = scores.argmax(axis=1)
    wanted = sklearn_metrics.precision_recall_fscore_support(labels, predicted)
    for number, (precision, recall, f1, rows) in enumerate(zip(*wanted, strict=True)):
        facts = result.classes[number]
        assert facts["precision"]["value"] == pytest.approx(precision)
        assert facts["recall"]["value"] == pytest.approx(recall)
        assert facts["f1"] == pytest.approx(f1)
        assert facts["rows"] == rows
        assert facts["predicted_rows"] == np.count_nonzero(predicted == number)


@pytest.mark.parametrize(("count", "n_rows"), [(0, 1), (1, 1), (3, 10), (97, 100), (0, 50)])
def test_the_interval_of_a_share_is_wilsons(count: int, n_rows: int) -> None:
    wanted = stats.binomtest(count, n_rows).proportion_ci(method="wilson")
    found = share_with_interval(count, n_rows)
    assert found["value"] == count / n_rows
    assert (found["low"], found["high"]) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


@pytest.mark.parametrize("chunk_rows", [1, 37, 400])
def test_files_have_their_own_metrics(chunk_rows: int) -> None:
    scores, labels, result = classes(3, chunk_rows=chunk_rows)
    right = scores.argmax(axis=1) == labels
    losses = -np.log(scores[np.arange(400), labels])
    assert [file["rows"] for file in result.files] == [120, 0, 1, 279]
    assert result.files[1] == {"rows": 0}
    for file, part in ((0, slice(0, 120)), (3, slice(121, 400))):
        facts = result.files[file]
        assert facts["accuracy"]["value"] == pytest.approx(right[part].mean())
        assert facts["log_loss"]["value"] == pytest.approx(losses[part].mean())
        error = losses[part].std(ddof=1) / math.sqrt(len(losses[part]))
        wanted = stats.norm.interval(0.95, losses[part].mean(), error)
        assert (facts["log_loss"]["low"], facts["log_loss"]["high"]) == pytest.approx(wanted)
    assert math.isnan(result.files[2]["log_loss"]["low"])  # one row has no interval


def test_files_of_numbers_have_their_own_errors() -> None:
    random = np.random.default_rng(0)
    targets = random.normal(size=(400, 3))
    errors = random.normal(size=(400, 3)) * [1, 2, 3]
    names = ["mse", "rmse", "mae", "bias"]
    result = compute_metrics(names, targets + errors, targets, offsets=OFFSETS, chunk_rows=33)
    part = slice(121, 400)
    facts = result.files[3]
    assert list(facts) == ["rows", "rmse", "mae", "bias"]
    wanted = sklearn_metrics.root_mean_squared_error(targets[part], (targets + errors)[part])
    assert facts["rmse"]["value"] == pytest.approx(wanted)
    assert facts["rmse"]["low"] < wanted < facts["rmse"]["high"]
    assert facts["mae"]["value"] == pytest.approx(np.abs(errors[part]).mean())
    assert facts["bias"]["value"] == pytest.approx(errors[part].mean())
    assert compute_metrics(["mse"], targets, targets).files[0]["mse"]["value"] == 0


def chosen(losses: Any, rows: Any) -> dict[str, Any]:
    return {"loss": losses[rows]}


@pytest.mark.parametrize("chunk_rows", [1, 7, 100])
def test_the_worst_rows_are_the_same_for_any_chunk(chunk_rows: int) -> None:
    losses = np.random.default_rng(0).integers(0, 5, 100).astype(np.float64)
    worst = WorstRows(n_kept=30)
    for start in range(0, 100, chunk_rows):
        part = losses[start : start + chunk_rows]
        worst.add(start, part, partial(chosen, part))
    order = [row for row in np.lexsort((np.arange(100), -losses)) if losses[row] > 0]
    assert worst.to_list() == [{"row": row, "loss": losses[row]} for row in order[:30]]


def test_the_worst_rows_of_scores_are_those_of_the_highest_log_loss() -> None:
    scores, labels, result = classes(3)
    own = scores[np.arange(400), labels]
    assert len(result.worst_rows) == 20
    assert [row["row"] for row in result.worst_rows] == np.argsort(own)[:20].tolist()
    first = result.worst_rows[0]
    assert first["score_of_target"] == own.min()
    assert first["score_of_predicted"] == scores[first["row"]].max()
    assert first["target"] == labels[first["row"]]


def test_the_worst_rows_of_labels_are_the_first_wrong_ones() -> None:
    labels = np.arange(10) % 3
    predicted = np.where(np.arange(10) < 8, labels, (labels + 1) % 3)
    result = compute_metrics(["accuracy"], predicted, labels)
    assert result.worst_rows == [
        {"row": 8, "target": 2, "predicted": 0},
        {"row": 9, "target": 0, "predicted": 1},
    ]
    assert not compute_metrics(["accuracy"], labels, labels).worst_rows


def test_the_worst_rows_of_numbers_say_which_output() -> None:
    targets = np.zeros((5, 2))
    predictions = np.array([[0, 0], [1, -7], [2, 0], [0, 0], [0, 1]])
    rows = compute_metrics(["mae"], predictions, targets).worst_rows
    assert rows[0] == {"row": 1, "output": 1, "target": 0.0, "predicted": -7, "error": -7.0}
    assert [row["row"] for row in rows] == [1, 2, 4]


@pytest.mark.parametrize("chunk_rows", [37, 400])
def test_calibration_is_that_of_scikit_learn(chunk_rows: int) -> None:
    for n_classes in (2, 5):
        scores, labels, result = classes(n_classes, chunk_rows=chunk_rows)
        right, shown = scores.argmax(axis=1) == labels, scores.max(axis=1)
        if n_classes == 2:
            right, shown = labels, scores[:, 1]
        shares, means = calibration_curve(right, shown, n_bins=10)
        bins = result.curves["calibration"]["bins"]
        assert [each["value"] for each in bins] == pytest.approx(shares.tolist())
        assert [each["mean_score"] for each in bins] == pytest.approx(means.tolist())
        assert sum(each["rows"] for each in bins) == 400


@pytest.mark.parametrize("n_classes", [2, 4])
def test_precision_and_recall_are_points_of_scikit_learns_curve(n_classes: int) -> None:
    scores, labels, result = classes(n_classes)
    for curve in result.curves["precision_recall"]:
        number = curve["class"]
        precision, recall, _ = sklearn_metrics.precision_recall_curve(
            labels == number, scores[:, number]
        )
        wanted = {(round(r, 9), round(p, 9)) for r, p in zip(recall, precision, strict=True)}
        found = {
            (round(r, 9), round(p, 9))
            for r, p in zip(curve["recall"], curve["precision"], strict=True)
        }
        # At full recall scikit-learn stops with the first threshold, the ROC goes on.
        assert {point for point in found if point[0] < 1} <= wanted
        average = sklearn_metrics.average_precision_score(labels == number, scores[:, number])
        assert curve["average_precision"] == pytest.approx(average)


def test_groups_keep_files_apart_and_are_bounded() -> None:
    offsets = np.array([0, 3, 3, 10_000, 1_000_000])
    groups = GroupSums(offsets)
    assert set(offsets.tolist()) <= set(groups.bounds.tolist())
    assert groups.n_groups <= MAX_RUNS + 3
    assert GroupSums(np.array([0, 30])).n_groups == 30


def test_bootstrap_intervals_cover_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    missed = {"bias": 0, "rmse": 0}
    for _ in range(200):
        errors = random.normal(size=100)
        result = compute_metrics(list(missed), errors, np.zeros(100))
        for name, truth in (("bias", 0.0), ("rmse", 1.0)):
            low, high = result.intervals[name]
            missed[name] += not low < truth < high
    # 5 % of 200 are 10; a binomial number of at most 21 with a probability of 0.9995.
    assert all(1 <= count <= 21 for count in missed.values()), missed


def test_intervals_are_the_same_every_time_and_shrink_with_the_rows() -> None:
    random = np.random.default_rng(0)
    widths = []
    for n_rows in (500, 50_000):
        errors = random.normal(size=n_rows)
        some, again = (compute_metrics(["mae"], errors, 0 * errors) for _ in range(2))
        assert some.intervals == again.intervals
        low, high = some.intervals["mae"]
        error = np.abs(errors).std() / math.sqrt(n_rows)
        assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.2)


def test_r2_is_resampled_like_the_others_and_few_rows_are_not() -> None:
    random = np.random.default_rng(0)
    targets = 1e6 + random.normal(size=(300, 2))
    predictions = targets + 0.1 * random.normal(size=(300, 2))
    result = compute_metrics(["r2", "max_absolute_error"], predictions, targets)
    low, high = result.intervals["r2"]
    assert 0.98 < low < result.scalars["r2"] < high < 1
    assert "max_absolute_error" not in result.intervals
    few = slice(0, MIN_GROUPS - 1)
    assert not compute_metrics(["r2"], predictions[few], targets[few]).intervals
