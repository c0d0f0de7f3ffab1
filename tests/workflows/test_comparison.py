"""Two models over the same rows: what differs, how sure that is, and which rows changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hermes.aeriel.metrics import Comparison, compare_predictions
from hermes.aeriel.metrics import _rank_bootstrap as rank_bootstrap
from hermes.aeriel.metrics._bootstrap import N_REPLICATES, Resampling
from tests.metrics import compute_metrics
from tests.workflows.conftest import Luigi
from tests.workflows.test_validate import validate

metrics = pytest.importorskip("sklearn.metrics")

CLASS_METRICS = ["accuracy", "top_2_accuracy", "log_loss", "roc_auc", "average_precision"]
NUMBER_METRICS = ["mse", "rmse", "mae", "bias", "r2", "max_absolute_error"]


def probabilities(n_rows: int, n_classes: int, seed: int, strength: float) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    labels = np.arange(n_rows) % n_classes
    scores = np.exp(random.normal(size=(n_rows, n_classes)) + strength * np.eye(n_classes)[labels])
    return scores / scores.sum(axis=1, keepdims=True), labels


def compare(names: list[str], new: Any, old: Any, targets: Any, **options: Any) -> Comparison:
    results = [compute_metrics(names, each, targets, **options) for each in (new, old)]
    return compare_predictions(results[0], results[1], new, old, targets)


def resampled(
    value: Callable[..., float], new: Any, old: Any, targets: Any, n_rows: int
) -> list[float]:
    """Return the percentile interval of a difference, each replicate by scikit-learn."""
    differences = [
        value(targets, new, sample_weight=weights) - value(targets, old, sample_weight=weights)
        for weights in Resampling(n_rows).weights
    ]
    assert len(differences) == N_REPLICATES
    return np.quantile(differences, [0.025, 0.975]).tolist()  # type: ignore[no-any-return]


def accuracy(labels: Any, scores: Any, *, sample_weight: Any) -> float:
    predicted = scores.argmax(axis=1)
    return float(metrics.accuracy_score(labels, predicted, sample_weight=sample_weight))


def macro(of_class: Callable[..., float]) -> Callable[..., float]:
    def value(labels: Any, scores: Any, *, sample_weight: Any) -> float:
        return float(
            np.mean(
                [
                    of_class(labels == number, scores[:, number], sample_weight=sample_weight)
                    for number in ([1] if scores.shape[1] == 2 else range(scores.shape[1]))
                ]
            )
        )

    return value


@pytest.mark.parametrize("n_classes", [2, 3])
def test_intervals_of_classes_are_those_of_scikit_learn_on_the_same_resamples(
    n_classes: int,
) -> None:
    new, labels = probabilities(150, n_classes, seed=1, strength=2)
    old, _ = probabilities(150, n_classes, seed=2, strength=1.5)
    names = [name for name in CLASS_METRICS if n_classes > 2 or not name.startswith("top_")]
    found = compare(names, new, old, labels).metrics
    wanted: dict[str, Callable[..., float]] = {
        "accuracy": accuracy,
        "log_loss": metrics.log_loss,
        "roc_auc": macro(metrics.roc_auc_score),
        "average_precision": macro(metrics.average_precision_score),
    }
    for name, value in wanted.items():
        interval = resampled(value, new, old, labels, 150)
        assert [found[name]["low"], found[name]["high"]] == pytest.approx(interval, abs=1e-6)
        assert found[name]["difference"] == found[name]["value"] - found[name]["baseline"]


def test_intervals_of_numbers_are_those_of_scikit_learn_on_the_same_resamples() -> None:
    random = np.random.default_rng(0)
    targets = random.normal(size=(120, 2))
    new, old = (targets + scale * random.normal(size=(120, 2)) for scale in (0.5, 0.6))
    found = compare(NUMBER_METRICS, new, old, targets).metrics
    wanted: dict[str, Callable[..., float]] = {
        "mse": metrics.mean_squared_error,
        "rmse": metrics.root_mean_squared_error,
        "mae": metrics.mean_absolute_error,
        "r2": metrics.r2_score,
    }
    for name, value in wanted.items():
        interval = resampled(value, new, old, targets, 120)
        assert [found[name]["low"], found[name]["high"]] == pytest.approx(interval, abs=1e-6)
    assert "low" not in found["max_absolute_error"]
    assert found["max_absolute_error"]["difference"] != 0


def test_levels_of_scores_change_little(monkeypatch: pytest.MonkeyPatch) -> None:
    new, labels = probabilities(900, 2, seed=1, strength=1)
    old, _ = probabilities(900, 2, seed=2, strength=0.8)
    exact = compare(["roc_auc", "average_precision"], new, old, labels).metrics
    monkeypatch.setattr(rank_bootstrap, "N_LEVELS", 128)
    coarse = compare(["roc_auc", "average_precision"], new, old, labels).metrics
    for name, found in exact.items():
        width = found["high"] - found["low"]
        for end in ("low", "high"):
            assert coarse[name][end] == pytest.approx(found[end], abs=0.05 * width)


def test_levels_of_a_sample_of_the_scores_change_little(monkeypatch: pytest.MonkeyPatch) -> None:
    new, labels = probabilities(9000, 3, seed=1, strength=1)
    old, _ = probabilities(9000, 3, seed=2, strength=0.8)
    exact = compare(["roc_auc", "average_precision"], new, old, labels).metrics
    monkeypatch.setattr("hermes.aeriel.metrics._ranking.SAMPLE_ROWS", 1000)
    monkeypatch.setattr(rank_bootstrap, "COLUMNS_AT_ONCE", 2)
    sampled = compare(["roc_auc", "average_precision"], new, old, labels).metrics
    for name, found in exact.items():
        width = found["high"] - found["low"]
        for end in ("low", "high"):
            assert sampled[name][end] == pytest.approx(found[end], abs=0.05 * width)


def test_a_paired_interval_is_narrower_than_either_models() -> None:
    new, labels = probabilities(5000, 3, seed=1, strength=1)
    old = new.copy()
    old[::50] = old[::50, ::-1]
    result = compute_metrics(["log_loss"], new, labels)
    found = compare(["log_loss"], new, old, labels).metrics["log_loss"]
    low, high = result.intervals["log_loss"]
    assert found["high"] - found["low"] < (high - low) / 2
    assert found["low"] <= found["difference"] <= found["high"]


def test_the_same_predictions_have_no_difference_and_no_changed_rows() -> None:
    new, labels = probabilities(100, 3, seed=1, strength=1)
    comparison = compare(CLASS_METRICS, new, new, labels)
    for found in comparison.metrics.values():
        assert (found["difference"], found["low"], found["high"]) == (0, 0, 0)
    assert not comparison.changed_rows
    assert (comparison.n_newly_right, comparison.n_newly_wrong) == (0, 0)
    assert comparison.scalars["accuracy - baseline.accuracy"] == 0


def test_rows_that_changed_most_are_those_whose_target_has_another_score() -> None:
    new, labels = probabilities(100, 3, seed=1, strength=1)
    old, _ = probabilities(100, 3, seed=2, strength=1)
    comparison = compare(["accuracy"], new, old, labels, chunk_rows=7)
    rows = np.arange(100)
    change = np.abs(new[rows, labels] - old[rows, labels])
    changed = comparison.changed_rows
    assert [row["row"] for row in changed] == np.argsort(-change)[:20].tolist()
    first = changed[0]
    assert first["predicted"] == new[first["row"]].argmax()
    assert first["baseline_predicted"] == old[first["row"]].argmax()
    assert first["baseline_score_of_target"] == old[first["row"], first["target"]]
    right, was_right = (each.argmax(axis=1) == labels for each in (new, old))
    assert comparison.n_newly_right == np.count_nonzero(right & ~was_right)
    assert comparison.n_newly_wrong == np.count_nonzero(was_right & ~right)


def test_labels_of_one_model_and_scores_of_the_other_can_be_compared() -> None:
    scores, labels = probabilities(60, 3, seed=1, strength=1)
    comparison = compare(["accuracy"], labels, scores, labels)
    assert comparison.metrics["accuracy"]["value"] == 1
    wrong = np.flatnonzero(scores.argmax(axis=1) != labels)
    assert [row["row"] for row in comparison.changed_rows] == wrong[:20].tolist()
    assert set(comparison.changed_rows[0]) == {"row", "target", "predicted", "baseline_predicted"}


def test_numbers_that_changed_most_say_which_output() -> None:
    targets = np.zeros((30, 2))
    old = targets + 1
    new = old.copy()
    new[4, 1], new[9, 0] = 5, 2
    assert compare(["mse"], new, old, targets).changed_rows == [
        {"row": 4, "output": 1, "target": 0, "predicted": 5, "baseline_predicted": 1},
        {"row": 9, "output": 0, "target": 0, "predicted": 2, "baseline_predicted": 1},
    ]


def test_a_validation_is_compared_with_another_and_may_have_to_be_as_good(
    luigi: Luigi, models: Path, data: Path, tmp_path: Path
) -> None:
    given = {"metrics": '["rmse"]', "require": "rmse <= 1"}
    code, said = validate(luigi, models, **given)
    assert code == 0, said
    # A baseline that was better for the last row of the second file.
    with h5py.File(tmp_path / "results" / "merged.h5", "r+") as merged:
        merged["double"][50, 2] += 3
    required = '["rmse <= 1", "rmse - baseline.rmse <= -0.01"]'
    given |= {"baseline": "results", "output_dir": "again", "require": required}
    code, said = validate(luigi, models, **given)
    assert code == 0, said
    report = json.loads((tmp_path / "again" / "report.json").read_text())
    (changed,) = report["comparison"]["changed_rows"]
    assert (Path(changed["file"]).name, changed["row"], changed["output"]) == ("part-1.h5", 0, 2)
    assert report["comparison"]["metrics"]["rmse"]["difference"] < -0.01
    assert report["requirements"][1]["metric"] == "rmse - baseline.rmse"
    page = (tmp_path / "again" / "report.html").read_text()
    assert "Comparison with the baseline" in page
    # What has not changed is not done again.
    code, said = validate(luigi, models, **given)
    assert (code, "the report is" in said) == (0, False), said

    with h5py.File(data / "part-2.h5", "r+") as file:
        file["expected"][7, 1] += 1
    code, said = validate(luigi, models, **{**given, "output_dir": "third"})
    assert code != 0
    assert "row 7 of" in said
    assert "part-2.h5 has another target there" in said
    assert not (tmp_path / "third" / "logs").exists()  # no server was started


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"baseline": "nothing"}, "nothing is not there, or is no merged file"),
        ({"baseline": "data"}, "merged.h5 is not there, or is no merged file"),
        ({"require": "rmse - baseline.rmse <= 0"}, "give baseline, the output directory of"),
        ({"baseline": "data", "target": "", "metrics": "[]", "require": "[]"}, "target: is not"),
    ],
)
def test_a_baseline_that_cannot_be_compared_is_refused(
    luigi: Luigi,
    models: Path,
    data: Path,
    parameters: dict[str, str],
    sentence: str,
) -> None:
    assert data.is_dir()
    code, said = validate(luigi, models, **{"metrics": '["rmse"]', "require": "[]", **parameters})
    assert code != 0
    assert sentence in said
