"""A supervised server: how it is brought back, and how it ends, whoever is killed."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

from hermes._cleanup import sweep
from hermes._directory import new_server_id, state_home
from hermes._processes import (
    SHARED_MEMORY,
    ProcessIdentity,
    is_stub,
    is_tritonserver,
    server_processes,
)
from hermes._ps import short_id
from hermes._shared_memory import regions_of_the_dead
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.serve._health import MOST_ERRORS, MOST_MISSES, Finding, Health
from hermes.aeriel.serve._watchdog import is_worth_a_restart, restart_pause_s
from hermes.aeriel.supervise import Lease, ServerSpec, ServerState, Wishes, ensure_server
from hermes.errors import ServerDiedError, ServerHangsError, SupervisorError
from tests.helpers import DOUBLE, python, write_model

CLEAN_S = 10.0
ME = ProcessIdentity.of(os.getpid())

BROKEN = "import triton_python_backend_utils\nraise RuntimeError('weights are missing')\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state home of this test's own, in which nothing may be left."""
    monkeypatch.setenv("HERMES_STATE_HOME", str(tmp_path / "states"))
    home = state_home()
    yield home
    for state in ServerState.all(home):
        state.release_all(ME)
        until(lambda state=state: state.owner() is None)  # type: ignore[misc]
        state.tidy()
    assert not ServerState.all(home)


@pytest.fixture
def spec(home: Path, doubler: Path) -> ServerSpec:
    return ServerSpec(model_repository=str(doubler))


@pytest.fixture
def state(spec: ServerSpec) -> ServerState:
    """The directory of a server that this process, as the driver, needs."""
    state = ServerState.of(spec)
    state.acquire(ME, Lease(consumer="Consumer"))
    return state


@pytest.fixture
def endpoint(spec: ServerSpec) -> Endpoint:
    return bring_up(spec)


def bring_up(spec: ServerSpec) -> Endpoint:
    ServerState.of(spec).acquire(ME, Lease(consumer="Consumer"))
    return ensure_server(spec, driver=ME, timeout_s=90)


def until(happened: Callable[[], object], within_s: float = CLEAN_S) -> None:
    deadline = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def server_pid(endpoint: Endpoint) -> int:
    return next(p for p, c in server_processes(id_of(endpoint)).items() if is_tritonserver(c))


def stub_pid(endpoint: Endpoint) -> int:
    return next(p for p, c in server_processes(id_of(endpoint)).items() if not is_tritonserver(c))


def guard_pid(endpoint: Endpoint) -> int | None:
    for entry in Path("/proc").iterdir():
        command = _command_line(entry) if entry.name.isdigit() else ""
        if "_watcher.py" in command and id_of(endpoint) in command:
            return int(entry.name)
    return None


def region_of_a_killed_client() -> Path:
    """Return the file of a client that was killed before its server had mapped it."""
    program = """
import time
from hermes.aeriel.client._memory import Region

class Registry:
    def register(self, name, size):
        print(name, flush=True)
        time.sleep(60)

Region(4096, Registry())
"""
    with python(program) as client:
        assert client.stdout is not None
        region = SHARED_MEMORY / client.stdout.readline().strip()
        client.kill()
        client.wait()
    assert region.is_file()
    return region


def has(file: Path, text: str) -> bool:
    """Tell whether a file is there, and has a text in it."""
    return file.exists() and text in file.read_text()


def id_of(endpoint: Endpoint) -> str:
    assert endpoint.server_id is not None
    return endpoint.server_id


def nothing_is_left(endpoint: Endpoint) -> bool:
    server_id = id_of(endpoint)
    processes = [
        entry
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and server_id in _command_line(entry)
    ]
    regions = list(SHARED_MEMORY.glob(f"{server_id}-*"))
    return not processes and not regions and not (state_home() / f"{server_id}.log").exists()


