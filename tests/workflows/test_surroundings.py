"""A pipeline runs in the shells and on the hosts that people have."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
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


def start_score(
    models: Path, directory: Path, environment: dict[str, str]
) -> subprocess.Popen[str]:
    """Start one `InferenceTask` by Luigi's command line, with nothing but this environment."""
    command = [
        str(Path(sys.executable).with_name("luigi")),
        "--module=workflows.validate",
        "Predict",
        "--file=a.h5",
        "--predictions=out/a.h5",
        f"--model-repository={models}",
        "--model-name=double",
        '--input-map={"x": "x"}',
        "--local-scheduler",
    ]
    return subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_score(models: Path, directory: Path, environment: dict[str, str]) -> None:
    """Run it over a new file; it has to end well."""
    write_input(directory / "a.h5", rows=20)
    with start_score(models, directory, environment) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert (directory / "out" / "a.h5").exists()


def ordinary_environment(triton_home: Path) -> dict[str, str]:
    """What a login shell sets, and where the tests have their files."""
    return {
        "HOME": os.environ.get("HOME", "/"),
        "PATH": os.environ["PATH"],
        "TMPDIR": os.environ["TMPDIR"],
        "HERMES_TRITON_HOME": str(triton_home),
    }


def test_in_an_empty_environment(models: Path, triton_home: Path, tmp_path: Path) -> None:
    run_score(models, tmp_path, ordinary_environment(triton_home))


def test_in_a_home_that_cannot_be_written(models: Path, triton_home: Path, tmp_path: Path) -> None:
    run_score(models, tmp_path, ordinary_environment(triton_home) | {"HOME": "/proc"})


def test_the_same_command_at_the_same_time_in_two_directories(
    models: Path, triton_home: Path, tmp_path: Path
) -> None:
    environment = ordinary_environment(triton_home)
    directories = [tmp_path / name for name in ("one", "two")]
    for directory in directories:
        directory.mkdir()
        write_input(directory / "a.h5", rows=20)
    with ExitStack() as stack:
        started = [
            stack.enter_context(start_score(models, directory, environment))
            for directory in directories
        ]
        said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert all((directory / "out" / "a.h5").exists() for directory in directories)


def test_the_same_command_at_the_same_time_in_one_directory(
    models: Path, triton_home: Path, tmp_path: Path
) -> None:
    """One of them at least ends well; another one has a result too, or says why it has none."""
    environment = ordinary_environment(triton_home)
    write_input(tmp_path / "a.h5", rows=20)
    with ExitStack() as stack:
        started = [
            stack.enter_context(start_score(models, tmp_path, environment)) for _ in range(2)
        ]
        said = {process: process.communicate(timeout=120)[1] for process in started}
    failed = [process for process in started if process.returncode != 0]
    assert len(failed) < len(started), said
    assert all("a.h5: another process is writing it" in said[process] for process in failed)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.h5"]


def test_where_another_user_has_luigis_lock_directory(
    models: Path, triton_home: Path, tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    (temporary / "luigi").write_text("something that is no directory of this user's")
    environment = ordinary_environment(triton_home) | {"TMPDIR": str(temporary)}
    run_score(models, tmp_path, environment)


def test_with_awkward_characters_in_every_path(triton_home: Path, tmp_path: Path) -> None:
    here = tmp_path / 'it\'s a "test"; of $HOME'
    temporary = here / "a b"
    temporary.mkdir(parents=True)
    models = write_model(here / "my models", "double", DOUBLE, inputs={"x": ("FP32", [4])})
    environment = ordinary_environment(triton_home) | {"TMPDIR": str(temporary)}
    run_score(models, here, environment)
    assert list(temporary.iterdir()) == []
