from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import hermes.runtime
from hermes.errors import ParameterError, TritonNotFoundError
from hermes.runtime import LocalTriton, find_triton


def test_exports_are_what_they_say() -> None:
    assert set(hermes.runtime.__all__) == {"LocalTriton", "find_triton", "install_triton"}


def test_named_binary_comes_before_the_path(system_triton: LocalTriton, tmp_path: Path) -> None:
    named = tmp_path / "my triton"
    named.write_text("#!/bin/sh\n")
    named.chmod(0o755)
    environ = {"HERMES_TRITON_BINARY": str(named), "PATH": str(system_triton.binary.parent)}

    found = find_triton(environ)

    assert found == LocalTriton(binary=named, source="HERMES_TRITON_BINARY")


@pytest.mark.parametrize("kind", ["missing", "directory", "not executable"])
def test_named_binary_that_cannot_run_is_an_error_of_its_own(kind: str, tmp_path: Path) -> None:
    named = tmp_path / "triton"
    if kind == "directory":
        named.mkdir()
    elif kind == "not executable":
        named.touch()

    with pytest.raises(ParameterError, match="HERMES_TRITON_BINARY") as caught:
        find_triton({"HERMES_TRITON_BINARY": str(named), "PATH": os.environ["PATH"]})

    assert str(named) in str(caught.value)


def test_path_comes_before_the_installed_one(system_triton: LocalTriton, triton_home: Path) -> None:
    environ = {"PATH": str(system_triton.binary.parent), "HERMES_TRITON_HOME": str(triton_home)}

    assert find_triton(environ) == system_triton


def test_nothing_anywhere_names_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TritonNotFoundError) as caught:
        find_triton({"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)})

    message = str(caught.value)
    assert "hermes install-triton" in message
    for place in ("HERMES_TRITON_BINARY", "the PATH", "/opt/tritonserver", f"{tmp_path}/hermes"):
        assert place in message


def test_installation_without_a_manifest_is_none(tmp_path: Path) -> None:
    (tmp_path / "triton-0.7.0-half").mkdir()
    (tmp_path / "current").symlink_to("triton-0.7.0-half")

    with pytest.raises(TritonNotFoundError, match="is not there"):
        find_triton({"PATH": "", "HERMES_TRITON_HOME": str(tmp_path)})


def test_installed_one_puts_itself_before_what_the_user_has(triton_home: Path) -> None:
    environ = {
        "HERMES_TRITON_HOME": str(triton_home),
        "PATH": "/usr/bin",
        "PYTHONPATH": "/home/me/modules",
        "LD_LIBRARY_PATH": "/home/me/lib",
        "PYTHONHOME": "/home/me/python",
    }

    found = find_triton(environ)

    directory = (triton_home / "current").resolve()
    assert found.environment["PATH"] == f"{directory}/bin:/usr/bin"
    assert Path(found.environment["PYTHONPATH"]).is_relative_to(directory)
    assert found.environment["LD_LIBRARY_PATH"].endswith(":/home/me/lib")
    assert found.environment["PYTHONHOME"] == ""
    assert found.backend_directory is not None
    assert found.backend_directory.is_relative_to(directory)
    assert found.backend_directory.is_dir()


def test_installed_one_imports_its_own_numpy_from_any_environment(
    triton_home: Path, tmp_path: Path
) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('the numpy of the user')")
    environ = {
        **os.environ,
        "HERMES_TRITON_HOME": str(triton_home),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(tmp_path),
        "PYTHONHOME": "/nowhere",
    }
    found = find_triton(environ)

    result = subprocess.run(
        [
            "/usr/bin/env",
            "python3",
            "-c",
            "import numpy, sys; print(numpy.__version__, sys.prefix)",
        ],
        env={**environ, **found.environment},
        capture_output=True,
        text=True,
        check=True,
    )

    version, prefix = result.stdout.strip().split(" ", 1)
    assert version.startswith("1.")
    assert Path(prefix).resolve() == (triton_home / "current").resolve()


def test_onnxruntime_reports_to_nobody_unless_the_caller_says_so(triton_home: Path) -> None:
    environ = {"HERMES_TRITON_HOME": str(triton_home), "PATH": "/usr/bin:/bin"}
    assert find_triton(environ).environment["ORT_DISABLE_TELEMETRY"] == "1"
    asked = {**environ, "ORT_DISABLE_TELEMETRY": "0"}
    assert find_triton(asked).environment["ORT_DISABLE_TELEMETRY"] == "0"
