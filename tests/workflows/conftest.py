"""A model repository, HDF5 files, and Luigi's own command line on them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes import _directory, _state_files

Luigi = Callable[..., "subprocess.CompletedProcess[str]"]

MODEL = """
import numpy as np
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        return [utils.InferenceResponse(self.outputs(request)) for request in requests]

    def outputs(self, request):
        x = utils.get_input_tensor_by_name(request, "x").as_numpy()
        return [
            utils.Tensor("double", 2 * x),
            utils.Tensor("total", x.sum(axis=1, keepdims=True)),
        ]
"""
CONFIG = """
backend: "python"
max_batch_size: 16
input [{ name: "x", data_type: TYPE_FP32, dims: [ 4 ] }]
output [
  { name: "double", data_type: TYPE_FP32, dims: [ 4 ] },
  { name: "total", data_type: TYPE_FP32, dims: [ 1 ] }
]
"""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a model that doubles and sums rows of four numbers, and a broken one."""
    repository = tmp_path_factory.mktemp("models")
    write_model(repository, "double", CONFIG, MODEL)
    return repository


def write_model(repository: Path, name: str, config: str, source: str) -> None:
    directory = repository / name / "1"
    directory.mkdir(parents=True)
    (directory / "model.py").write_text(source)
    (directory.parent / "config.pbtxt").write_text(config)


def write_input(
    file: Path, rows: int, *, seed: int = 0
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Write rows for the model, and what it makes of them as targets."""
    x = np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)
    with h5py.File(file, "w") as opened:
        opened["x"] = x
        opened["expected"] = 2 * x
    return x


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with three input files of different lengths."""
    directory = tmp_path / "data"
    directory.mkdir()
    for number, rows in enumerate((50, 1, 33)):
        write_input(directory / f"part-{number}.h5", rows, seed=number)
    return directory


@pytest.fixture
def state_home(tmp_path: Path) -> Path:
    """A place of this test's own for the states of its servers."""
    return _directory.state_home({"HERMES_STATE_HOME": str(tmp_path / "state")})


@pytest.fixture
def luigi(tmp_path: Path, state_home: Path) -> Iterator[Luigi]:
    """Run Luigi's command line in a directory of the test's own; nothing may be left behind."""

    def run(*arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "luigi", *arguments, "--local-scheduler"],
            cwd=tmp_path,
            env={**os.environ, "HERMES_STATE_HOME": str(state_home)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )

    yield run
    assert_gone(state_home)


def assert_gone(state_home: Path, within_s: float = 15.0) -> None:
    """Wait until no state of a server is left, which its supervisor removes last."""
    import time

    deadline = time.monotonic() + within_s
    # But for the log of a server that failed, which the error names where nobody asked for a copy.
    while left := [path for path in _state_files.entries(state_home) if path.suffix != ".log"]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)
