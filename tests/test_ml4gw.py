"""Programs written for ml4gw-hermes, and both packages in one environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.monitor import ServerMonitor
from hermes.aeriel.serve import TritonInstance, serve
from hermes.errors import InputError
from tests.helpers import DOUBLE, write_model
from tests.stateful import BATCHING, RUNNING_SUM

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "coming-from-ml4gw-hermes.md"
THEIRS = "ml4gw-hermes==0.3.1"
# What their classes and functions take that ours do not.
OLD: dict[Callable[..., Any], tuple[str, ...]] = {
    InferenceClient: ("address", "batch_size", "callback", "profile"),
    ServerMonitor: ("model_name", "ips", "filename", "model_version", "max_request_rate"),
    serve: ("model_repo_dir", "free_ports"),
}
ADDS = """
    def answer(self, request):
        return response(y=array(request, "a") + array(request, "b"))
"""
VERSION = """
    def initialize(self, args):
        self.version = int(args["model_version"])

    def answer(self, request):
        return response(y=0 * array(request, "x") + self.version)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, triton_home: Path) -> Iterator[TritonInstance]:
    models = tmp_path_factory.mktemp("models")
    one: Any = {"x": ("FP32", [1])}
    write_model(models, "double", DOUBLE)
    write_model(models, "sums", RUNNING_SUM, config=BATCHING)
    write_model(
        models, "adds", ADDS, inputs={"a": one["x"], "b": one["x"]}, outputs={"y": one["x"]}
    )
    write_model(models, "versions", VERSION, config="version_policy { all {} }")
    shutil.copytree(models / "versions" / "1", models / "versions" / "7")
    with serve(models, ports="auto", wait=True, timeout_s=120) as instance:
        yield instance


@pytest.mark.parametrize(
    ("call", "name"), [(call, name) for call, names in OLD.items() for name in names]
)
def test_an_old_keyword_names_the_new_one(call: Callable[..., Any], name: str) -> None:
    with pytest.raises(TypeError, match=rf"^\w+\(\) takes no '{name}': .*docs/coming-from") as told:
        call(**{name: 1})
    assert f"`{name}`" in PAGE.read_text(), told.value


@pytest.mark.parametrize(
    "name", ["x", "request_id", "sequence_id", "sequence_start", "sequence_end"]
)
def test_an_old_keyword_of_a_request_names_the_new_one(server: TritonInstance, name: str) -> None:
    given: Any = {name: 1}
    with (
        InferenceClient(server.endpoint, "double") as client,
        pytest.raises(TypeError, match=rf"^InferenceClient.infer\(\) takes no '{name}': "),
    ):
        client.infer(**given)
    assert f"`{name}`" in PAGE.read_text()


def test_an_array_alone_is_for_the_only_input(server: TritonInstance) -> None:
    x = np.array([[1], [2]], np.float32)
    with InferenceClient(server.endpoint, "double") as client:
        assert client.infer(x).result()["y"].tolist() == [[2], [4]]
        assert [out["y"].tolist() for out in client.stream([x, 3 * x])] == [[[2], [4]], [[6], [12]]]
    updates = [x[:1], x[1:], x[1:]]
    with InferenceClient(server.endpoint, "sums") as client:
        for given in (updates, iter(updates), lambda: updates):
            with client.sequence() as sequence:
                found = [float(out["y"][0, 0]) for out in sequence.stream(given)]
            assert found == [1, 3, 5]
    with (
        InferenceClient(server.endpoint, "adds") as client,
        pytest.raises(InputError, match=r"an array of shape .* wanted a dict .* for each of a, b"),
    ):
        client.infer(x)


def test_the_loop_of_the_page(server: TritonInstance) -> None:
    [block] = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    code = block.replace("localhost:8001", server.endpoint.grpc).replace("aframe-stream", "sums")
    names: dict[str, Any] = {"updates": [np.array([[n]], np.float32) for n in range(4)]}
    exec(code, names)  # noqa: S102 (our own documentation)
    assert names["scores"].ravel().tolist() == [0, 1, 3, 6]


@pytest.mark.parametrize("version", [-1, "-1", ""])
def test_version_minus_1_is_the_latest(server: TritonInstance, version: str | int) -> None:
    with InferenceClient(server.endpoint, "versions", version) as client:
        assert client.infer(np.zeros((1, 1), np.float32)).result()["y"].tolist() == [[7]]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheels of both packages."""
    directory = tmp_path_factory.mktemp("wheels")
    source = directory / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("hermes", "workflows"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(directory), "-q"]
    for what in (THEIRS, str(source)):
        done = subprocess.run([*pip, what], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture
def install(tmp_path: Path, wheels: Path) -> Callable[..., None]:
    """Install packages in their order into an environment of the test's own."""
    venv.create(tmp_path / "venv", symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
    # What both depend on; an editable hermes there is out of sight.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    def install(*packages: str) -> None:
        for package in packages:
            [wheel] = wheels.glob(f"{package}-*.whl")
            pip = [sys.executable, "-m", "pip", "--python", str(tmp_path / "venv"), "install", "-q"]
            options = ["--no-deps", "--force-reinstall", "--no-index", str(wheel)]
            done = subprocess.run([*pip, *options], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr

    return install


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [directory / "venv" / "bin" / arguments[0], *arguments[1:]],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


IMPORT = "import hermes.aeriel.client as client; print(client.InferenceClient.__module__)"
ADVICE = r"ml4gw-hermes is installed in this environment too, .*: pip uninstall ml4gw-hermes, then "


def test_the_other_package_beside_this_one_is_noticed(
    install: Callable[..., None], tmp_path: Path
) -> None:
    install("ml4gw_hermes", "hermes_aeriel")
    imported = run(tmp_path, "python", "-c", IMPORT)
    assert imported.stdout == "hermes.aeriel.client._client\n"
    assert re.search(rf"RuntimeWarning: {ADVICE}", imported.stderr)
    checked = run(tmp_path, "hermes", "check")
    assert re.search(rf"missing packages: {ADVICE}", " ".join(checked.stdout.split())), checked
    refused = run(tmp_path, "python", "-c", IMPORT + "; client.InferenceClient(address='a')")
    assert "TypeError: InferenceClient() takes no 'address'" in refused.stderr


def test_modules_that_the_other_package_has_overwritten_are_not_imported(
    install: Callable[..., None], tmp_path: Path
) -> None:
    install("hermes_aeriel", "ml4gw_hermes")
    words = "hermes.aeriel.client, hermes.aeriel.serve, hermes.aeriel.monitor cannot be imported: "
    imported = run(tmp_path, "python", "-c", IMPORT)
    assert imported.returncode == 1
    assert re.search(rf"OverwrittenError: {words}{ADVICE}", imported.stderr)
    checked = run(tmp_path, "hermes", "check")
    assert checked.returncode == 1
    assert re.fullmatch(rf"hermes: {words}{ADVICE}.*\n", checked.stderr)
    install("hermes_aeriel")  # what the sentence says
    assert run(tmp_path, "python", "-c", IMPORT).returncode == 0


def test_alone_there_is_nothing_to_notice(install: Callable[..., None], tmp_path: Path) -> None:
    install("hermes_aeriel")
    imported = run(tmp_path, "python", "-W", "error", "-c", IMPORT)
    assert imported.stderr == ""
    assert "ml4gw" not in run(tmp_path, "hermes", "check").stdout
