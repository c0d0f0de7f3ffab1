"""What the scores of a model are is said by the user, or refused when it is in doubt."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.workflows.conftest import Luigi

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def test_doubtful_scores_are_refused_until_they_are_said_to_be_probabilities(
    luigi: Luigi, models: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), size=60).astype(np.float32)
    probabilities[7] *= 1.25
    labels = rng.integers(0, 4, 60)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"] = probabilities / 2
        file["label"] = labels

    def validate(*arguments: str) -> tuple[int, str]:
        given = ["--model-repository", str(models), "--model-name", "double", "--inputs", "data.h5"]
        given += ["--output-dir", "results", "--target", "label", "--output-name", "double"]
        given += ["--metrics", "log_loss", "--require", "log_loss < 9"]
        result = luigi("--module", "workflows.validate", "Validate", *given, *arguments)
        return result.returncode, " ".join(result.stdout.split())

    code, said = validate("--scores", "probability")
    assert code != 0
    assert "scores: given 'probability', wanted one of auto, probabilities, logits" in said
    assert not (tmp_path / "results" / "predictions").exists()

    code, said = validate()
    assert code != 0
    assert "1 of 60 rows are no probabilities (row 7 sums to 1.2" in said
    assert not (tmp_path / "results" / "report.json").exists()

    code, said = validate("--scores", "probabilities")
    assert code == 0, said
    with pytest.warns(UserWarning, match="do not sum to one"):
        expected = sklearn_metrics.log_loss(labels, probabilities)
    report = json.loads((tmp_path / "results" / "report.json").read_text())
    assert report["metrics"]["log_loss"] == pytest.approx(expected, rel=1e-6)
    assert "1 of 60 rows of probabilities do not sum to 1" in report["notes"][0]

    # Another word is another report.
    assert validate("--scores", "logits")[0] == 0
    report = json.loads((tmp_path / "results" / "report.json").read_text())
    assert report["metrics"]["log_loss"] != pytest.approx(expected, rel=1e-3)
