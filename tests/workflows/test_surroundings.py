"""A pipeline runs in the shells and on the hosts that people have."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.helpers import DOUBLE, write_model
from tests.workflows.conftest import write_input


def test_whose_tests_these_are(record_property: Callable[[str, object], None]) -> None:
    """For the transcript of CI: the user, the directory, and all variables that he set."""
    umask = os.umask(0o077)
    os.umask(umask)
    variables = Path("/proc/self/environ").read_bytes().decode(errors="replace").split("\0")
    facts = [
        f"uid {os.getuid()}, umask {umask:03o}, in {Path.cwd()}",
        *sorted(filter(None, variables)),
    ]
    record_property("surroundings", "\n".join(facts))


def run_score(
    models: Path, directory: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run one `InferenceTask` by Luigi's command line, with nothing but this environment."""
    write_input(directory / "a.h5", rows=20)
    command = [
        str(Path(sys.executable).with_name("luigi")),
        "--module=workflows.validate",
        "Predict",
        f"--file={directory / 'a.h5'}",
        f"--predictions={directory / 'out' / 'a.h5'}",
        f"--model-repository={models}",
        "--model-name=double",
        '--input-map={"x": "x"}',
        "--local-scheduler",
    ]
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def ordinary_environment(triton_home: Path) -> dict[str, str]:
    """What a login shell sets, and where the tests have their files."""
    return {
        "HOME": os.environ.get("HOME", "/"),
        "PATH": os.environ["PATH"],
        "TMPDIR": os.environ["TMPDIR"],
        "HERMES_TRITON_HOME": str(triton_home),
    }


def test_in_an_empty_environment(models: Path, triton_home: Path, tmp_path: Path) -> None:
    done = run_score(models, tmp_path, ordinary_environment(triton_home))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "a.h5").exists()


def test_where_another_user_has_luigis_lock_directory(
    models: Path, triton_home: Path, tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    (temporary / "luigi").write_text("something that is no directory of this user's")
    environment = ordinary_environment(triton_home) | {"TMPDIR": str(temporary)}
    done = run_score(models, tmp_path, environment)
    assert done.returncode == 0, done.stderr


def test_with_awkward_characters_in_every_path(triton_home: Path, tmp_path: Path) -> None:
    here = tmp_path / 'it\'s a "test"; of $HOME'
    temporary = here / "a b"
    temporary.mkdir(parents=True)
    models = write_model(here / "my models", "double", DOUBLE, inputs={"x": ("FP32", [4])})
    environment = ordinary_environment(triton_home) | {"TMPDIR": str(temporary)}
    done = run_score(models, here, environment)
    assert done.returncode == 0, done.stderr
    assert (here / "out" / "a.h5").exists()
    assert list(temporary.iterdir()) == []
