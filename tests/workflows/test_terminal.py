"""What a person sees of a validation in a terminal, and without one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from hermes.aeriel.supervise import ServerState
from tests.helpers import wait_until
from tests.terminal import Terminal
from tests.workflows.conftest import CONFIG, MODEL, Luigi, assert_gone, write_model

SLOW = MODEL.replace(
    "    def execute(self, requests):\n",
    "    def execute(self, requests):\n        import time; time.sleep(0.15 * len(requests))\n",
)
InTerminal = Callable[..., Terminal]


@pytest.fixture
def in_terminal(tmp_path: Path, state_home: Path) -> Iterator[InTerminal]:
    """Run Luigi's command line in a terminal; nothing may be left behind."""
    opened: list[Terminal] = []

    def run(*arguments: str, **variables: str) -> Terminal:
        command = [sys.executable, "-m", "luigi", "--module", "workflows.validate", "Validate"]
        terminal = Terminal(
            [*command, *arguments], tmp_path, HERMES_STATE_HOME=str(state_home), **variables
        )
        opened.append(terminal)
        return terminal

    yield run
    for terminal in opened:
        terminal.close()
    assert_gone(state_home, within_s=30)


@pytest.fixture
def given(models: Path, data: Path) -> list[str]:
    return [
        f"--model-repository={models}",
        "--model-name=double",
        "--inputs=data/*.h5",
        "--input-map",
        '{"x": "x"}',
        "--target=expected",
        "--output-name=double",
        "--output-dir=results",
        "--local-scheduler",
    ]


@pytest.fixture
def slow(given: list[str], tmp_path: Path) -> list[str]:
    """The same with a model that takes 0.15 s for a request of one row."""
    write_model(tmp_path / "slow", "double", CONFIG, SLOW)
    return [*given, f"--model-repository={tmp_path / 'slow'}", "--batch-size=1"][1:]


@pytest.mark.parametrize("workers", ["1", "3"])
def test_one_display_shows_a_run_that_ends_in_five_lines(
    in_terminal: InTerminal, given: list[str], tmp_path: Path, workers: str
) -> None:
    terminal = in_terminal(*given, "--workers", workers, "--require=mse <= 0.1")
    assert terminal.end() == [
        "verdict       passed: mse 0, rmse 0, mae 0, bias 0, r2 1, max_absolute_error 0",
        "requirements  mse <= 0.1: is 0, passes by 0.1",
        "report        results/report.html",
        "predictions   results/merged.h5, by file in results/predictions",
        "log           results/logs/luigi.log",
    ]
    assert terminal.process.returncode == 0
    assert "0 of 3 files · 0 of 84 rows" in terminal.text
    assert "server is " in terminal.text
    assert "INFO" not in terminal.text
    assert "Execution Summary" in (tmp_path / "results/logs/luigi.log").read_text()


def test_a_run_with_nothing_to_do_ends_in_the_same_lines(
    in_terminal: InTerminal, given: list[str]
) -> None:
    first = in_terminal(*given).end()
    assert first[0].startswith("verdict       no requirements: mse 0, ")
    assert in_terminal(*given).end() == first


def test_a_requirement_that_is_missed_is_the_verdict(
    in_terminal: InTerminal, given: list[str]
) -> None:
    terminal = in_terminal(*given, "--require=r2 >= 2")
    verdict, requirements, *_ = terminal.end()
    assert verdict.startswith("verdict       failed: mse 0, ")
    assert requirements == "requirements  r2 >= 2: is 1, misses by 1"
    assert terminal.process.returncode == 30


def test_an_error_ends_the_output_once(
    in_terminal: InTerminal, given: list[str], data: Path
) -> None:
    (data / "part-7.h5").write_text("not HDF5 at all")
    terminal = in_terminal(*given)
    assert terminal.end() == [f"hermes: {data}/part-7.h5: is not an HDF5 file"]
    assert "Traceback" not in terminal.text


