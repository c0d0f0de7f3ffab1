"""`make`, as a newcomer calls it: in whatever directory, with whatever Python."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# An interpreter that is as old as it is told, and whose environments note what pip is to do.
PYTHON = """\
#!/bin/sh
case "$1" in
-c) exec {python} -c "import sys; sys.version_info = ({version}, 0); $2" ;;
-m) {venv}
    mkdir -p "$3/bin"
    printf '#!/bin/sh\\necho "$@" >>pip.log\\n%s' {pip} >"$3/bin/python"
    printf '#!/bin/sh\\necho hermes "$@"' >"$3/bin/hermes"
    chmod +x "$3"/bin/* ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone that has been used for nothing yet, in a directory with awkward characters."""
    clone = tmp_path / "a 'clone' of $HOME"
    clone.mkdir()
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        shutil.copy2(ROOT / name, clone)
    return clone


def make_triton(
    clone: Path, version: str = "3, 12", venv: str = ":", pip: str = ":"
) -> subprocess.CompletedProcess[str]:
    """Run `make triton` with a Python of this version, which runs these shell commands."""
    python = clone.parent / "my python"  # without a $, which means something to make
    python.write_text(
        PYTHON.format(
            python=shlex.quote(sys.executable), version=version, venv=venv, pip=shlex.quote(pip)
        )
    )
    python.chmod(0o755)
    return subprocess.run(
        ["make", "triton", f"PYTHON={python}"],
        cwd=clone,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )


def pip_calls(clone: Path) -> int:
    log = clone / "pip.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.mark.parametrize("version", ["3, 11", "3, 12", "3, 13"])
def test_the_environment_is_made_once(clone: Path, version: str) -> None:
    done = make_triton(clone, version)
    assert done.returncode == 0, done.stderr
    assert "installing hermes and what it needs into .venv" in done.stdout
    assert "hermes install-triton" in done.stdout
    again = make_triton(clone, version)
    assert again.returncode == 0, again.stderr
    assert "installing" not in again.stdout
    assert pip_calls(clone) == 1


@pytest.mark.parametrize("version", ["2, 7", "3, 9", "3, 10", "3, 14"])
def test_a_wrong_python_is_told_in_a_sentence(clone: Path, version: str) -> None:
    done = make_triton(clone, version)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == (
        f"hermes needs Python 3.11, 3.12 or 3.13, and {clone.parent}/my python is none of them; "
        "name one that is: make PYTHON=python3.12"
    )
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize(
    "fault",
    [
        # Debian without python3-venv: it says so, and leaves half an environment.
        {"venv": 'mkdir -p "$3/bin"; ln -s /bin/false "$3/bin/python"; echo no ensurepip; exit 1'},
        {"pip": "exit 1"},  # no network, or Ctrl-C
    ],
)
def test_what_was_stopped_half_way_is_done_by_the_next_call(
    clone: Path, fault: dict[str, str]
) -> None:
    done = make_triton(clone, **fault)
    assert done.returncode != 0
    assert ("pip config set global.proxy" in done.stderr) == ("pip" in fault)
    shutil.rmtree(clone / ".venv" / "bin")  # so that the fake writes through no link
    done = make_triton(clone)
    assert done.returncode == 0, done.stderr
    assert "hermes install-triton" in done.stdout
