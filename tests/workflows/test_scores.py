"""What the scores of a model are is said by the user, or refused when it is in doubt."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.workflows.conftest import Luigi, write_model

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


LABELS_CONFIG = """
backend: "python"
max_batch_size: 8
input [{ name: "x", data_type: TYPE_FP32, dims: [ 4 ] }]
output [
  { name: "label", data_type: TYPE_INT64, dims: [ 1 ] },
  { name: "number", data_type: TYPE_FP32, dims: [ 1 ] },
  { name: "scores", data_type: TYPE_FP32, dims: [ 4 ] }
]
"""
LABELS_MODEL = """
import numpy as np
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        return [utils.InferenceResponse(self.outputs(request)) for request in requests]

    def outputs(self, request):
        x = utils.get_input_tensor_by_name(request, "x").as_numpy()
        label = x.argmax(axis=1)[:, None]
        return [
            utils.Tensor("label", label),
            utils.Tensor("number", label.astype(np.float32)),
            utils.Tensor("scores", x),
        ]
"""


def test_labels_have_no_log_loss_unless_it_is_asked_for(luigi: Luigi, tmp_path: Path) -> None:
    write_model(tmp_path / "models", "m", LABELS_CONFIG, LABELS_MODEL)
    scores = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 1, 2]]
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"] = scores
        file["y"] = [0, 1, 2, 3, 1, 3]

    def validate(output: str, *arguments: str) -> tuple[int, str]:
        given = ["--model-repository", "models", "--model-name", "m", "--inputs", "data.h5"]
        given += ["--output-dir", "results", "--target", "y", "--output-name", output]
        result = luigi("--module", "workflows.validate", "Validate", *given, *arguments)
        return result.returncode, " ".join(result.stdout.split())

    for output in ("label", "number"):
        code, said = validate(output)
        assert code == 0, said
        report = json.loads((tmp_path / "results" / "report.json").read_text())
        assert report["metrics"] == {"accuracy": pytest.approx(5 / 6)}
        assert report["confusion_matrix"][3] == [0, 0, 1, 1]

    assert validate("scores")[0] == 0
    report = json.loads((tmp_path / "results" / "report.json").read_text())
    assert set(report["metrics"]) == {"accuracy", "log_loss"}

    code, said = validate("label", "--require", "log_loss < 1")
    assert code == 30
    assert "log_loss needs scores, given int64 labels" in said
