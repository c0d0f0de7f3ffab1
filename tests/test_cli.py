"""The command `hermes`, as a shell runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import hermes
from hermes._processes import server_processes
from hermes.aeriel.endpoint import Endpoint
from hermes.cli import app
from tests.helpers import (
    DOES_NOT_LOAD,
    listening,
    remains,
    server_environment,
    server_pid,
    some_ports,
    wait_until,
    write_model,
)

pytestmark = pytest.mark.usefixtures("triton_home")


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A repository without models, under a path that needs care."""
    repository = tmp_path / "an \"empty\" 'one'\n;$HOME"
    repository.mkdir()
    return repository


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run ``hermes``, and end it if it does not end itself."""
    command = [sys.executable, "-m", "hermes", *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def served(repository: Path, file: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run ``hermes serve``; yield the process and, from its endpoint file, the server's id."""
    with started("serve", repository, "--ports=auto", f"--endpoint-file={file}") as process:
        wait_until(file.exists, 20)
        server_id = Endpoint.read(file).server_id
        assert server_id is not None
        yield process, server_id


def failed(*arguments: object, code: int = 1) -> str:
    """Return what ``hermes`` says when it fails: one message, and no traceback."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code
    assert result.stdout == ""
    return result.stderr


def test_version_and_help_are_told() -> None:
    with started("--version") as process:
        assert process.communicate()[0] == f"{hermes.__version__}\n"
    assert "install-triton" in CliRunner().invoke(app, []).output


# Says where the standard streams of a command lead.
STREAMS = """
import os, sys
from hermes.__main__ import main
file, sys.argv = sys.argv[1], ["hermes", "--version"]
try:
    main()
finally:
    open(file, "w").write(" ".join(os.readlink(f"/proc/self/fd/{n}") for n in range(3)))
