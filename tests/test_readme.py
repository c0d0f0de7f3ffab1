"""Every code block in the README runs as it stands."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from hermes.aeriel.repository import check_model, read_model
from tests.helpers import remains, wait_until

ROOT = Path(__file__).parents[1]
BLOCKS: list[tuple[str, str]] = re.findall(
    r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
)


def block(kind: str, containing: str) -> str:
    found = [text for language, text in BLOCKS if language == kind and containing in text]
    assert len(found) == 1, f"{len(found)} blocks of {kind} with {containing!r}"
    return found[0]


def environment(**variables: str) -> dict[str, str]:
    # Under `make check ARGS=…` the make in a block would run with these ARGS: the whole suite.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**inherited, "PATH": path, **variables}


def run(command: list[str], cwd: Path, **environ: str) -> str:
    result = subprocess.run(
        command,
        cwd=cwd,
        env=environment(**environ),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=400,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model repository and data, as the README speaks of them."""
    directory = tmp_path_factory.mktemp("project")
    subprocess.run([sys.executable, ROOT / "examples" / "digits.py", directory], check=True)
    return directory


def test_the_two_commands(tmp_path: Path) -> None:
    command = block("sh", "make validate")
    said = run(
        ["sh", "-ec", command],
        ROOT,
        VENV=sys.prefix,
        DEMO=str(tmp_path / "demo"),
        ARGS="tests/test_errors.py -q",
    )
    report = tmp_path / "demo" / "results" / "report.html"
    assert re.search(r"^verdict +passed: accuracy 0\.\d+", said, re.MULTILINE)
    assert re.search(r"^report +\S*demo/results/report\.html$", said, re.MULTILINE)
    assert report.exists()
    assert " passed" in said


def processes_of(directory: Path) -> list[str]:
    """Return the command lines that name a directory, or a path in it."""
    commands = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    return [" ".join(words) for words in commands if any(str(directory) in w for w in words or ())]


def test_ctrl_c_leaves_nothing_and_the_next_run_does_the_rest(tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    variables = environment(VENV=sys.prefix, DEMO=str(demo))
    # As a terminal does it: the signal goes to make, the shell, Luigi and its workers at once.
    with subprocess.Popen(
        ["make", "validate"], cwd=ROOT, env=variables, start_new_session=True
    ) as interrupted:
        wait_until(lambda: any("tritonserver" in c for c in processes_of(demo)), 120)
        server_ids = set(re.findall(r"--id=(\S+)", " ".join(processes_of(demo))))
        children = psutil.Process(interrupted.pid).children(recursive=True)
        os.killpg(interrupted.pid, signal.SIGINT)
        assert interrupted.wait(60) != 0
    wait_until(lambda: processes_of(demo) == [], 60)
    assert [left for server_id in server_ids for left in remains(server_id)] == []
    assert [r for child in children for r in Path("/dev/shm").glob(f"hermes-*-{child.pid}-*")] == []
    said = run(["make", "validate"], ROOT, VENV=sys.prefix, DEMO=str(demo))
    assert re.search(r"^verdict +passed: accuracy 0\.\d+", said, re.MULTILINE)
    predictions = {path: path.stat().st_mtime_ns for path in (demo / "results").rglob("*.h5")}
    run(["make", "validate"], ROOT, VENV=sys.prefix, DEMO=str(demo))
    assert predictions == {path: path.stat().st_mtime_ns for path in predictions}


def test_a_model_repository(project: Path, tmp_path: Path) -> None:
    names = re.findall(r"[\w.]+", block("text", "config.pbtxt"))
    assert names == ["models", "digits", "config.pbtxt", "1", "model.onnx"]
    shutil.copytree(project / "models", tmp_path / "models")
    (tmp_path / "models" / "digits" / "config.pbtxt").write_text(
        block("protobuf", "max_batch_size")
    )
    check_model(str(tmp_path / "models"), "digits")
    assert read_model(str(tmp_path / "models"), "digits").specification is not None


def test_your_own_files(project: Path) -> None:
    run(["sh", "-ec", block("sh", "workflows.validate")], project)
    assert (project / "results" / "report.html").exists()


@pytest.mark.container
def test_a_server_for_as_long_as_a_block_lasts(project: Path, triton_image: Path) -> None:
    (project / "triton.sif").symlink_to(triton_image)
    said = run([sys.executable, "-c", block("python", "triton.sif")], project)
    assert "has True" in said


def test_a_client_that_streams(project: Path) -> None:
    said = run([sys.executable, "-c", block("python", "client.stream")], project)
    assert "rows/s" in said


def test_tasks_to_build_on(project: Path) -> None:
    (project / "pipeline.py").write_text(block("python", "# pipeline.py"))
    run(["sh", "-ec", block("sh", "--module pipeline")], project)
    assert (project / "scores" / "digits-0.h5").exists()


def test_every_block_is_run_by_a_test() -> None:
    source = Path(__file__).read_text()
    for kind, containing in re.findall(r'block\("(\w+)", "([^"]+)"\)', source):
        assert block(kind, containing)
    assert len(re.findall(r'block\("\w+", "[^"]+"\)', source)) == len(BLOCKS)