def _command_line(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def doubled(endpoint: Endpoint) -> list[float]:
    given = InferInput("x", [1, 2], "FP32")
    given.set_data_from_numpy(np.array([[1, 2]], np.float32))
    with InferenceServerClient(endpoint.grpc) as client:
        answer = client.infer("double", [given], client_timeout=10)
    return [float(value) for value in answer.as_numpy("y").ravel()]


class RestartTests:
    """What holds for a server on this machine and for one in a container."""

    @pytest.mark.parametrize(
        ("victim", "number"),
        [
            (server_pid, signal.SIGKILL),
            (server_pid, signal.SIGTERM),
            (server_pid, signal.SIGSTOP),
            (stub_pid, signal.SIGKILL),
            (stub_pid, signal.SIGSTOP),
        ],
    )
    def test_a_server_that_crashed_or_froze_comes_back_at_the_same_address(
        self,
        state: ServerState,
        spec: ServerSpec,
        victim: Callable[[Endpoint], int],
        number: int,
    ) -> None:
        endpoint = bring_up(spec)
        assert doubled(endpoint) == [2, 4]
        first = server_pid(endpoint)
        os.kill(victim(endpoint), number)
        until(lambda: state.endpoint() is None, 30)
        again = bring_up(spec)
        assert again == endpoint
        assert server_pid(again) != first
        assert doubled(again) == [2, 4]
        state.release_all(ME)
        until(lambda: nothing_is_left(endpoint))


@pytest.mark.container
class TestRestartInContainer(RestartTests):
    @pytest.fixture
    def spec(self, spec: ServerSpec, triton_image: Path) -> ServerSpec:
        return replace(spec, image=str(triton_image))


class TestRestart(RestartTests):
    @pytest.mark.parametrize("when", ["auto_complete_config(config)", "initialize(self, args)"])
    @pytest.mark.usefixtures("home")
    def test_a_model_that_is_killed_while_it_loads_is_loaded_again(
        self, tmp_path: Path, when: str
    ) -> None:
        # It takes long the first time, and is killed then.
        slow = f"""
    {"@staticmethod" if "config" in when else ""}
    def {when}:
        import pathlib
        mark = pathlib.Path({str(tmp_path / "tried")!r})
        if not mark.exists():
            mark.touch()
            time.sleep(60)
        {"return config" if "config" in when else ""}
"""
        repository = write_model(tmp_path / "models", "double", DOUBLE + slow)
        spec = ServerSpec(model_repository=str(repository))
        state = ServerState.of(spec)
        with ThreadPoolExecutor(1) as pool:
            endpoint = pool.submit(bring_up, spec)
            until((tmp_path / "tried").exists, 60)
            processes = server_processes(state.server_id).items()
            [stub] = [pid for pid, command in processes if is_stub(command)]
            os.kill(stub, signal.SIGKILL)
            assert endpoint.result(90).server_id == state.server_id
        assert "(1 of 2)" in state.supervisor_log.read_text()

    def test_a_server_that_is_killed_time_and_again_is_given_up(
        self, state: ServerState, endpoint: Endpoint
    ) -> None:
        deadline = time.monotonic() + 120
        while state.owner() is not None:
            assert time.monotonic() < deadline
            for pid, command in server_processes(id_of(endpoint)).items():
                if is_tritonserver(command):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)
        assert "(5 of 5)" in state.supervisor_log.read_text()
        assert "ended unexpectedly with exit code -9" in state.failure()
        state.log_file.unlink()  # kept, because the error names it
        until(lambda: nothing_is_left(endpoint))

    def test_a_server_whose_port_was_taken_meanwhile_moves(self, spec: ServerSpec) -> None:
        spec = replace(spec, listen="127.0.0.1")
        endpoint = bring_up(spec)
        host, _, port = endpoint.grpc.rpartition(":")
        os.kill(server_pid(endpoint), signal.SIGKILL)
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            until(lambda: _bound(taken, host, int(port)))
            taken.listen()
            until(lambda: ServerState.of(spec).endpoint() is None)
            again = bring_up(spec)
        assert again.grpc != endpoint.grpc
        assert doubled(again) == [2, 4]

    @pytest.mark.usefixtures("home")
    def test_a_long_load_is_no_freeze(self, doubler: Path, tmp_path: Path) -> None:
        repository = tmp_path / "slow"
        model = repository / "double" / "1" / "model.py"
        model.parent.mkdir(parents=True)
        original = next(doubler.glob("double/1/model.py"))
        model.write_text(f"import time; time.sleep(8)\n{original.read_text()}")
        config = model.parents[1] / "config.pbtxt"
        config.write_text((original.parents[1] / "config.pbtxt").read_text())
        spec = ServerSpec(model_repository=str(repository))
        assert doubled(bring_up(spec)) == [2, 4]
        assert "restart" not in ServerState.of(spec).supervisor_log.read_text()


