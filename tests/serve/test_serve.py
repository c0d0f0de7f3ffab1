"""Servers of this machine, as `serve` gives them: real ones throughout."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import ipaddress
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from tritonclient.grpc import InferenceServerClient

from hermes._cleanup import end_leftovers
from hermes._directory import ServerDirectory, new_server_id, state_home
from hermes._processes import ProcessIdentity, is_stub, server_processes
from hermes.aeriel.client import InferenceClient
from hermes.aeriel.serve import Endpoint, Ports, TritonInstance, serve
from hermes.errors import (
    ParameterError,
    PortInUseError,
    ServerDiedError,
    ServerTimeoutError,
    TritonNotFoundError,
)
from hermes.runtime import find_triton
from tests.helpers import (
    DOES_NOT_LOAD,
    DOUBLE,
    LOADS_FOR_60_S,
    listening,
    python,
    remains,
    server_environment,
    server_pid,
    some_ports,
    wait_until,
    write_model,
    write_program,
)
from tests.serve.runtimes import doubled

pytestmark = pytest.mark.usefixtures("triton_home")


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A repository without models: its server is ready, and gone, within a second."""
    repository = tmp_path / "empty"
    repository.mkdir()
    return repository


@pytest.fixture(scope="module")
def loading(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a model that takes a minute to load."""
    return write_model(tmp_path_factory.mktemp("loading"), "slow", LOADS_FOR_60_S)


@pytest.fixture(scope="module")
def served(triton_home: Path, doubler: Path) -> Iterator[TritonInstance]:
    """A server with a model, whose repository has quotes, blanks and a newline in its path."""
    with serve(doubler, ports="auto", wait=True) as instance:
        yield instance


def listening_addresses(pid: int) -> set[str]:
    """Return the addresses on which a process listens."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            inodes.add(str(link.readlink()))
    found = set()
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add(address(fields[1].split(":")[0]))
    return found


def address(number: str) -> str:
    """Return an IP address that the kernel wrote as 32-bit numbers of this machine."""
    words = struct.iter_unpack(">I", bytes.fromhex(number))
    found = ipaddress.ip_address(b"".join(struct.pack("=I", *word) for word in words))
    return str(getattr(found, "ipv4_mapped", None) or found)


def refused(repository: str | Path, **options: Any) -> None:
    with serve(repository, **{"ports": "auto", **options}):
        pytest.fail("it started")


class TestServed:
    """One server, and what is true of it while it runs."""

    def test_it_listens_on_the_loopback_address_only(self, served: TritonInstance) -> None:
        assert listening_addresses(server_pid(served.server_id)) == {"127.0.0.1"}

    @pytest.mark.parametrize("service", ["grpc", "http", "metrics"])
    def test_its_ports_are_taken_for_another_one_at_once(
        self, service: str, served: TritonInstance, empty: Path
    ) -> None:
        taken = getattr(served.endpoint, service)
        ports = {**vars(some_ports()), service: int(taken.split(":")[1])}

        started = time.monotonic()
        with pytest.raises(PortInUseError) as caught:
            refused(empty, ports=Ports(**ports), wait=True)

        assert time.monotonic() - started < 1
        assert (caught.value.service, caught.value.address) == (service, taken)
        assert doubled(served) == [2, 4]

    def test_tritonclient_takes_its_endpoint(self, served: TritonInstance) -> None:
        with InferenceServerClient(served.endpoint) as client:
            assert client.is_model_ready("double")
        with pytest.raises(ParameterError, match=r"endpoint\.http, here '127\.0\.0\.1:"):
            served.endpoint.startswith("http://")  # what tritonclient.http asks

    def test_its_http_port_is_not_taken_for_its_grpc_port(self, served: TritonInstance) -> None:
        problem = "speaks HTTP/1: Triton's HTTP port, .*; give the GRPC port, by default 8001"
        began = time.monotonic()
        with pytest.raises(ParameterError, match=problem):
            InferenceClient(str(served.endpoint.http), "double")
        assert time.monotonic() - began < 20

    def test_others_run_beside_it(self, served: TritonInstance, empty: Path) -> None:
        def run(_: int) -> Endpoint:
            with serve(empty, ports="auto", wait=True, timeout_s=60) as other:
                return other.endpoint

        with ThreadPoolExecutor(2) as pool:
            endpoints = [served.endpoint, *pool.map(run, range(2))]

        assert len({address for e in endpoints for address in (e.grpc, e.http, e.metrics)}) == 9
        assert doubled(served) == [2, 4]


def test_proxy_that_the_environment_names_is_not_asked(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serve(empty, ports="auto", wait=True, timeout_s=20) as instance:
        assert instance.is_ready()


def test_server_may_be_started_in_one_cell_and_stopped_in_another(empty: Path) -> None:
    instance = serve(empty, ports="auto", listen="unix", gpus=[], wait=True).start()
    gc.collect()  # nothing but the instance is kept
    assert instance.is_ready()
    instance.stop()
    assert not instance.is_alive()
    assert remains(instance.server_id) == []
    instance.stop()


def test_server_without_a_block_says_how_it_is_started(empty: Path) -> None:
    with pytest.raises(AttributeError, match=r"has no 'endpoint': .*serve\(…\)\.start\(\)"):
        _ = serve(empty, wait=True).endpoint


def test_server_is_gone_after_an_exception_in_the_block(empty: Path) -> None:
    with pytest.raises(ZeroDivisionError), serve(empty, ports="auto", wait=True) as instance:
        _ = 1 / 0
    assert instance.exit_code == 0
    assert remains(instance.server_id) == []


def test_server_that_was_stopped_early_is_stopped_once(empty: Path) -> None:
    with serve(empty, ports="auto") as instance:
        instance.stop()
        assert not instance.is_alive()
        assert remains(instance.server_id) == []
        instance.stop()


def test_block_may_end_before_the_server_has_begun(empty: Path) -> None:
    with serve(empty, ports="auto") as instance:
        pass
    assert remains(instance.server_id) == []


def test_server_is_ready_only_when_its_models_are_and_gone_after_the_block(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gate = tmp_path / "gate"
    waits = f"""
    def initialize(self, args):
        while not __import__("os").path.exists({str(gate)!r}):
            time.sleep(0.02)
"""
    repository = write_model(tmp_path / "models", "double", waits + DOUBLE)
    with serve(repository, ports="auto") as instance:
        wait_until(lambda: "loading: double" in instance.log_file.read_text())
        assert instance.is_alive()
        assert not instance.is_ready()
        gate.touch()
        instance.wait(60)
        for address in (instance.endpoint.http, instance.endpoint.metrics):
            assert address is not None
            host, _, port = address.partition(":")
            socket.create_connection((host, int(port))).close()  # Triton opens them last
        assert instance.is_ready()
        process = ProcessIdentity.of(server_pid(instance.server_id))
        assert len(remains(instance.server_id)) > 2
    assert instance.exit_code == 0
    assert not process.is_alive()
    assert remains(instance.server_id) == []
    assert "ended" in repr(instance)
    assert capfd.readouterr() == ("", "")


def test_server_that_dies_while_it_is_waited_for_is_an_error_with_the_reason_at_once(
    tmp_path: Path,
) -> None:
    write_model(tmp_path, "broken", DOES_NOT_LOAD)

    started = time.monotonic()
    with pytest.raises(ServerDiedError) as caught:
        refused(tmp_path, wait=True)

    assert time.monotonic() - started < 30
    assert "failed to load 'broken'" in str(caught.value)
    assert "its weights are missing" in str(caught.value)
    assert caught.value.exit_code == 1
    [server_id] = re.findall("--id=(hermes-[0-9a-f]+)", str(caught.value))
    assert remains(server_id) == [caught.value.log_file]


def test_server_that_dies_later_is_told_by_whoever_asks(empty: Path) -> None:
    with serve(empty, ports="auto", wait=True) as instance:
        os.kill(server_pid(instance.server_id), signal.SIGKILL)
        wait_until(lambda: not instance.is_alive())
        assert instance.exit_code == -signal.SIGKILL
        with pytest.raises(ServerDiedError, match="exit code -9"):
            instance.wait()
    assert remains(instance.server_id) == [instance.log_file]


def test_deadline_is_kept_and_the_log_that_the_error_names_too(loading: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ServerTimeoutError) as caught:
        refused(loading, wait=True, timeout_s=2, stop_timeout_s=5)

    assert 2 <= time.monotonic() - started < 10
    assert "not ready after 2 s" in str(caught.value)
    assert "loading: slow" in str(caught.value)
    log_file = caught.value.log_file
    assert log_file is not None
    assert remains(log_file.stem) == [log_file]


def test_log_file_is_replaced_and_stays(empty: Path, tmp_path: Path) -> None:
    log_file = tmp_path / "new" / "directory" / "a log"
    for _ in range(2):
        with serve(empty, ports="auto", log_file=log_file, wait=True) as instance:
            assert instance.log_file == log_file
    assert log_file.read_text().count("Started GRPCInferenceService") == 1


def test_log_file_that_cannot_be_written_is_refused(empty: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for log_file in (tmp_path, tmp_path / "file" / "log"):
        with pytest.raises(ParameterError, match="log_file: cannot be written"):
            refused(empty, log_file=log_file)


@pytest.mark.parametrize(("gpus", "visible"), [([], ""), (None, "2,4"), (["GPU-1a"], "GPU-1a")])
def test_gpus_are_hidden_left_or_named(
    gpus: list[int | str] | None, visible: str, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,4")
    with serve(empty, gpus=gpus, ports="auto") as instance:
        environment = server_environment(instance.server_id)
    assert environment["CUDA_VISIBLE_DEVICES"] == visible


@pytest.mark.parametrize("gpus", [[-1], ["a"], [1.5], [True], [0, 0], "0,1"])
def test_what_is_no_gpu_is_refused(gpus: Any, empty: Path) -> None:
    with pytest.raises(ParameterError, match="gpus: "):
        refused(empty, gpus=gpus)


def test_server_listens_on_ipv6_where_it_is_told_to(empty: Path) -> None:
    with serve(empty, ports="auto", listen="::1", wait=True, timeout_s=30) as instance:
        assert listening_addresses(server_pid(instance.server_id)) == {"::1"}
        assert instance.endpoint.grpc.startswith("[::1]:")


def test_only_grpc_listens_beyond_the_loopback_address(empty: Path) -> None:
    with serve(empty, ports="auto", listen="0.0.0.0", wait=True, timeout_s=30) as instance:  # noqa: S104
        assert listening_addresses(server_pid(instance.server_id)) == {"::", "127.0.0.1"}


def test_repository_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=f"model_repository: {tmp_path}/models does not exist"):
        refused(tmp_path / "models")


def test_machine_without_triton_is_told_what_to_run(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_TRITON_HOME", str(tmp_path / "nothing"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TritonNotFoundError, match="hermes install-triton"):
        refused(empty)


def test_program_that_cannot_be_started_is_an_error(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton = tmp_path / "tritonserver"
    triton.write_text("#!/nowhere/at/all\n")
    triton.chmod(0o755)
    monkeypatch.setenv("HERMES_TRITON_BINARY", str(triton))
    with pytest.raises(TritonNotFoundError, match=f"{triton}. It cannot be started"):
        refused(empty)


def test_ports_of_another_kind_are_refused(empty: Path) -> None:
    with pytest.raises(ParameterError, match='ports: 8001 is neither "auto" nor'):
        refused(empty, ports=8001)


def test_ports_do_not_go_with_sockets(empty: Path) -> None:
    with pytest.raises(ParameterError, match='ports: do not apply with listen="unix"'):
        refused(empty, ports=Ports(), listen="unix")


def test_an_empty_image_does_not_stand_for_this_machine(empty: Path) -> None:
    with pytest.raises(ParameterError, match="image: is empty"):
        refused(empty, image="")


def test_an_empty_path_is_no_repository() -> None:
    with pytest.raises(ParameterError, match="model_repository: is empty"):
        refused("")


class Wrapper:
    """A program named tritonserver that does something before, or instead of, the real one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "tritonserver"

    def write(self, program: str) -> None:
        triton = find_triton()
        # As LocalInstance does it: Triton hands the path of its backends to a shell as it is.
        backends = self.directory / "backends"
        backends.symlink_to(triton.backend_directory or "/opt/tritonserver/backends")
        command = [str(triton.binary), f"--backend-directory={backends}"]
        write_program(
            self.path,
            "import os, signal, socket, subprocess, sys, time\n"
            "from pathlib import Path\n"
            f"here = Path({str(self.directory)!r})\n"
            f"command = [*{command!r}, *sys.argv[1:]]\n"
            f"environment = {{**os.environ, **{dict(triton.environment)!r}}}\n"
            "[port] = [int(a.split('=')[1]) for a in command if a.startswith('--grpc-port=')]\n"
            "def real():\n"
            "    os.execve(command[0], command, environment)\n"
            f"{program}\n",
        )


@pytest.fixture
def wrapper(tmp_path: Path) -> Wrapper:
    """A program that is to be written yet."""
    return Wrapper(tmp_path)


@pytest.fixture
def use(wrapper: Wrapper, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that writes the wrapper's program and has it used."""

    def write(program: str) -> None:
        wrapper.write(program)
        monkeypatch.setenv("HERMES_TRITON_BINARY", str(wrapper.path))

    return write


# It has the name of the real one, by which that is told to stop.
IGNORES_SIGNALS = """
loop = f"trap '' TERM INT; touch '{here}/ready'; while :; do sleep 0.1; done"
os.execv("/bin/bash", ["tritonserver", "-c", loop, *sys.argv[1:]])
"""

# The first one to start finds that somebody has taken its port since `serve` looked.
LOSES_THE_RACE_ONCE = """
first = not (here / "started").exists()
(here / "started").touch()
if first:
    winner = socket.create_server(("127.0.0.1", port))
    winner.set_inheritable(True)
real()
"""


def test_lost_race_for_free_ports_is_run_again(use: Any, empty: Path, tmp_path: Path) -> None:
    use(LOSES_THE_RACE_ONCE)
    with serve(empty, ports="auto") as instance:
        first = instance.endpoint
        instance.wait(60)
        assert instance.endpoint.grpc != first.grpc
        assert "already in use" in instance.log_file.read_text()
        client: Any
        with InferenceServerClient(instance.endpoint.grpc) as client:
            assert client.get_server_metadata().name == instance.server_id
    assert remains(instance.server_id) == []


def test_lost_race_for_given_ports_is_an_error(use: Any, empty: Path) -> None:
    use(LOSES_THE_RACE_ONCE)
    ports = some_ports()
    before = set(state_home().glob("*"))
    with pytest.raises(PortInUseError, match=f"127.0.0.1:{ports.grpc}"):
        refused(empty, ports=ports, wait=True)
    assert set(state_home().glob("*")) == before


def test_race_that_is_always_lost_ends(use: Any, empty: Path) -> None:
    use("sys.exit(f\"Socket '127.0.0.1:{port}' already in use\")")
    with pytest.raises(ServerDiedError, match="already in use"):
        refused(empty, wait=True)


def test_server_of_somebody_else_at_the_address_is_never_taken_for_this_one(
    use: Any, empty: Path, tmp_path: Path
) -> None:
    use(
        "command = [a if not a.startswith('--id=') else '--id=somebody-else' for a in command]\n"
        "other = subprocess.Popen(command, env=environment, start_new_session=True)\n"
        "(here / 'other').write_text(str(other.pid))\n"
        "time.sleep(600)\n"
    )
    client: Any
    try:
        with (
            serve(empty, ports="auto", stop_timeout_s=0.5) as instance,
            InferenceServerClient(instance.endpoint.grpc) as client,
        ):
            wait_until(lambda: answers(client))
            assert client.get_server_metadata().name == "somebody-else"
            with pytest.raises(ServerTimeoutError):
                instance.wait(1)
        assert ProcessIdentity.of(int((tmp_path / "other").read_text())).is_alive()
    finally:
        os.kill(int((tmp_path / "other").read_text()), signal.SIGKILL)


def answers(client: Any) -> bool:
    try:
        return bool(client.is_server_ready())
    except Exception:  # noqa: BLE001 (gRPC has many)
        return False


def test_server_that_ignores_the_signal_is_killed_after_the_grace_period(
    use: Any, empty: Path, tmp_path: Path
) -> None:
    use(IGNORES_SIGNALS)
    with serve(empty, ports="auto", stop_timeout_s=1.5) as instance:
        wait_until((tmp_path / "ready").exists)
        started = time.monotonic()
    assert 1.5 <= time.monotonic() - started < 6
    assert instance.exit_code == -signal.SIGKILL
    assert remains(instance.server_id) == [instance.log_file]


def test_what_was_left_meanwhile_goes_with_the_end_of_a_server(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_STATE_HOME", str(tmp_path / "home"))
    with serve(empty, listen="unix"):
        other = ServerDirectory(state_home() / new_server_id())
        me = ProcessIdentity.of(os.getpid())
        other.set_owner(dataclasses.replace(me, start_ticks=me.start_ticks - 1))
    assert not other.path.exists()


def test_script_around_triton_that_stays_is_stopped_with_it(use: Any, empty: Path) -> None:
    use("sys.exit(subprocess.run(command, env=environment).returncode)")
    with serve(empty, ports="auto", wait=True, timeout_s=60) as instance:
        assert len(server_processes(instance.server_id)) == 2
    assert server_processes(instance.server_id) == {}


OWNER = """
import sys
from hermes.aeriel.serve import serve
repository, stop_timeout_s, action = sys.argv[1], float(sys.argv[2]), sys.argv[3]
with serve(repository, ports="auto", stop_timeout_s=stop_timeout_s) as instance:
    print(instance.server_id, flush=True)
    instance.wait()
    print("ready", flush=True)
    if action == "wait":
        input()
"""


class Owner:
    """A process with a server, and all that is its or its server's."""

    def __init__(self, directory: Path) -> None:
        self.mark = f"HERMES_TEST={uuid.uuid4().hex}"
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        name, value = self.mark.split("=")
        self.environment = {
            **os.environ,
            "TMPDIR": str(self.temporary),
            "HERMES_STATE_HOME": str(self.temporary / "states"),
            name: value,
        }
        self.home = state_home(self.environment)

    def processes(self) -> list[int]:
        """Return what runs with the environment of this owner."""
        found = []
        for file in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it ended, or belongs to somebody else
                if self.mark.encode() in file.read_bytes():
                    found.append(int(file.parent.name))
        return found

    def servers(self) -> set[str]:
        """Return the ids of its servers."""
        return {directory.server_id for directory in ServerDirectory.all(self.home)}

    def remains(self, servers: set[str]) -> list[object]:
        return [
            *self.processes(),
            *self.temporary.iterdir(),
            *self.home.glob("*"),
            *(remain for server in servers for remain in remains(server)),
        ]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    made = Owner(tmp_path)
    yield made
    # What a test that failed has left, guards included; nothing otherwise.
    for pid in made.processes():
        os.kill(pid, signal.SIGKILL)
    for server in made.servers():
        end_leftovers(ServerDirectory(made.home / server))


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line of an owner's output."""
    assert process.stdout is not None
    text = process.stdout.readline()
    assert text, process.communicate()[1]
    return text.strip()


def wait_until_nothing_remains(owner: Owner, servers: set[str]) -> None:
    try:
        wait_until(lambda: not owner.remains(servers), 10)
    except AssertionError:
        pytest.fail(f"after 10 s there is {owner.remains(servers)}")


def test_nothing_remains_when_the_owner_is_killed(doubler: Path, owner: Owner) -> None:
    with python(OWNER, doubler, 30, "wait", environment=owner.environment) as process:
        server = line(process)
        assert line(process) == "ready"
        assert len(owner.processes()) >= 3  # itself, its guard, the server
        assert any(map(is_stub, server_processes(server).values()))
        assert list(Path("/dev/shm").glob(f"{server}*"))
        process.kill()
        process.wait()
        wait_until_nothing_remains(owner, {server})


@pytest.mark.parametrize("delay_s", [0.0, 0.3])
def test_nothing_remains_when_the_owner_is_killed_while_it_starts(
    delay_s: float, loading: Path, owner: Owner
) -> None:
    with python(OWNER, loading, 5, "wait", environment=owner.environment) as process:
        wait_until(owner.servers)
        time.sleep(delay_s)
        servers = owner.servers()
        process.kill()
        process.wait()
        wait_until_nothing_remains(owner, servers)


def test_nothing_remains_when_the_owner_dies_of_a_signal(loading: Path, owner: Owner) -> None:
    with python(OWNER, loading, 5, "wait", environment=owner.environment) as process:
        server = line(process)
        process.send_signal(signal.SIGTERM)
        process.wait()
        wait_until_nothing_remains(owner, {server})


WATCHING_OWNER = """
import sys, time
from hermes.aeriel.serve import serve
with serve(sys.argv[1], ports="auto", stop_timeout_s=5) as instance:
    print(instance.server_id, flush=True)
    instance.wait()
    while instance.is_alive():
        time.sleep(0.1)
"""


def test_a_guard_that_is_killed_is_replaced(doubler: Path, owner: Owner) -> None:
    with python(WATCHING_OWNER, doubler, environment=owner.environment) as process:
        server = line(process)
        [guard] = guards(owner)
        os.kill(guard, signal.SIGKILL)
        wait_until(lambda: guards(owner) not in ([], [guard]))
        process.kill()
        process.wait()
        wait_until_nothing_remains(owner, {server})


def test_a_guard_that_is_stopped_is_woken(doubler: Path, owner: Owner) -> None:
    with python(WATCHING_OWNER, doubler, environment=owner.environment) as process:
        server = line(process)
        [guard] = guards(owner)
        os.kill(guard, signal.SIGSTOP)
        time.sleep(0.5)
        wait_until(lambda: psutil.Process(guard).status() != psutil.STATUS_STOPPED)
        process.kill()
        process.wait()
        wait_until_nothing_remains(owner, {server})


def guards(owner: Owner) -> list[int]:
    found = []
    for pid in owner.processes():
        with contextlib.suppress(OSError):
            if "_watcher.py" in Path(f"/proc/{pid}/cmdline").read_text(errors="replace"):
                found.append(pid)
    return found


def test_waiting_obeys_ctrl_c_and_nothing_remains(loading: Path, owner: Owner) -> None:
    with python(OWNER, loading, 5, "wait", environment=owner.environment) as process:
        server = line(process)
        time.sleep(0.5)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert time.monotonic() - started < 8
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert owner.remains({server}) == []


def test_second_ctrl_c_while_stopping_leaves_the_rest_to_the_guard(
    use: Any, wrapper: Wrapper, empty: Path, tmp_path: Path, owner: Owner
) -> None:
    use(IGNORES_SIGNALS)
    environment = {**owner.environment, "HERMES_TRITON_BINARY": str(wrapper.path)}
    with python(OWNER, empty, 1, "wait", environment=environment) as process:
        server = line(process)
        wait_until((tmp_path / "ready").exists)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.wait(1)
        assert owner.remains({server}) != []
        wait_until_nothing_remains(owner, {server})


def test_ctrl_c_in_a_terminal_reaches_the_owner_only(empty: Path, owner: Owner) -> None:
    command = [sys.executable, "-c", OWNER, str(empty), "5", "wait"]
    with subprocess.Popen(
        command,
        env=owner.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        server = line(process)
        assert line(process) == "ready"
        assert os.getpgid(server_pid(server)) != process.pid
        process.communicate("\n")
    assert owner.remains({server}) == []


def test_taken_port_starts_nothing(empty: Path, owner: Owner) -> None:
    program = """
import sys
from hermes.aeriel.serve import Ports, serve
with serve(sys.argv[1], ports=Ports(grpc=int(sys.argv[2]))): pass
"""
    with listening() as port:
        with python(program, empty, port, environment=owner.environment) as process:
            _, errors = process.communicate()
        assert f"127.0.0.1:{port} is already in use" in errors
    assert owner.remains(set()) == []
