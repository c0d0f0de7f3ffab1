"""Every code block in the README runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS: list[tuple[str, str]] = re.findall(
    r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
)


def block(kind: str, containing: str) -> str:
    found = [text for language, text in BLOCKS if language == kind and containing in text]
    assert len(found) == 1, f"{len(found)} blocks of {kind} with {containing!r}"
    return found[0]


def run(command: list[str], cwd: Path, **environ: str) -> str:
    # Under `make check ARGS=…` the make in a block would run with these ARGS: the whole suite.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    result = subprocess.run(
        command,
        cwd=cwd,
        env={
            **inherited,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **environ,
        },
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
    assert re.search(rf"accuracy 0\.\d+; the report is {report}$", said, re.MULTILINE)
    assert report.exists()
    assert " passed" in said


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