class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_the_server_goes_with_its_supervisor_and_a_new_one_can_be_had(
        self, state: ServerState, spec: ServerSpec, endpoint: Endpoint, number: int
    ) -> None:
        supervisor = state.owner()
        assert supervisor is not None
        os.kill(supervisor.pid, number)
        until(lambda: not supervisor.is_alive())
        assert state.endpoint() is None
        again = bring_up(spec)
        assert again != endpoint  # so that a client can tell
        assert doubled(again) == [2, 4]

    def test_the_state_goes_with_a_supervisor_that_is_killed_while_it_stops(
        self, state: ServerState, endpoint: Endpoint
    ) -> None:
        supervisor = state.owner()
        assert supervisor is not None
        state.release_all(ME)
        until(lambda: state.endpoint() is None)
        os.kill(supervisor.pid, signal.SIGKILL)
        until(lambda: nothing_is_left(endpoint) and not state.path.exists())

    def test_nothing_is_left_when_the_guard_is_killed_and_then_the_supervisor(
        self, state: ServerState, endpoint: Endpoint
    ) -> None:
        guard = guard_pid(endpoint)
        assert guard is not None
        os.kill(guard, signal.SIGKILL)
        until(lambda: guard_pid(endpoint) not in (None, guard))
        supervisor = state.owner()
        assert supervisor is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        until(lambda: nothing_is_left(endpoint))

    @pytest.mark.parametrize("victim", [server_pid, stub_pid])
    def test_a_frozen_server_ends_in_time_too(
        self, state: ServerState, endpoint: Endpoint, victim: Callable[[Endpoint], int]
    ) -> None:
        os.kill(victim(endpoint), signal.SIGSTOP)
        state.release_all(ME)
        until(lambda: nothing_is_left(endpoint))

    def test_a_server_goes_with_the_last_driver(self, state: ServerState, spec: ServerSpec) -> None:
        drivers = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)]
        drivers.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        for driver in drivers:
            state.acquire(ProcessIdentity.of(driver.pid), Lease(consumer="Consumer"))
        state.release_all(ME)
        endpoint = ensure_server(spec, driver=ME, timeout_s=90)
        for driver in drivers:
            assert doubled(endpoint) == [2, 4]
            driver.kill()
            driver.communicate()
            time.sleep(1)
        until(lambda: nothing_is_left(endpoint))

    def test_a_frozen_supervisor_is_woken(self, state: ServerState, endpoint: Endpoint) -> None:
        supervisor = state.owner()
        assert supervisor is not None
        os.kill(supervisor.pid, signal.SIGSTOP)
        state.release_all(ME)
        time.sleep(1)
        assert supervisor.is_alive()
        state.wake()
        until(lambda: nothing_is_left(endpoint))

    def test_leftovers_of_the_dead_are_swept_by_the_next_server(
        self, state: ServerState, spec: ServerSpec
    ) -> None:
        dead = ServerState(state.path.parent / "hermes-0123456789abcd")
        killed = ProcessIdentity(ME.pid, ME.start_ticks - 1, ME.host)
        dead.acquire(killed, Lease(consumer="Consumer"))
        dead.set_owner(killed)
        foreign = state.path.parent / "somebody's thesis"
        foreign.mkdir()
        (foreign / "lock").touch()
        (foreign / "chapter 1").touch()
        bring_up(spec)
        assert not dead.path.exists()
        assert (foreign / "chapter 1").exists()

    def test_a_server_keeps_nobody_waiting_while_it_looks_at_another(
        self, state: ServerState, spec: ServerSpec
    ) -> None:
        def take() -> None:
            with state.exclusive():
                taken.set()

        taken = threading.Event()
        other = ServerState(state.path.parent / "hermes-0123456789abcd")
        starting = threading.Thread(target=bring_up, args=[spec])
        with other.exclusive():  # one that starts at the same time, and may look at this one
            starting.start()
            time.sleep(0.5)
            threading.Thread(target=take).start()
            assert taken.wait(5)
        starting.join()
        other.tidy()

    @pytest.mark.parametrize("when", ["before", "while"])
    def test_regions_of_clients_that_were_killed_go_with_a_server(
        self, state: ServerState, spec: ServerSpec, when: str
    ) -> None:
        if when == "before":
            left = region_of_a_killed_client()
            bring_up(spec)
            assert not left.exists()
        else:
            endpoint = bring_up(spec)
            left = region_of_a_killed_client()
            state.release_all(ME)
            until(lambda: nothing_is_left(endpoint) and not left.exists())

    def test_a_lease_of_an_earlier_process_with_the_same_id_counts_for_nothing(
        self, state: ServerState, endpoint: Endpoint
    ) -> None:
        state.acquire(
            ProcessIdentity(ME.pid, ME.start_ticks - 1, ME.host), Lease(consumer="Consumer")
        )
        state.release_all(ME)
        until(lambda: nothing_is_left(endpoint))


