"""What docs/extending.md adds to hermes works as it stands there."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes.aeriel.serve import serve
from hermes.aeriel.serve.runtimes import INSTANCES
from hermes.errors import ParameterError
from tests.clusters.pipeline import Cluster, Pipeline, seconds_until_clean
from tests.helpers import DOUBLE, ECHO, write_model
from tests.serve.runtimes import RuntimeConformance

ROOT = Path(__file__).parents[1]
BLOCKS: list[str] = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs" / "extending.md").read_text(), re.MULTILINE | re.DOTALL
)


def write_block(name: str, directory: Path) -> Path:
    """Write the file of this name as the page has it, below a directory; return its path."""
    [text] = [block for block in BLOCKS if block.startswith(f"# {name}\n")]
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def run(command: Sequence[str | Path], directory: Path, **variables: str) -> str:
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(directory), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_metric(tmp_path: Path, triton_home: Path) -> None:
    write_block("overlap.py", tmp_path)
    write_model(tmp_path / "models", "double", DOUBLE)
    x = np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"], file["target"] = x, 7 * x
    command = [str(Path(sys.executable).with_name("luigi")), "--module", "overlap", "Validate"]
    options = ["--model-repository", "models", "--model-name", "double", "--inputs", "data.h5"]
    wanted = ["--target", "target", "--metrics", '["overlap"]', "--require", "overlap >= 0.999"]
    run([*command, *options, *wanted, "--output-dir", "out", "--local-scheduler"], tmp_path)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["metrics"]["overlap"] == pytest.approx(1.0)


def test_a_transport(tmp_path: Path, triton_home: Path) -> None:
    write_block("gzipped.py", tmp_path)
    models = write_model(tmp_path / "models", "echo", ECHO, inputs={"x": ("FP32", [100_000])})
    program = """
import sys
import numpy as np
import gzipped
from hermes.aeriel.client import InferenceClient

with InferenceClient(sys.argv[1], "echo", transport="gzip") as client:
    assert client.transport == "gzip"
    batch = np.zeros((8, 100_000), np.float32)
    for answer in client.stream({"x": batch + n} for n in range(3)):
        print(answer["y"].mean())
"""
    with (
        serve(models, ports="auto", wait=True) as instance,
        counting(instance.endpoint.grpc) as (
            address,
            sent,
        ),
    ):
        said = run([sys.executable, "-c", program, address], tmp_path)
    assert said.split() == ["0.0", "1.0", "2.0"]
    assert sum(sent) < 1_000_000  # of 9.6 MB


@contextmanager
def counting(address: str) -> Iterator[tuple[str, list[int]]]:
    """Forward a connection to an address; give where, and how much the client has sent."""
    host, port = address.split(":")
    sent: list[int] = []

    def forward(source: socket.socket, target: socket.socket, counts: list[int]) -> None:
        while data := source.recv(1 << 16):
            counts.append(len(data))
            target.sendall(data)

    def accept() -> None:
        client, _ = listener.accept()
        with client, socket.create_connection((host, int(port))) as server:
            back = threading.Thread(target=forward, args=(server, client, []))
            back.start()
            forward(client, server, sent)
            server.shutdown(socket.SHUT_RDWR)
            back.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", sent
        thread.join()


@pytest.mark.usefixtures("triton_home")
class TestContainerRuntime(RuntimeConformance):
    kind = "OfflineInstance"
    module = "offline"

    @pytest.fixture(scope="class")
    @classmethod
    def image(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        command = ["unshare", "--user", "--map-current-user", "--net", "true"]
        if subprocess.run(command, check=False, capture_output=True).returncode != 0:
            pytest.skip("no user namespaces for this user")
        directory = write_block("offline.py", tmp_path_factory.mktemp("offline")).parent
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(directory)
            patch.setenv("PYTHONPATH", str(directory))
            importlib.import_module("offline")
            yield "offline:"
            del INSTANCES["offline"], sys.modules["offline"]

    def test_a_port_would_lead_nowhere(self, image: str, tmp_path: Path) -> None:
        with pytest.raises(ParameterError, match='listen="unix"'), serve(tmp_path, image):
            pytest.fail("it started")


def test_a_local_backend(tmp_path: Path, triton_home: Path) -> None:
    project = tmp_path / "project"
    copy_source(project)
    write_block("hermes/runtime/backends/linear/model.py", project)
    # A home of its own: other tests serve from the installation that is there.
    installation = (triton_home / "current").resolve()
    home = tmp_path / "home"
    shutil.copytree(installation, home / installation.name, symlinks=True)
    (home / "current").symlink_to(installation.name)
    version = tmp_path / "models" / "fit" / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text('backend: "linear"')
    np.savez(version / "model.npz", weight=np.eye(3, dtype=np.float32) * 2, bias=np.float32(1))
    program = """
