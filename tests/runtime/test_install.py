from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes.errors import InstallError, ParameterError, TritonNotFoundError
from hermes.runtime import find_triton, install_triton
from hermes.runtime._requirements import merge, pins, with_defaults
from tests.helpers import DOUBLE, write_model
from tests.runtime.conftest import Serve

INSTALL = "import pathlib, sys; from hermes.runtime import install_triton; "
INSTALL += "install_triton(pathlib.Path(sys.argv[1]), sys.argv[2:], report=print)"


def start_install(home: Path, *packages: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", INSTALL, home, *packages],
        stdout=subprocess.PIPE,
        text=True,
    )


def directories(home: Path) -> list[str]:
    return sorted(path.name for path in home.iterdir())


def test_installed_one_is_found(plain_home: Path) -> None:
    found = find_triton({"PATH": "", "HERMES_TRITON_HOME": str(plain_home)})

    assert found.binary.is_relative_to(plain_home)
    result = subprocess.run(
        [found.binary, "--help"],
        env={**os.environ, **found.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "tritonserver" in result.stdout + result.stderr


def test_second_call_changes_nothing_and_says_nothing(plain_home: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in plain_home.rglob("*")}
    lines: list[str] = []
    started = time.monotonic()

    install_triton(plain_home, report=lines.append)

    assert time.monotonic() - started < 1
    assert lines == []
    assert {path: path.stat().st_mtime_ns for path in plain_home.rglob("*")} == before


def test_other_backends_are_brought_without_installing_again(
    plain_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = (plain_home / "current").readlink()
    (old,) = (plain_home / "current").glob("backends-*")
    manifest = plain_home / "current" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(old.name, "backends-older"))
    old.rename(old.with_name("backends-older"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/")

    install_triton(plain_home)

    assert (plain_home / "current").readlink() == target
    assert (plain_home / "current" / old.name / "onnxruntime" / "model.py").is_file()
    stub = plain_home / "current" / old.name / "python" / "triton_python_backend_stub"
    assert os.access(stub, os.X_OK)


def test_failed_install_leaves_what_was_there(plain_home: Path) -> None:
    before = directories(plain_home)

    with pytest.raises(InstallError, match="no-such-package-of-hermes") as caught:
        install_triton(plain_home, packages=["./no-such-package-of-hermes.whl"])

    assert "pip install" in caught.value.step
    assert "ERROR" in str(caught.value)
    assert directories(plain_home) == before


class Refuses(http.server.BaseHTTPRequestHandler):
    """A proxy, or an index, that lets nobody in."""

    def do_GET(self) -> None:
        self.send_error(HTTPStatus.FORBIDDEN)

    def do_CONNECT(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def refusing() -> Iterator[str]:
    """The address of a server that answers 403 to everything."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        (None, "Connection refused"),
        ("PIP_PROXY", "Tunnel connection failed: 403 Forbidden"),
        ("PIP_INDEX_URL", "Could not find a version"),
    ],
)
def test_missing_network_is_told_with_what_to_do(
    variable: str | None,
    told: str,
    refusing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for other in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "https://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    if variable is not None:
        monkeypatch.setenv(variable, refusing)

    with pytest.raises(InstallError, match=told) as caught:
        install_triton(tmp_path)

    assert "pip config set global.proxy" in str(caught.value).splitlines()[-1]
    assert directories(tmp_path) == ["lock"]


def test_options_of_pip_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="packages"):
        install_triton(tmp_path, packages=["--target=/"])


@pytest.mark.parametrize("name", ["with:colon", "with;semicolon"])
def test_home_that_a_list_of_directories_cannot_hold_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="LD_LIBRARY_PATH"):
        install_triton(tmp_path / name)

    assert directories(tmp_path) == []


def copy_home(home: Path, copy: Path) -> None:
    """Make what an installation elsewhere would be: it never looks where its files really are."""
    installed = (home / "current").resolve()
    shutil.copytree(installed, copy / installed.name, symlinks=True, copy_function=os.symlink)
    (copy / "current").symlink_to(installed.name)


@pytest.mark.parametrize("name", ["with a space", "with(parentheses)", "with'quote"])
def test_home_with_characters_of_a_shell_serves(
    name: str, triton_home: Path, tmp_path: Path, serve_models: Serve, infer: Callable[..., Any]
) -> None:
    home = tmp_path / name
    copy_home(triton_home, home)
    write_model(tmp_path / "models", "double", DOUBLE)

    assert install_triton(home).binary.is_relative_to(home)
    with serve_models(home, tmp_path / "models") as client:
        answer = infer(client, "double", x=np.array([[3]], np.float32))

    assert answer["y"] == 6


def test_killed_install_is_not_taken_for_one_and_the_next_removes_it(tmp_path: Path) -> None:
    killed = start_install(tmp_path)
    assert killed.stdout is not None
    with killed.stdout as lines:
        next(line for line in lines if line.startswith("pip install"))
        killed.kill()  # its pip goes on for a while, and the next one waits for that
    killed.wait()
    (left,) = tmp_path.glob("triton-*")
    with pytest.raises(TritonNotFoundError):
        find_triton({"PATH": "", "HERMES_TRITON_HOME": str(tmp_path)})

    found = install_triton(tmp_path)

    assert not left.exists()
    assert directories(tmp_path) == ["current", "lock", (tmp_path / "current").readlink().name]
    assert found.binary.is_file()


def test_two_installs_at_once_make_one(tmp_path: Path) -> None:
    installs = [start_install(tmp_path), start_install(tmp_path)]

    outputs = [install.communicate(timeout=300)[0] for install in installs]

    assert [install.returncode for install in installs] == [0, 0]
    assert sum("creating an environment" in output for output in outputs) == 1
    assert sum("waiting for another" in output for output in outputs) == 1
    assert len(list(tmp_path.glob("triton-*"))) == 1


def installed_files(home: Path) -> dict[str, set[str]]:
    """Return the files of each package, and their hashes, as pip has recorded them."""
    records = (home / "current" / "lib").glob("python*/site-packages/*.dist-info/RECORD")
    return {
        record.parent.name: {
            line
            for line in record.read_text().splitlines()
            # Programs begin with the path of their environment.
            if "sha256=" in line and not line.startswith("../")
        }
        for record in records
    }


def test_added_package_changes_nothing_else(plain_home: Path, tmp_path: Path) -> None:
    copy_home(plain_home, tmp_path)
    manifest = tmp_path / "current" / "manifest.json"
    facts = json.loads(manifest.read_text())
    facts["versions"]["flatbuffers"] = "24.3.25"  # which onnxruntime needs, and which is old
    manifest.unlink()
    manifest.write_text(json.dumps(facts))
    before = installed_files(plain_home)

    install_triton(tmp_path, packages=["iniconfig"])

    now = json.loads(manifest.read_text())["versions"]
    assert now == {**facts["versions"], "iniconfig": now["iniconfig"]}
    after = installed_files(tmp_path)
    assert {name: after.get(name) for name in before if "flatbuffers" not in name} == {
        name: files for name, files in before.items() if "flatbuffers" not in name
    }


def test_environment_has_only_what_models_import(plain_home: Path) -> None:
    manifest = json.loads((plain_home / "current" / "manifest.json").read_text())

    assert manifest["versions"].keys().isdisjoint({"pip", "setuptools", "wheel"})
    assert not any(name.startswith("setuptools") for name in installed_files(plain_home))


@pytest.mark.parametrize(
    ("wishes", "kept"),
    [
        ((), ["numpy==1.26.4", "Typing_Extensions==4.1", "torch==2.13.0+cpu"]),
        (("torch", "typing-extensions>=4.2"), ["numpy==1.26.4"]),
    ],
)
@pytest.mark.parametrize("installers", [{}, {"pip": "23.0.1", "setuptools": "66.1.1"}])
def test_what_is_asked_for_may_change(
    wishes: tuple[str, ...], kept: list[str], installers: dict[str, str]
) -> None:
    versions = {"numpy": "1.26.4", "Typing_Extensions": "4.1", "torch": "2.13.0+cpu", **installers}
    assert pins(versions, wishes) == kept


def test_setuptools_that_a_package_brought_is_kept() -> None:
    assert pins({"setuptools": "80.0"}, ()) == ["setuptools==80.0"]


def test_added_package_keeps_what_was_asked_before(plain_home: Path) -> None:
    assert merge(("torch==2.13.0", "scipy"), ("Torch", "a.b_c")) == (
        "Torch",
        "scipy",
        "a.b_c",
    )


@pytest.mark.parametrize(
    ("wishes", "has_plain"),
    [((), True), (("torch",), True), (("onnxruntime-gpu==1.20",), False)],
)
def test_other_onnxruntimes_replace_the_plain_one(
    wishes: tuple[str, ...],
    has_plain: bool,
) -> None:
    assert ("onnxruntime" in with_defaults(wishes)) is has_plain