class TestWishes:
    """What one driver wants written holds while it lives, whatever another driver wants."""

    def test_each_driver_has_the_files_that_it_asked_for(
        self, state: ServerState, spec: ServerSpec, tmp_path: Path
    ) -> None:
        def wishes(name: str) -> Wishes:
            directory = tmp_path / name
            return Wishes(
                log_file=str(directory / "triton.log"),
                monitor_file=str(directory / "triton.csv"),
            )

        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "triton.log").write_text("error: of an earlier run\n")
        state.acquire(ME, Lease(consumer="Consumer"), wishes("a"))
        endpoint = bring_up(spec)
        other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        driver = ProcessIdentity.of(other.pid)
        state.acquire(driver, Lease(consumer="Other"), wishes("b"))
        for name in ("a", "b"):
            log, table = tmp_path / name / "triton.log", tmp_path / name / "triton.csv"
            until(functools.partial(has, log, "Started GRPCInferenceService"))
            until(functools.partial(has, table, "ok,"))
        assert "of an earlier run" not in (tmp_path / "a" / "triton.log").read_text()

        owner = state.owner()
        assert owner is not None
        os.kill(owner.pid, signal.SIGKILL)  # and the second driver brings it back
        until(lambda: not owner.is_alive())
        again = ensure_server(spec, driver=driver, timeout_s=90)
        assert again != endpoint
        before = (tmp_path / "a" / "triton.csv").stat().st_size
        until(lambda: (tmp_path / "a" / "triton.csv").stat().st_size > before)
        state.release_all(ME)
        time.sleep(1.5)
        ended = (tmp_path / "a" / "triton.csv").stat().st_size
        other.communicate()
        until(lambda: nothing_is_left(endpoint))
        assert (tmp_path / "a" / "triton.csv").stat().st_size == ended

    def test_a_file_that_cannot_be_written_is_an_error_at_once(
        self, state: ServerState, spec: ServerSpec, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        wanted = Wishes(log_file=str(tmp_path / "file" / "log"))
        state.acquire(ME, Lease(consumer="Consumer"), wanted)
        with pytest.raises(SupervisorError, match="cannot write the server's log"):
            ensure_server(spec, driver=ME, timeout_s=90)


class TestPrivacy:
    def test_nobody_else_can_read_what_a_model_and_the_server_share(
        self, endpoint: Endpoint
    ) -> None:
        regions = list(SHARED_MEMORY.glob(f"{id_of(endpoint)}-*"))
        assert regions
        assert {stat.S_IMODE(region.stat().st_mode) for region in regions} == {0o600}

    def test_it_listens_on_no_port(self, endpoint: Endpoint) -> None:
        connections = psutil.Process(server_pid(endpoint)).net_connections("inet")
        assert [each for each in connections if each.status == psutil.CONN_LISTEN] == []


class TestTogether:
    """Who dies together leaves nothing running, and what is left goes at the next start."""

    def test_the_kernel_ends_a_server_whose_owner_and_guard_die_at_once(
        self, state: ServerState, spec: ServerSpec, endpoint: Endpoint
    ) -> None:
        owner, guard = state.owner(), guard_pid(endpoint)
        assert owner is not None
        assert guard is not None
        for pid in (owner.pid, guard):
            os.kill(pid, signal.SIGKILL)
        until(lambda: not server_processes(id_of(endpoint)))
        state.release_all(ME)
        assert state.path.exists()
        other = replace(spec, server_args=("--log-verbose=0",))
        bring_up(other)
        assert not state.path.exists()

    def test_the_kernel_ends_what_a_model_has_started(
        self, spec: ServerSpec, doubler: Path, tmp_path: Path
    ) -> None:
        repository = shutil.copytree(doubler, tmp_path / "models")
        code = repository / "double" / "1" / "model.py"
        started = tmp_path / "started"
        code.write_text(
            "import pathlib, subprocess\n"
            "pid = subprocess.Popen(['sleep', '600']).pid\n"
            f"pathlib.Path({str(started)!r}).write_text(str(pid))\n" + code.read_text()
        )
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        try:
            endpoint = bring_up(replace(spec, model_repository=str(repository)))
        finally:
            signal.signal(signal.SIGHUP, before)
        child = ProcessIdentity.of(int(started.read_text()))
        (state,) = ServerState.all(state_home())
        owner, guard = state.owner(), guard_pid(endpoint)
        assert owner is not None
        assert guard is not None
        assert child.is_alive()
        for pid in (owner.pid, guard, server_pid(endpoint)):
            os.kill(pid, signal.SIGKILL)
        until(lambda: not child.is_alive())
        state.release_all(ME)
        sweep(state_home())

    def test_everything_that_was_killed_is_swept_by_the_next_server(
        self, state: ServerState, spec: ServerSpec, endpoint: Endpoint
    ) -> None:
        owner, guard = state.owner(), guard_pid(endpoint)
        assert owner is not None
        assert guard is not None
        for pid in (owner.pid, guard, *server_processes(id_of(endpoint))):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not server_processes(id_of(endpoint)))
        assert list(SHARED_MEMORY.glob(f"{id_of(endpoint)}-*"))
        state.release_all(ME)
        bring_up(replace(spec, server_args=("--log-verbose=0",)))
        assert nothing_is_left(endpoint)
        assert not state.path.exists()


