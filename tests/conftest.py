from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes.runtime import install_triton

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
    """The same variables for everybody's tests, and temporary files of their own."""
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