@pytest.mark.parametrize("workers", ["1", "3"])
def test_ctrl_c_says_how_to_go_on_and_the_next_run_does(
    in_terminal: InTerminal, slow: list[str], tmp_path: Path, workers: str
) -> None:
    terminal = in_terminal(*slow, "--workers", workers)
    terminal.wait_for(" of 50")
    terminal.interrupt()
    said = " ".join(terminal.end())
    assert said.startswith("hermes: interrupted: ")
    assert said.endswith("The same command goes on where this one stopped.")
    assert "Traceback" not in terminal.text
    assert terminal.process.returncode == -signal.SIGINT
    assert in_terminal(*slow, "--workers", workers).end()[0].startswith("verdict ")


def test_ctrl_c_says_so_without_a_terminal_too(
    slow: list[str], tmp_path: Path, state_home: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "luigi", "--module", "workflows.validate", "Validate", *slow],
        cwd=tmp_path,
        env={**os.environ, "HERMES_STATE_HOME": str(state_home)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        while "running   Predict" not in process.stderr.readline():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert said.count("hermes: interrupted; the server stops too. The same command goes on") == 1
    assert "Traceback" not in said
    assert_gone(state_home, within_s=30)


def workers_of(terminal: Terminal) -> list[psutil.Process]:
    """Return the processes that were forked from a command, which have its command line."""
    driver = psutil.Process(terminal.process.pid)
    found = []
    for child in driver.children():
        with suppress(psutil.Error):  # it has just ended
            if child.cmdline() == driver.cmdline():
                found.append(child)
    return found


def test_a_server_that_crashed_and_a_worker_that_was_killed_are_shown(
    in_terminal: InTerminal, slow: list[str], state_home: Path
) -> None:
    terminal = in_terminal(*slow, "--workers", "2")
    terminal.wait_for("server is ready")
    (state,) = ServerState.all(state_home)
    servers = [
        process
        for process in psutil.process_iter(["cmdline"])
        if f"--id={state.server_id}" in (process.info["cmdline"] or ())
    ]
    for process in servers:
        process.kill()
    terminal.wait_for("server has ended, and is started again")
    terminal.wait_for("server is ready (started again once)")
    wait_until(lambda: workers_of(terminal) != [], 30)
    worker = workers_of(terminal)[0]
    worker.kill()
    terminal.wait_for("1 failed")
    (last,) = terminal.end()
    assert re.fullmatch(r"hermes: Predict_\w+ died unexpectedly with exit code -9.*", last)


def test_a_log_level_brings_the_log_back(in_terminal: InTerminal, given: list[str]) -> None:
    terminal = in_terminal(*given, "--log-level=INFO")
    assert terminal.end()[-1] == "log           results/logs/triton.log"
    assert "INFO: Done scheduling tasks" in terminal.text
    assert "rows/s" not in terminal.text


def test_a_pipe_gets_the_log_and_the_metrics_at_its_end(luigi: Luigi, given: list[str]) -> None:
    said = luigi("--module", "workflows.validate", "Validate", *given[:-1]).stdout
    assert "INFO: Done scheduling tasks" in said
    assert "\nverdict       no requirements: mse 0, rmse 0, " in said
    assert said.splitlines()[-1] == "log           results/logs/triton.log"


def test_a_scheduler_that_is_not_there_is_told_at_once(
    given: list[str], tmp_path: Path, state_home: Path
) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "luigi", "--module", "workflows.validate", "Validate"),
            *given[:-1],
            "--scheduler-port=1",
        ],
        cwd=tmp_path,
        env={**os.environ, "HERMES_STATE_HOME": str(state_home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert time.monotonic() - began < 25  # Luigi alone asks for a minute
    assert done.returncode == 35
    assert done.stderr == (
        "hermes: no Luigi scheduler (luigid) answers at http://localhost:1; "
        "add --local-scheduler, or start luigid\n"
    )
