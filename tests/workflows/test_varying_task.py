"""Outputs of varying length in a validation: merged, and not measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.helpers import write_model

from .conftest import Luigi

BOXES = """
    def answer(self, request):
        n = int(array(request, "x")[0])
        return response(
            boxes=np.full((n, 4), n, np.float32),
            labels=np.array([b"cat"] * n, dtype=object),
            n=np.full(1, n, np.float32),
        )
"""
OUTPUTS = {"boxes": ("FP32", [-1, 4]), "labels": ("STRING", [-1]), "n": ("FP32", [1])}
COUNTS = {"a": [3, 0, 1], "b": [0, 0], "c": [2]}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    inputs = {"x": ("FP32", [2])}
    write_model(
        tmp_path / "models", "boxes", BOXES, inputs=inputs, outputs=OUTPUTS, max_batch_size=0
    )
    for name, counts in COUNTS.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["x"] = np.array([[n, 0] for n in counts], np.float32)
            file["n"] = np.array(counts, np.float32)
    return tmp_path


def validate(luigi: Luigi, *options: str) -> Any:
    where = ["--model-repository=models", "--model-name=boxes", "--output-dir=out"]
    inputs = ["--inputs=a.h5", "--inputs=b.h5", "--inputs=c.h5", '--input-map={"x": "x"}']
    return luigi("--module=workflows.validate", "Validate", *where, *inputs, *options)


def test_a_merged_file_has_the_rows_of_all_files(luigi: Luigi, project: Path) -> None:
    options = ["--varying=boxes", "--varying=labels", "--target=n", "--output-name=n"]
    ran = validate(luigi, *options, "--require=mse <= 0")
    assert ran.returncode == 0, ran.stdout
    with h5py.File(project / "out" / "merged.h5") as file:
        counts = [n for some in COUNTS.values() for n in some]
        assert file["n"][:, 0].tolist() == counts
        for name in ("boxes", "labels"):
            offsets = file[f"{name}/offsets"][...]
            assert np.diff(offsets).tolist() == counts
            assert len(file[f"{name}/values"]) == offsets[-1] == sum(counts)
        assert file["boxes/values"][:, 0].tolist() == [n for n in counts for _ in range(n)]
    # Another choice is another result, which is not there yet.
    ran = validate(luigi, *options[:1], *options[2:])
    assert ran.returncode != 0
    assert "name it in varying (--varying labels)" in ran.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--varying=boxes", "--target=n", "--output-name=boxes"],
            "output_name: 'boxes' is of varying length, and metrics want as many numbers in ",
        ),
        (["--varying=boxes", "--target=n", "--outputs=boxes"], "output_name: 'boxes' is of vary"),
        (["--varying=n"], "varying: output 'n' of model 'boxes' is (1,), with 0 free lengths"),
        (
            ["--varying=box"],
            "varying: 'box' is not one of the outputs of model 'boxes': boxes, labels, n",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_a_server_starts(
    luigi: Luigi, project: Path, options: list[str], message: str
) -> None:
    ran = validate(luigi, *options)
    assert ran.returncode == 35
    assert ran.stdout.splitlines()[-1].startswith(f"hermes: {message}")
    assert not (project / "out" / "logs").exists()