"""


def test_no_file_takes_the_place_of_a_standard_stream_that_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "streams"
    command = [sys.executable, "-c", STREAMS, str(file)]
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
    assert subprocess.run(closed, check=False).returncode == 0
    assert file.read_text() == " ".join([os.devnull] * 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_runs_until_the_signal_and_its_endpoint_file_as_long(
    number: signal.Signals, empty: Path, tmp_path: Path
) -> None:
    file = tmp_path / "endpoint.json"
    Endpoint(grpc="of-a-server-that-was-killed:1").write(file)
    options = ["--ports=auto", "--gpus=0,GPU-1a", f"--endpoint-file={file}"]
    with started("serve", empty, *options) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        wait_until(file.exists, 1)
        endpoint = Endpoint.read(file)
        assert line == f"ready: GRPC at {endpoint.grpc}, HTTP at {endpoint.http}\n"
        assert endpoint.server_id is not None
        environment = server_environment(endpoint.server_id)
        assert environment["CUDA_VISIBLE_DEVICES"] == "0,GPU-1a"
        process.send_signal(number)
        process.communicate(timeout=20)
    assert process.returncode == 0
    assert not file.exists()
    assert remains(endpoint.server_id) == []


def test_options_reach_the_server(empty: Path, tmp_path: Path) -> None:
    ports = some_ports()
    log = tmp_path / "a log"
    with started(
        "serve",
        empty,
        f"--ports={ports.grpc},{ports.http},{ports.metrics}",
        "--gpus=",
        "--server-arg=--log-verbose=1",
        "--server-arg=--allow-metrics=false",
        f"--log-file={log}",
    ) as process:
        assert process.stdout is not None
        assert f"GRPC at 127.0.0.1:{ports.grpc}" in process.stdout.readline()
        [server_id] = {
            word.removeprefix("--id=")
            for command in server_processes_of(process.pid).values()
            for word in command
            if word.startswith("--id=")
        }
        assert "--log-verbose=1" in server_processes(server_id)[server_pid(server_id)]
        assert server_environment(server_id)["CUDA_VISIBLE_DEVICES"] == ""
        assert "Started GRPCInferenceService" in log.read_text()
        process.terminate()
        process.wait(20)
    assert log.exists()


def server_processes_of(owner: int) -> dict[int, list[str]]:
    """Return the command lines of the children of a process."""
    children = Path(f"/proc/{owner}/task/{owner}/children").read_text().split()
    return {int(c): Path(f"/proc/{c}/cmdline").read_text().split("\0") for c in children}


def test_server_that_dies_is_a_failure_and_its_endpoint_file_goes(
    empty: Path, tmp_path: Path
) -> None:
    file = tmp_path / "endpoint.json"
    with served(empty, file) as (process, server_id):
        os.kill(server_pid(server_id), signal.SIGKILL)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "ended unexpectedly with exit code -9" in errors
    assert not file.exists()


def test_an_endpoint_file_goes_with_a_command_that_is_killed(empty: Path, tmp_path: Path) -> None:
    file = tmp_path / "endpoint.json"
    with served(empty, file) as (process, server_id):
        process.kill()
        wait_until(lambda: not file.exists())
        wait_until(lambda: remains(server_id) == [])


def test_an_endpoint_file_that_is_another_server_s_by_now_stays(
    empty: Path, tmp_path: Path
) -> None:
    file = tmp_path / "endpoint.json"
    with served(empty, file) as (process, server_id):
        Endpoint(grpc="localhost:1", server_id="another").write(file)
        process.kill()
        wait_until(lambda: remains(server_id) == [])
        assert file.exists()


def test_model_that_does_not_load_is_told_with_its_reason(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "broken", DOES_NOT_LOAD)
    file = tmp_path / "endpoint.json"
    told = failed("serve", tmp_path / "models", "--ports=auto", f"--endpoint-file={file}")
    assert "its weights are missing" in told
    assert not file.exists()


def test_taken_port_is_told_at_once(empty: Path) -> None:
    with listening() as port:
        ports = some_ports()
        told = failed("serve", empty, f"--ports={port},{ports.http},{ports.metrics}")
    assert f"127.0.0.1:{port} is already in use" in told


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--ports=8001", "ports: '8001' is neither auto nor like 8001,8000,8002"),
        ("--ports=8001,8000,70000", "ports: metrics: 70000 is not between 1 and 65535"),
        ("--gpus=0,x", "gpus: 'x' is neither an index"),
        ("--server-arg=--id=x", "server_args: --id is set by"),
        ("--listen=nowhere", "listen: 'nowhere' is neither an IP address nor unix"),
        ("--endpoint-file=/nowhere/at/all", "endpoint_file: /nowhere/at/all cannot be written"),
        ("--endpoint-file=/tmp", "endpoint_file: /tmp cannot be written"),
        ("--log-file=/proc/nothing/log", "log_file: cannot be written"),
    ],
)
def test_option_that_cannot_be_right_is_told_in_one_line(
    option: str, told: str, empty: Path
) -> None:
    ports = [] if option.startswith("--ports") else ["--ports=auto"]
    message = failed("serve", empty, *ports, option)
    assert message.startswith(f"hermes: {told}")
    assert message.count("\n") == 1


def test_repository_that_does_not_exist_is_told(tmp_path: Path) -> None:
    assert failed("serve", tmp_path / "models") == (
        f"hermes: model_repository: {tmp_path}/models does not exist\n"
    )


def test_machine_without_triton_is_told_what_to_run(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_TRITON_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    assert "hermes install-triton" in failed("serve", empty, "--ports=auto")


def test_installing_what_is_installed_is_done_at_once(triton_home: Path) -> None:
    with started("install-triton") as process:
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    [line] = output.splitlines()
    binary = Path(line.removeprefix("Triton is at "))
    assert binary.is_relative_to(triton_home.resolve())
    assert os.access(binary, os.X_OK)


@pytest.mark.parametrize(
    ("arguments", "home", "told"),
    [
        (["--with=--index-url=x"], "home", "packages: '--index-url=x' is not a requirement"),
        ([], "a:home", "home: "),
        ([], "file/home", "Triton was not installed: creating"),
    ],
)
def test_installation_that_cannot_be_is_told(
    arguments: list[str],
    home: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HERMES_TRITON_HOME", str(tmp_path / home))
    message = failed("install-triton", *arguments)
    assert message.startswith(f"hermes: {told}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("server", ["missing.json", "localhost", "http://localhost:8000"])
def test_a_server_that_is_neither_file_nor_address_is_told_at_once(server: str) -> None:
    told = failed("infer", server, "model", "x.h5", "--output-dir=out", code=35)
    assert f"'{server}' is neither a file nor an address (host:port" in told


@pytest.mark.parametrize("option", ["--batch-size=4", "--window=8", "--transport=grpc"])
def test_an_option_that_takes_one_value_is_not_repeated(option: str) -> None:
    arguments = ["infer", "localhost:1", "model", "x.h5", "y.h5", "--output-dir=out"]
    result = CliRunner().invoke(app, [*arguments, option, option])
    assert result.exit_code == 2
    assert option.partition("=")[0] in result.output
    assert "give it once" in result.output


@pytest.mark.parametrize("option", ["--ports=auto", "--listen=unix"])
def test_a_server_of_the_command_is_listed_and_stopped(
    empty: Path, tmp_path: Path, option: str
) -> None:
    environment = {**os.environ, "HERMES_STATE_HOME": str(tmp_path / "states")}
    command = [sys.executable, "-m", "hermes"]
    with subprocess.Popen(
        [*command, "serve", str(empty), option],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("ready: GRPC at ")

        def hermes(*arguments: str) -> str:
            return subprocess.check_output([*command, *arguments], env=environment, text=True)

        [listed] = json.loads(hermes("ps", "--json"))
        assert (listed["phase"], listed["model_repository"]) == ("ready", str(empty))
        assert hermes("stop", "--all") == f"stopped {listed['id']}\n"
        assert server.wait(30) == 0
        assert json.loads(hermes("ps", "--json")) == []
        assert hermes("stop", "--all") == "no server of yours runs on this host\n"


def test_the_help_of_each_command_ends_with_an_example_of_it() -> None:
    commands = vars(typer.main.get_command(app))["commands"]
    assert {"serve", "infer", "merge", "validate", "ps"} <= commands.keys()
    for name, command in commands.items():
        assert (command.epilog or "").startswith(f"Example: hermes {name} "[:-1]), name