class TestFailure:
    @pytest.mark.usefixtures("home")
    def test_a_server_that_cannot_start_says_why_at_once(
        self, tmp_path: Path, doubler: Path
    ) -> None:
        repository = tmp_path / "models"
        model = repository / "double" / "1" / "model.py"
        model.parent.mkdir(parents=True)
        model.write_text(BROKEN)
        config = model.parents[1] / "config.pbtxt"
        config.write_text((doubler / "double" / "config.pbtxt").read_text())
        started_at = time.monotonic()
        with pytest.raises(SupervisorError, match="weights are missing") as raised:
            bring_up(ServerSpec(model_repository=str(repository)))
        assert time.monotonic() - started_at < 30
        assert str(raised.value).count("the Triton server ended") == 1

    def test_a_supervisor_that_cannot_start_says_why(self, spec: ServerSpec) -> None:
        with pytest.raises(SupervisorError, match="nonsense"):
            bring_up(replace(spec, server_args=("--nonsense",)))

    def test_a_server_that_is_not_ready_in_time_says_so(self, spec: ServerSpec) -> None:
        with pytest.raises(SupervisorError, match="was not ready after 0 s"):
            bring_up(replace(spec, timeout_s=0.0))


class TestCommands:
    def hermes(self, state: ServerState, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hermes", *arguments],
            env={**os.environ, "HERMES_STATE_HOME": str(state.path.parent)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def test_servers_are_listed(
        self, state: ServerState, endpoint: Endpoint, doubler: Path
    ) -> None:
        state.acquire(ME, Lease(consumer="Other", is_running=True))
        (server,) = json.loads(self.hermes(state, "ps", "--json").stdout)
        assert server["id"] == short_id(state)
        assert server["phase"] == "ready"
        assert server["endpoint"] == endpoint.grpc
        assert server["model_repository"] == str(doubler)
        assert server["drivers"] == [os.getpid()]
        assert (server["running"], server["consumers"]) == (1, 2)
        assert 0 < server["age_s"] < 60
        header, row, *_ = self.hermes(state, "ps").stdout.splitlines()
        assert header.split()[:4] == ["ID", "STATE", "GPUS", "RUNNING"]
        assert row.split()[:4] == [short_id(state), "ready", "-", "1/2"]
        assert row.split()[-1] == endpoint.grpc

    @pytest.mark.parametrize("which", ["its id", "--all"])
    def test_a_stopped_server_does_not_come_back_for_those_who_needed_it(
        self, state: ServerState, spec: ServerSpec, endpoint: Endpoint, which: str
    ) -> None:
        done = self.hermes(state, "stop", which if which == "--all" else short_id(state))
        assert done.stdout == f"stopped {short_id(state)}\n"
        assert nothing_is_left(endpoint)
        with pytest.raises(SupervisorError, match="stopped with `hermes stop`"):
            bring_up(spec)
        later = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        driver = ProcessIdentity.of(later.pid)
        state.acquire(driver, Lease(consumer="Later"))
        assert ensure_server(spec, driver=driver, timeout_s=60)
        later.communicate()

    def test_what_does_not_run_cannot_be_stopped(self, state: ServerState) -> None:
        done = self.hermes(state, "stop", "nonsense")
        assert done.returncode == 1
        assert "'nonsense' is not one of those that run: none" in done.stderr
        assert self.hermes(state, "stop", "--all").returncode == 0

    def test_the_machine_is_described(self, state: ServerState) -> None:
        said = self.hermes(state, "check").stdout
        assert "ok      triton: " in said
        assert "port 8001: grpc: " in said


def test_a_region_without_its_server_is_known() -> None:
    region = SHARED_MEMORY / f"{new_server_id()}-left"
    region.touch()
    try:  # a server that starts just now removes it
        assert region in regions_of_the_dead() or not region.exists()
    finally:
        region.unlink(missing_ok=True)


def test_pauses_between_restarts_grow_and_are_bounded() -> None:
    pauses = [restart_pause_s(failures) for failures in range(1, 8)]
    assert pauses == [0.5, 1, 2, 4, 8, 15, 15]


@pytest.mark.parametrize(
    ("code", "was_ready", "worth"),
    [
        (1, False, False),  # its own decision: a model that does not load
        (None, False, False),
        (-9, False, True),
        (137, False, True),  # the same, told by a container's exec
        (1, True, True),
    ],
)
def test_a_server_that_cannot_start_is_not_tried_again(
    code: int | None, was_ready: bool, worth: bool
) -> None:
    error = ServerDiedError(command=(), exit_code=code, log_file=Path("log"), log_tail="")
    assert is_worth_a_restart(error, was_ready=was_ready) == worth
    hangs = ServerHangsError(problem="stopped", log_file=Path("log"), log_tail="")
    assert is_worth_a_restart(hangs, was_ready=was_ready)


class TestHealth:
    def test_a_few_misses_in_a_row_make_a_freeze(self) -> None:
        health = Health()
        for _ in range(MOST_MISSES - 1):
            health.add(Finding(problem="no answer"))
        health.add(Finding())
        for _ in range(MOST_MISSES):
            assert health.problem is None
            health.add(Finding(problem="no answer"))
        assert health.problem == "no answer"

    def test_a_model_that_answers_only_errors_is_broken(self) -> None:
        health = Health()
        for count in range(1, MOST_ERRORS + 1):
            assert health.problem is None
            health.add(Finding(requests={"m": (7, count), "n": (count, 0)}))
        if health.problem is None:
            health.add(Finding(requests={"m": (7, MOST_ERRORS + 1), "n": (0, 0)}))
        assert health.problem is not None
        assert "model m" in health.problem

    def test_a_model_that_answers_some_requests_is_well(self) -> None:
        health = Health()
        for count in range(5 * MOST_ERRORS):
            health.add(Finding(requests={"m": (count, count)}))
        assert health.problem is None

    def test_errors_of_the_past_are_no_news(self) -> None:
        health = Health()
        for _ in range(5 * MOST_ERRORS):
            health.add(Finding(requests={"m": (0, 3)}))
        assert health.problem is None


def _bound(listener: object, host: str, port: int) -> bool:
    try:
        listener.bind((host, port))  # type: ignore[attr-defined]
    except OSError:
        return False
    return True
