"""The documentation builds, its links lead somewhere, and every code block in it runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
# Each goes on in the directory of those before it.
TUTORIALS = [
    ROOT / "docs" / "tutorials" / f"{n}.md"
    for n in ("serve", "validate", "pipeline", "series", "commands")
]
RUN = ("python", "sh")
# This one makes what it needs.
ALONE = [ROOT / "docs" / "model-repository.md"]
# The blocks of these pages need data of a test's own.
RUN_ELSEWHERE = {
    "scaling.md": "tests/test_scaling.py",
    "search.md": "tests/test_search.py",
    "clusters.md": "tests/clusters/test_jobs.py",
    "streaming.md": "tests/files/test_varying.py",
    "coming-from-ml4gw-hermes.md": "tests/test_ml4gw.py",
    "hooks.md": "tests/workflows/test_hooks_task.py",
    "extending.md": "tests/test_extending.py",
    "tuning.md": "tests/tuning/test_tune.py",
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the code blocks that are to be run, each with its language."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [(language, text) for language, text in found if language in RUN]


def run_block(language: str, text: str, directory: Path, triton_home: Path) -> None:
    """Run a block; one that begins with a file's name is that file, and a later block runs it."""
    if name := re.match(r"# (\w+\.py)\n", text):
        (directory / name[1]).write_text(text)
        return
    command = [sys.executable, "-c", text] if language == "python" else ["sh", "-ec", text]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        command,
        cwd=directory,
        env={
            **inherited,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HERMES_TRITON_HOME": str(triton_home),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}"


def test_the_tutorials(tmp_path: Path, triton_home: Path) -> None:
    for page in TUTORIALS:
        for language, text in blocks(page):
            run_block(language, text, tmp_path, triton_home)
    assert (tmp_path / "results" / "report.html").exists()
    assert len((tmp_path / "candidates.txt").read_text().splitlines()) == 3


@pytest.mark.parametrize("page", ALONE, ids=lambda page: page.name)
def test_a_page_that_makes_what_it_needs(page: Path, tmp_path: Path, triton_home: Path) -> None:
    for language, text in blocks(page):
        run_block(language, text, tmp_path, triton_home)


def test_the_blocks_of_other_pages_are_run_elsewhere() -> None:
    others = {page.name for page in PAGES if page not in (*TUTORIALS, *ALONE) and blocks(page)}
    assert others == RUN_ELSEWHERE.keys()
    assert all(name in (ROOT / test).read_text() for name, test in RUN_ELSEWHERE.items())


def test_no_picture_has_a_semicolon_which_ends_a_statement_of_it() -> None:
    pages = [ROOT / "README.md", *PAGES]
    pictures = re.findall(
        r"^```mermaid\n(.*?)^```",
        "".join(page.read_text() for page in pages),
        re.MULTILINE | re.DOTALL,
    )
    assert len(pictures) >= 6
    assert not [picture for picture in pictures if ";" in picture]


def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going"]
    done = subprocess.run(
        [*command, ROOT / "docs", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "TritonServerTask" in (tmp_path / "reference" / "workflows.html").read_text()


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *PAGES], ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []
