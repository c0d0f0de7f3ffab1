from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from hermes.aeriel.serve._nvml import why_no_gpu
from hermes.runtime import install_triton

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = REPOSITORY / "tests" / "environment"

# What a caller may have set, and what would make the tests talk of something else.
VARIABLES = (
    "HERMES_TRITON_BINARY",
    "HERMES_IMAGE_PATH",
    "HERMES_STATE_HOME",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the option of CI."""
    parser.addoption(
        "--ci", action="store_true", help="fail where a test is skipped; show who runs the tests"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what only root can do, and what needs a GPU where there is none."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")
    if item.get_closest_marker("gpu") and (reason := why_no_gpu()):
        pytest.skip(f"needs a GPU: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Take a skipped test for a failure, in CI."""
    report = yield
    if report.skipped and item.config.getoption("--ci"):
        report.outcome = "failed"
        report.longrepr = f"skipped, where every test has to run: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests recorded of who runs them, in CI."""
    if terminalreporter.config.getoption("--ci"):
        for report in terminalreporter.getreports("passed"):
            for name, text in report.user_properties:
                terminalreporter.section(f"{name} of {report.nodeid}")
                terminalreporter.write_line(str(text))


@pytest.fixture(scope="session", autouse=True)
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The same variables for everybody's tests, temporary files of their own, and Ctrl-C.

    Of a command in the background a shell has SIGINT ignored, by its children too.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        patch.setattr(tempfile, "tempdir", None)
        patch.setenv("ORT_DISABLE_TELEMETRY", "1")  # it would ask a test's proxy
        for variable in VARIABLES:
            patch.delenv(variable, raising=False)
        yield


@pytest.fixture(scope="session")
def triton_home() -> Iterator[Path]:
    """A home with an installed Triton, which `serve` uses.

    HERMES_TRITON_HOME, else the user's cache; Triton is installed there if need be.
    """
    install_triton(report=print)
    named = os.environ.get("HERMES_TRITON_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    home = Path(named) if named else cache / "hermes" / "triton"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HERMES_TRITON_HOME", str(home))
        yield home


@pytest.fixture(params=["local", pytest.param("container", marks=pytest.mark.container)])
def image(request: pytest.FixtureRequest) -> Path | None:
    """What to serve from, in turn: this machine's own Triton, and a container's."""
    if request.param == "local":
        request.getfixturevalue("triton_home")
        return None
    image: Path = request.getfixturevalue("triton_image")
    return image


@pytest.fixture(scope="session")
def apptainer() -> str:
    """The command of a real Apptainer."""
    command = shutil.which("apptainer") or shutil.which("singularity")
    if command is None:
        pytest.skip("no Apptainer; `make image`, as root, installs it and builds an image")
    return command


@pytest.fixture(scope="session")
def triton_image(apptainer: str) -> Path:
    """A real image with Triton; HERMES_TEST_IMAGE says where it is."""
    image = Path(os.environ.get("HERMES_TEST_IMAGE", REPOSITORY / "build" / "triton.sif"))
    # It says so and changes nothing where the image is there and made of what it should be.
    script = ENVIRONMENT / "build-triton-image.sh"
    done = subprocess.run([script, "--check", image], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{done.stderr.strip()}; `make image`, as root, builds it")
    return image.absolute()


DOUBLER = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(r, "x").as_numpy() for r in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", 2 * x)]) for x in inputs]
"""
DOUBLER_CONFIG = """
backend: "python"
max_batch_size: 8
input [{ name: "x", data_type: TYPE_FP32, dims: [2] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [2] }]
"""


@pytest.fixture(scope="session")
def doubler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with one model, `double`, under a path that needs care."""
    repository = tmp_path_factory.mktemp("repository") / "mod els, \"of\" 'a:b'\n$HOME ü\\"
    version = repository / "double" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(DOUBLER)
    (version.parent / "config.pbtxt").write_text(DOUBLER_CONFIG)
    return repository
