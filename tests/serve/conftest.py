from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = REPOSITORY / "tests" / "environment"

MODEL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(r, "x").as_numpy() for r in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", 2 * x)]) for x in inputs]
"""
CONFIG = """
backend: "python"
max_batch_size: 8
input [{ name: "x", data_type: TYPE_FP32, dims: [2] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [2] }]
"""


@pytest.fixture(scope="session")
def apptainer() -> str:
    """The command of a real Apptainer, installed where this is root on Debian."""
    _bring("install-apptainer.sh")
    command = shutil.which("apptainer")
    assert command is not None
    return command


@pytest.fixture(scope="session")
def triton_image(apptainer: str) -> Path:
    """A real image with Triton; HERMES_TEST_IMAGE says where it is kept."""
    image = Path(os.environ.get("HERMES_TEST_IMAGE", REPOSITORY / "build" / "triton.sif"))
    _bring("build-triton-image.sh", str(image))
    return image.absolute()


@pytest.fixture(scope="session")
def doubler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with one model, `double`, under a path that needs care."""
    repository = tmp_path_factory.mktemp("repository") / "mod els, \"of\" 'a:b'\n$HOME ü\\"
    version = repository / "double" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    return repository


def _bring(script: str, *arguments: str) -> None:
    """Run a script of tests/environment; without what it brings there is nothing to test."""
    done = subprocess.run(
        [str(ENVIRONMENT / script), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = f"{script}: {done.stderr.strip()}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
