"""`hermes with`: a command, and a server that it shares with others."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes._directory import ServerDirectory, state_home
from hermes._state_files import entries
from tests.helpers import DOUBLE, remains, wait_until, write_model

HERMES = (sys.executable, "-m", "hermes")
With = Callable[..., "subprocess.Popen[str]"]
# Longer than the next command takes to start on any machine.
LONG_S = 600.0


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return write_model(tmp_path / "models", "double", DOUBLE)


@pytest.fixture
def with_server(
    models: Path, triton_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[With]:
    """Start `hermes with`; nothing of it may be left in the end."""
    monkeypatch.setenv("HERMES_STATE_HOME", str(tmp_path / "state"))
    home = state_home()
    started: list[subprocess.Popen[str]] = []

    def start(*command: str, linger_s: float = 0.0) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*HERMES, "with", str(models), f"--linger-s={linger_s}", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()
    wait_until(lambda: entries(home) == [], 20)


def output(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=90)
    return said


def stop_all() -> None:
    """Stop the servers of the test, which has a state home of its own."""
    subprocess.run([*HERMES, "stop", "--all"], stdout=subprocess.DEVNULL, check=True)


def server_of(said: str) -> str:
    return str(json.loads(said)["server_id"])


def test_a_command_finds_its_server_and_its_exit_code_is_the_result(with_server: With) -> None:
    process = with_server("sh", "-c", 'cat "$HERMES_ENDPOINT"; exit 7')
    server_id = server_of(output(process))
    assert process.returncode == 7
    wait_until(lambda: remains(server_id) == [], 20)


def test_commands_share_a_server_at_once(with_server: With, tmp_path: Path) -> None:
    # Each stays until all of them have the server.
    show = """cat "$HERMES_ENDPOINT"; touch "began-$0"; until [ -e go ]; do sleep 0.05; done"""
    together = [with_server("sh", "-c", show, str(number)) for number in range(3)]
    wait_until(lambda: len([*tmp_path.glob("began-*")]) == len(together), 120)
    (tmp_path / "go").touch()
    assert len({server_of(output(process)) for process in together}) == 1


def test_a_command_finds_the_server_of_one_before_it(with_server: With) -> None:
    show = ("sh", "-c", 'cat "$HERMES_ENDPOINT"')
    server_id = server_of(output(with_server(*show, linger_s=LONG_S)))
    assert server_of(output(with_server(*show))) == server_id
    stop_all()


def test_a_server_stops_when_it_has_lingered(with_server: With) -> None:
    server_id = server_of(output(with_server("sh", "-c", 'cat "$HERMES_ENDPOINT"', linger_s=2.0)))
    wait_until(lambda: remains(server_id) == [], 40)


@pytest.mark.parametrize(
    ("runner", "code"),
    [
        (("xargs", "-P", "4", "-I", "@"), 123),  # as xargs says that a command has failed
        (("parallel", "--will-cite", "-q", "-j", "4", "-I", "@"), 1),  # how many have
    ],
    ids=["xargs", "GNU parallel"],
)
def test_many_commands_at_once_have_one_server_and_their_exit_codes(
    with_server: With, models: Path, tmp_path: Path, runner: tuple[str, ...], code: int
) -> None:
    if shutil.which(runner[0]) is None:
        pytest.skip(f"there is no {runner[0]}")
    script = 'grep server_id "$HERMES_ENDPOINT"; exit $((@ == 3))'
    done = subprocess.run(
        [*runner, *HERMES, "with", str(models), f"--linger-s={LONG_S}", "--", "sh", "-c", script],
        input="".join(f"{number}\n" for number in range(6)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stderr
    lines = done.stdout.splitlines()
    assert (len(lines), len(set(lines))) == (6, 1)
    stop_all()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_it_ends_the_command_and_the_server(
    with_server: With, tmp_path: Path, number: signal.Signals
) -> None:
    process = with_server("sh", "-c", 'cat "$HERMES_ENDPOINT" > e; mv e told; exec sleep 600')
    wait_until((tmp_path / "told").exists, 60)
    server_id = server_of((tmp_path / "told").read_text())
    process.send_signal(number)
    output(process)  # ends when the command has closed it too
    expected = -number if number == signal.SIGKILL else 128 + number
    assert process.returncode == expected
    wait_until(lambda: remains(server_id) == [], 20)


def test_a_server_that_was_killed_is_started_again_for_the_command(
    with_server: With, tmp_path: Path
) -> None:
    program = """
import os, sys, time
from pathlib import Path
import numpy as np
from hermes.aeriel.client import Endpoint, InferenceClient
endpoint = Endpoint.read(Path(os.environ["HERMES_ENDPOINT"]))
with InferenceClient(endpoint, "double") as client:
    for number in range(2):
        print(client.infer({"x": np.ones((1, 1), np.float32)}).result()["y"].item(), flush=True)
        Path("go").touch()
        while not Path("killed").exists():
            time.sleep(0.05)
"""
    process = with_server(sys.executable, "-c", program)
    wait_until((tmp_path / "go").exists, 60)
    [directory] = ServerDirectory.all(state_home())
    servers = [left for left in remains(directory.server_id) if isinstance(left, int)]
    for pid in servers:
        os.kill(pid, signal.SIGKILL)
    (tmp_path / "killed").touch()
    said = output(process)
    assert process.returncode == 0, said
    assert said.split() == ["2.0", "2.0"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("models", "--", "no-such-program"), "'no-such-program' is not on the PATH"),
        (("nowhere", "--", "true"), "nowhere does not exist"),
    ],
)
def test_what_cannot_be_is_told(
    models: Path, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    done = subprocess.run(
        [*HERMES, "with", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert told in done.stderr


def test_infer_serves_by_itself_unless_all_is_complete(
    models: Path, triton_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_STATE_HOME", str(tmp_path / "state"))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.arange(5, dtype=np.float32).reshape(5, 1)

    def infer(*more: str) -> subprocess.CompletedProcess[str]:
        command = [*HERMES, "infer", f"--models={models}", "double", "a.h5", "--output-dir=out"]
        return subprocess.run(
            [*command, "--linger-s=0", *more],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    for problem in ("--batch-size=9", "--input-map=x=z"):
        assert infer(problem).returncode == 35
    assert entries(state_home()) == []  # no server was started for that
    done = infer()
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "out" / "a.h5") as file:
        assert file["y"][:, 0].tolist() == [0, 2, 4, 6, 8]
        assert file.attrs["model_repository"] == str(models)
    wait_until(lambda: entries(state_home()) == [], 40)
    done = infer()
    assert (done.returncode, done.stdout) == (0, "1 of 1 files are complete already\n")
    assert entries(state_home()) == []
    shutil.rmtree(models)
    write_model(models, "double", DOUBLE + "# a change")
    assert infer().stdout.startswith("1 file, 5 rows")
    wait_until(lambda: entries(state_home()) == [], 40)