import sys
import numpy as np
from hermes.aeriel.client import InferenceClient
from hermes.aeriel.serve import serve
from hermes.runtime import install_triton

install_triton()
with serve(sys.argv[1], listen="unix", wait=True) as instance:
    with InferenceClient(instance.endpoint, "fit") as client:
        print(client.infer({"x": np.array([[1, 2, 3]], np.float32)}).result()["y"].tolist())
"""
    command = [sys.executable, "-c", program, str(tmp_path / "models")]
    assert run(command, project, HERMES_TRITON_HOME=str(home)) == "[[3.0, 5.0, 7.0]]\n"


def test_a_batch_system(tmp_path: Path, triton_home: Path) -> None:
    project = tmp_path / "project"
    copy_source(project)
    written = write_block("hermes/aeriel/jobs/_processes.py", project)
    spec = importlib.util.spec_from_file_location("processes", written)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    jobs = project / "hermes" / "aeriel" / "jobs"
    edit(
        jobs / "_engines.py",
        '"slurm": Slurm',
        '"slurm": Slurm, "processes": Processes',
        "from hermes.aeriel.jobs._processes import Processes",
    )
    edit(jobs / "_options.py", '["local", ', '["local", "processes", ')
    directory = tmp_path / "run"
    directory.mkdir()
    variables = {"PYTHONPATH": str(project)}
    states = module.Processes().states
    cluster = Cluster(name="processes", variables=variables, states=states)
    pipeline = Pipeline(cluster, directory)
    try:
        assert "jobs: " in pipeline.run("--files-per-job", "1")
        pipeline.run(local=True, results="local")
        assert pipeline.merged() == pipeline.merged("local")
    finally:
        pipeline.close()
    seconds_until_clean(pipeline, 30)


def test_a_file_layout(tmp_path: Path, triton_home: Path) -> None:
    write_block("oscilloscope.py", tmp_path)
    models = write_model(tmp_path / "models", "echo", ECHO, inputs={"x": ("FP32", [2, 8])})
    with h5py.File(tmp_path / "wave.h5", "w") as file:
        file["x"] = np.arange(80, dtype=np.float32).reshape(2, 40)
        file["x"].attrs.update({"XInc": 1 / 16, "XOrg": -1.5})
    program = """
import sys
from pathlib import Path
import oscilloscope
from hermes.aeriel.client import InferenceClient
from hermes.aeriel.files import InferenceOptions, Request, infer_file
from hermes.aeriel.serve import serve

request = Request(
    input_files=(Path("wave.h5"),),
    output_file=Path("out.h5"),
    options=InferenceOptions(model_name="echo", window="0.5s"),
    fingerprint="",
    provenance={},
)
with serve(sys.argv[1], listen="unix", wait=True) as instance:
    with InferenceClient(instance.endpoint, "echo") as client:
        infer_file(client, request, lambda *_: None)
"""
    run([sys.executable, "-c", program, str(models)], tmp_path)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["y"].shape == (5, 2, 8)
        assert (file["y"].attrs["sample_rate"], file["y"].attrs["start_time"]) == (2.0, -1.5)


def copy_source(directory: Path) -> None:
    """Copy hermes into a directory, so that a test can change it."""
    for package in ("hermes", "workflows"):
        shutil.copytree(ROOT / package, directory / package, ignore=shutil.ignore_patterns("*.pyc"))


def edit(file: Path, old: str, new: str, imported: str = "") -> None:
    """Change one line of a file, and import something after the last import."""
    text = file.read_text()
    assert text.count(old) == 1
    head, _, tail = text.replace(old, new).rpartition("\nfrom ")
    line, _, rest = tail.partition("\n")
    file.write_text(f"{head}\nfrom {line}\n{imported}\n{rest}")


def test_every_block_is_added_by_a_test() -> None:
    named = re.findall(r'write_block\(\s*"([^"]+)"', Path(__file__).read_text())
    assert sorted(named) == sorted(block.splitlines()[0].removeprefix("# ") for block in BLOCKS)
