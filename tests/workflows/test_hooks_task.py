"""Hooks of tasks, as docs/hooks.md has them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.workflows.conftest import Luigi, write_model

PAGE = Path(__file__).parents[2] / "docs" / "hooks.md"
RATE = 64
N_SAMPLES = 40 * RATE
BANK = """
import numpy as np
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            utils.InferenceResponse([utils.Tensor("snr", np.abs(x).max(axis=(1, 2))[:, None])])
            for request in requests
            for x in [utils.get_input_tensor_by_name(request, "x").as_numpy()]
        ]
"""
CONFIG = """
backend: "python"
max_batch_size: 8
input [{ name: "x", data_type: TYPE_FP32, dims: [ 2, 32 ] }]
output [{ name: "snr", data_type: TYPE_FP32, dims: [ 1 ] }]
"""


def blocks(language: str) -> list[str]:
    text = PAGE.read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def strain(tmp_path: Path) -> dict[str, NDArray[np.float64]]:
    write_model(tmp_path / "models", "bank", CONFIG, BANK)
    (tmp_path / "data").mkdir()
    found = {}
    for name in ("a", "b"):
        rng = np.random.default_rng(ord(name))
        found[name] = 1e-21 * rng.standard_normal((2, N_SAMPLES))
        with h5py.File(tmp_path / "data" / f"{name}.h5", "w") as file:
            file["strain"] = found[name]
            file["strain"].attrs.update({"sample_rate": RATE, "start_time": 1000.0})
    return found


@pytest.fixture
def bursts(luigi: Luigi, tmp_path: Path, strain: object) -> Callable[..., str]:
    """Run the pipeline of the page, and return what Luigi says."""
    del strain
    [source] = blocks("python")
    (tmp_path / "bursts.py").write_text(source)
    command = next(block for block in blocks("sh") if "luigi" in block)
    arguments = shlex.split(command.replace("\\\n", ""))[2:-1]

    def run(*options: str, changed: str = "", code: int = 0) -> str:
        (tmp_path / "bursts.py").write_text(changed or source)
        result = luigi(*arguments, *options)
        assert result.returncode == code, result.stdout
        return result.stdout

    return run


def wanted(strain: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the numbers and the SNR of the windows that the hooks keep."""
    windows = np.lib.stride_tricks.sliding_window_view(strain, 32, axis=1)[:, ::16].swapaxes(0, 1)
    centred = windows - windows.mean(axis=-1, keepdims=True)
    white = (centred / centred.std(axis=-1, keepdims=True)).astype(np.float32)
    snr = np.abs(white).max(axis=(1, 2))
    kept = []
    for second in range(40):
        here = np.arange(4 * second, min(4 * second + 4, len(snr)))
        loudest = here[np.argmax(snr[here])]
        if snr[loudest] > 3:
            kept.append(loudest)
    return np.array(kept), snr[kept]


def test_hooks_of_the_page(
    bursts: Callable[..., str], strain: dict[str, NDArray[np.float64]], tmp_path: Path
) -> None:
    bursts()
    rows, snr = zip(*(wanted(strain[name]) for name in ("a", "b")), strict=True)
    with h5py.File(tmp_path / "results" / "merged.h5") as file:
        assert 0 < len(file["snr"]) < 80
        np.testing.assert_array_equal(file["snr"], np.concatenate(snr))
        np.testing.assert_array_equal(file["index/row"], np.concatenate(rows))
        np.testing.assert_array_equal(file["index/time"], 1000 + np.concatenate(rows) / 4)
        np.testing.assert_array_equal(file["index/file"], np.repeat([0, 1], list(map(len, rows))))
        assert file["index/rows"][...].tolist() == [159, 159]
    report = json.loads((tmp_path / "results" / "report.json").read_text())
    assert report["rows_kept"] == sum(map(len, rows))


@pytest.mark.usefixtures("triton_home")
def test_rows_are_kept_by_the_command_of_the_page(
    strain: dict[str, NDArray[np.float64]], tmp_path: Path, state_home: Path
) -> None:
    command = next(block for block in blocks("sh") if "hermes infer" in block)
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command.replace("\\\n", ""))],
        cwd=tmp_path,
        env={**os.environ, "HERMES_STATE_HOME": str(state_home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("a", "b"):
        views = np.lib.stride_tricks.sliding_window_view(strain[name].astype(np.float32), 32, 1)
        snr = np.abs(views[:, ::16]).max(axis=(0, 2))
        with h5py.File(tmp_path / "kept" / f"{name}.h5") as file:
            assert 0 < len(file["snr"]) < len(snr)
            np.testing.assert_array_equal(file["index/row"], np.nonzero(snr > 2e-21)[0])
            np.testing.assert_array_equal(file["snr"][:, 0], snr[file["index/row"][...]])


def test_what_hooks_depend_on_makes_results_anew(bursts: Callable[..., str]) -> None:
    [source] = blocks("python")
    done = "ran successfully"
    assert done in bursts()
    assert "complete ones were encountered" in bursts()
    changed = source
    for old, new in (("> 3", "> 2"), ("axis=-1, keepdims", "axis=2, keepdims"), ("= 1 ", "= 2 ")):
        assert old in changed
        changed = changed.replace(old, new)
        output = bursts(changed=changed)
        assert "2 PredictBursts" in output
        assert done in output
    assert "2 PredictBursts" in bursts("--gain=2.0", changed=changed)
    assert "2 PredictBursts" not in bursts("--gain=2.0", "--title=another", changed=changed)


def test_a_hook_that_fails_fails_its_task(bursts: Callable[..., str], tmp_path: Path) -> None:
    [source] = blocks("python")
    output = bursts(changed=source.replace('inputs["x"]', 'inputs["y"]'), code=30)
    file = tmp_path / "data" / "a.h5"
    words = f"preprocess, windows 0 to 158 of {file}: KeyError: 'y' ({tmp_path}/bursts.py, line "
    assert words in output
    assert not (tmp_path / "results" / "merged.h5").exists()


def test_batch_jobs_refuse_hooks(bursts: Callable[..., str], tmp_path: Path) -> None:
    output = bursts("--engine=slurm", code=35)
    assert "engine: batch jobs do not have the hooks of a task; use local" in output
    assert not (tmp_path / "results").exists()
