from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

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
