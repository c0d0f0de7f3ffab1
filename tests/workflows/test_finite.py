"""What is not finite: counted from the file to the report, or refused; and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.workflows.conftest import Luigi, write_model

CONFIG = """
backend: "python"
max_batch_size: 8
input [{ name: "x", data_type: TYPE_FP32, dims: [ 4 ] }]
output [
  { name: "y", data_type: TYPE_FP32, dims: [ 4 ] },
  { name: "n", data_type: TYPE_INT32, dims: [ 1 ] }
]
"""
# It answers NaN with numbers, and numbers above 100 with infinities.
MODEL = """
import numpy as np
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        return [utils.InferenceResponse(self.outputs(request)) for request in requests]

    def outputs(self, request):
        x = utils.get_input_tensor_by_name(request, "x").as_numpy()
        y = np.nan_to_num(x, nan=0)
        y[y > 100] = np.inf
        return [utils.Tensor("y", y), utils.Tensor("n", np.ones((len(x), 1), np.int32))]
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    write_model(models, "m", CONFIG, MODEL)
    return models


def validate(luigi: Luigi, repository: Path, **parameters: str) -> tuple[int, str]:
    given = {
        "model-repository": str(repository),
        "model-name": "m",
        "inputs": "data/*.h5",
        "input-map": '{"x": "x"}',
        "output-dir": "results",
        **{name.replace("_", "-"): value for name, value in parameters.items()},
    }
    flags = [part for name, value in given.items() for part in (f"--{name}", value)]
    done = luigi("--module", "workflows.validate", "Validate", *flags)
    return done.returncode, done.stdout


def write(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, bad in {"a": {3: np.nan, 21: np.nan}, "b": {5: -np.inf, 6: 1000.0}, "c": {}}.items():
        x = np.ones((30, 4), np.float32)
        for row, value in bad.items():
            x[row, 1] = value
        with h5py.File(tmp_path / "data" / f"{name}.h5", "w") as opened:
            opened.create_dataset("x", data=x, chunks=(7, 3), compression="gzip")


def counts(file: Path) -> tuple[dict[str, int], dict[str, int]]:
    with h5py.File(file) as opened:
        sides = [json.loads(opened.attrs[f"not_finite_{side}"]) for side in ("inputs", "outputs")]
    return sides[0], sides[1]


def test_what_is_not_finite_is_counted_to_the_report(
    luigi: Luigi, repository: Path, tmp_path: Path
) -> None:
    write(tmp_path)
    code, said = validate(luigi, repository)
    assert code == 0, said
    results = tmp_path / "results"
    expected = {"a": (2, 0), "b": (1, 1), "c": (0, 0)}
    for name, (n_inputs, n_outputs) in expected.items():
        found = counts(results / "predictions" / f"{name}.h5")
        assert found == ({"x": n_inputs}, {"y": n_outputs, "n": 0})
    assert counts(results / "merged.h5") == ({"x": 3}, {"y": 1, "n": 0})
    report: dict[str, Any] = json.loads((results / "report.json").read_text())
    assert [
        (Path(each["file"]).stem, each["not_finite_inputs"], each["not_finite_outputs"])
        for each in report["inputs"]
    ] == [(name, *numbers) for name, numbers in expected.items()]
    a, b = (tmp_path / "data" / f"{name}.h5" for name in "ab")
    sentences = [
        f"input x: 3 values are NaN or infinite, in {a} and {b}",
        f"output y: 1 value is NaN or infinite, in {b}",
    ]
    assert report["warnings"] == sentences
    page = (results / "report.html").read_text()
    assert all(sentence in page for sentence in sentences)


@pytest.mark.parametrize(
    ("finite", "named"),
    [
        ("inputs", "a.h5, dataset 'x': has values that are not finite, 2 of them near row 0"),
        ("outputs", "output 'y' has values that are not finite, 1 of them near row 0"),
    ],
)
def test_what_is_not_finite_is_refused(
    luigi: Luigi, repository: Path, tmp_path: Path, finite: str, named: str
) -> None:
    write(tmp_path)
    code, said = validate(luigi, repository, finite=finite)
    assert code == 30, said
    assert named in said
    assert not (tmp_path / "results" / "merged.h5").exists()
    assert not (tmp_path / "results" / "report.json").exists()


def test_a_target_with_its_fill_value_is_refused(
    luigi: Luigi, repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    with h5py.File(tmp_path / "data" / "a.h5", "w") as opened:
        opened["x"] = np.ones((30, 4), np.float32)
        t = np.ones((30, 4), np.float32)
        t[17] = -999
        opened.create_dataset("t", data=t, chunks=(30, 1), compression="gzip")
        opened["t"].attrs["_FillValue"] = np.float32(-999)
    code, said = validate(luigi, repository, target="t", output_name="y")
    assert code == 30, said
    assert "dataset 't': has missing values (-999.0, its fill value)" in said
    assert not (tmp_path / "results" / "report.json").exists()
