"""Finds the tritonserver of this machine, and the environment that it needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hermes.errors import ParameterError, TritonNotFoundError
from hermes.runtime import _layout

BINARY_VARIABLE = "HERMES_TRITON_BINARY"
CONTAINER_BINARY = Path("/opt/tritonserver/bin/tritonserver")


@dataclass(frozen=True, kw_only=True)
class LocalTriton:
    """A tritonserver on this machine.

    Attributes
    ----------
    binary
        The executable.
    source
        A description of where it was found.
    backend_directory
        The directory with its backends, if it is not Triton's default.
    environment
        Variables to add to the caller's environment.
    """

    binary: Path
    source: str
    backend_directory: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def find_triton(environ: Mapping[str, str] = os.environ) -> LocalTriton:
    """Return the tritonserver of this machine.

    It is the one that HERMES_TRITON_BINARY names, else the one on the PATH, else that of
    NVIDIA's container images, else the one of `install_triton`.

    Parameters
    ----------
    environ
        The environment to search, in which the server is started.

    Raises
    ------
    ParameterError
        HERMES_TRITON_BINARY is set, but not to an executable file.
    TritonNotFoundError
        There is none.
    """
    if named := environ.get(BINARY_VARIABLE):
        binary = Path(named).expanduser().absolute()
        if not _is_executable(binary):
            raise ParameterError(BINARY_VARIABLE, f"{binary} is not an executable file")
        return LocalTriton(binary=binary, source=BINARY_VARIABLE)
    if on_path := shutil.which("tritonserver", path=environ.get("PATH", "")):
        return LocalTriton(binary=Path(on_path).absolute(), source="the PATH")
    if _is_executable(CONTAINER_BINARY):
        return LocalTriton(binary=CONTAINER_BINARY, source=str(CONTAINER_BINARY.parent))

    home = _layout.triton_home(environ)
    installation = _layout.current(home)
    problem = installation.problem() if installation else "is not there"
    if installation is None or problem:
        raise TritonNotFoundError(
            looked_in=(
                f"{BINARY_VARIABLE} (not set)",
                "the PATH",
                str(CONTAINER_BINARY),
                f"{home} (an installed one {problem})",
            ),
            advice="Install one with: hermes install-triton",
        )
    return local_triton(installation, environ)


def local_triton(installation: _layout.Installation, environ: Mapping[str, str]) -> LocalTriton:
    """Return how an installed Triton is run."""
    return LocalTriton(
        binary=installation.binary,
        source=f"hermes install-triton, {installation.directory}",
        backend_directory=installation.backend_directory,
        environment=installation.environment(environ),
    )


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
