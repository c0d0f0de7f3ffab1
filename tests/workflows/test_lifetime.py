"""The lifetime of a server in a pipeline: real pipelines, real servers, real signals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes._directory import state_home
from hermes._processes import SHARED_MEMORY, ProcessIdentity, is_tritonserver
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.supervise import Lease, ServerState

from .conftest import CONFIG, MODEL, write_input, write_model

CLEAN_S = 10.0
SOURCE = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("triton_home")


@pytest.fixture(scope="session")
def slow_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes 20 ms for a request."""
    repository = tmp_path_factory.mktemp("slow")
    slow = MODEL.replace(
        "        return [utils", "        import time; time.sleep(0.02)\n        return [utils", 1
    )
    write_model(repository, "double", CONFIG, slow)
    return repository


@dataclass(frozen=True)
class Luigid:
    """A real luigid."""

    port: int
    process: subprocess.Popen[bytes]


@pytest.fixture
def scheduler_port(luigid: Luigid) -> int:
    """The port of a real luigid."""
    return luigid.port


@pytest.fixture
def luigid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luigid]:
    """A luigid of this test's own, for it takes a name for a task done before."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    directory = tmp_path_factory.mktemp("luigid")
    command = [sys.executable, "-c", "from luigi.cmdline import luigid; luigid()"]
    options = ["--address=127.0.0.1", f"--port={port}", f"--state-path={directory / 'state'}"]
    with (directory / "log").open("w") as log:
        daemon = subprocess.Popen([*command, *options], stdout=log, stderr=log)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.1)
    yield Luigid(port, daemon)
    daemon.terminate()
    daemon.wait(10)


class Bench:
    """A directory with pipelines that run in it, and what they have to do with servers."""

    def __init__(self, directory: Path, repository: Path) -> None:
        self.directory = directory
        self.repository = repository
        named = str(directory / "state")
        self.state_home = state_home({"HERMES_STATE_HOME": named})
        self.environment = {
            **os.environ,
            "HERMES_STATE_HOME": named,
            "PYTHONPATH": f"{SOURCE}:{Path(__file__).parent}",
        }
        self._started: list[subprocess.Popen[bytes]] = []
        self._seen: set[str] = set()

    def command(self, task: str, *options: str, scheduler: int | None = None) -> list[str]:
        where = "--local-scheduler" if scheduler is None else f"--scheduler-port={scheduler}"
        module = [sys.executable, "-m", "luigi", "--module", "pipelines", task]
        return [*module, f"--model-repository={self.repository}", *options, where]

    def start(self, command: Sequence[str], log: str = "log") -> subprocess.Popen[bytes]:
        with (self.directory / log).open("ab") as file:
            driver = subprocess.Popen(
                command,
                cwd=self.directory,
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(driver)
        return driver

    def run(self, task: str, *options: str, scheduler: int | None = None) -> str:
        driver = self.start(self.command(task, *options, scheduler=scheduler))
        driver.wait(150)
        return self.log()

    def log(self, name: str = "log") -> str:
        return (self.directory / name).read_text()

    def until(self, happened: Callable[[], object], within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        while not happened():
            assert time.monotonic() < deadline, f"did not happen:\n{self.log()[-5000:]}"
            time.sleep(0.05)

    def until_there(self, name: str, within_s: float = 60.0) -> None:
        self.until((self.directory / name).exists, within_s)

    def state(self) -> ServerState | None:
        states = ServerState.all(self.state_home)
        assert len(states) < 2
        return states[0] if states else None

    def endpoint(self) -> Endpoint | None:
        state = self.state()
        return None if state is None else state.endpoint()

    def supervisor(self) -> int:
        state = self.state()
        identity = None if state is None else state.owner()
        assert identity is not None
        return identity.pid

    def processes(self) -> dict[int, list[str]]:
        """Every process of a server or its keepers that was started from here."""
        mark = f"HERMES_STATE_HOME={self.environment['HERMES_STATE_HOME']}\0".encode()
        drivers = {driver.pid for driver in self._started}
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in drivers:
                try:
                    command = (entry / "cmdline").read_text(errors="replace").split("\0")
                    if mark in (entry / "environ").read_bytes() and "luigi" not in command:
                        found[int(entry.name)] = command
                        self._seen |= {a[5:] for a in command if a.startswith("--id=hermes-")}
                except OSError:
                    continue
        return found

    def server(self) -> int:
        return next(pid for pid, command in self.processes().items() if is_tritonserver(command))

    def is_ours(self, region: Path) -> bool:
        return any(region.name.startswith(f"{server_id}-") for server_id in self._seen)

    def is_clean(self) -> bool:
        return not self.processes() and not list(self.state_home.glob("*/owner"))

    def assert_clean(self) -> None:
        deadline = time.monotonic() + CLEAN_S
        while not self.is_clean():
            left = self.processes(), [files for _, _, files in os.walk(self.state_home)]
            assert time.monotonic() < deadline, f"left: {left}\n{self.log()[-3000:]}"
            time.sleep(0.1)
        assert not [region for region in SHARED_MEMORY.glob("hermes-*") if self.is_ours(region)]

    def finish(self) -> None:
        for driver in self._started:
            if driver.poll() is None:
                driver.kill()
            driver.wait()


@pytest.fixture
def bench(tmp_path: Path, slow_models: Path) -> Iterator[Bench]:
    """A bench that is clean afterwards."""
    (tmp_path / "models").symlink_to(slow_models)
    bench = Bench(tmp_path, tmp_path / "models")
    yield bench
    bench.finish()
    bench.assert_clean()


@pytest.fixture(params=["local", "luigid"])
def scheduler(request: pytest.FixtureRequest) -> int | None:
    if request.param == "local":
        return None
    port: int = request.getfixturevalue("scheduler_port")
    return port


def workers(number: int) -> str:
    return f"--workers={number}"


def predictions_are_right(directory: Path) -> bool:
    for number in range(4):
        with h5py.File(directory / f"in-{number}.h5") as given:
            x = given["x"][:]
        with h5py.File(directory / f"in-{number}.out.h5") as found:
            if not np.array_equal(found["double"][:], 2 * x):
                return False
    return True


@pytest.mark.parametrize("n_workers", [1, 3])
class TestLoss:
    @pytest.mark.parametrize("victim", ["server", "supervisor"])
    def test_consumers_go_on_after_the_loss_of(
        self, bench: Bench, scheduler: int | None, n_workers: int, victim: str
    ) -> None:
        driver = bench.start(bench.command("InferAll", workers(n_workers), scheduler=scheduler))
        bench.until(bench.endpoint)
        time.sleep(1)
        os.kill(bench.server() if victim == "server" else bench.supervisor(), signal.SIGKILL)
        driver.wait(120)
        assert ":)" in bench.log(), bench.log()[-5000:]
        assert predictions_are_right(bench.directory)

    def test_a_consumer_that_is_about_to_run_gets_a_new_server(
        self, bench: Bench, scheduler: int | None, n_workers: int
    ) -> None:
        driver = bench.start(bench.command("Behind", workers(n_workers), scheduler=scheduler))
        bench.until(bench.endpoint)
        bench.until_there("gate-plain.started")
        bench.until_there("first.done")
        os.kill(bench.supervisor(), signal.SIGKILL)
        driver.wait(120)
        assert ":)" in bench.log(), bench.log()[-5000:]
        assert (bench.directory / "plain.done").read_text() == "[0.0, 2.0, 4.0, 6.0]"

    def test_a_running_plain_task_gets_a_new_server(self, bench: Bench, n_workers: int) -> None:
        driver = bench.start(bench.command("Plain", "--seconds=3", workers(n_workers)))
        bench.until_there("plain.started")
        os.kill(bench.supervisor(), signal.SIGKILL)
        driver.wait(120)
        assert ":)" in bench.log(), bench.log()[-5000:]

    def test_a_running_dynamic_consumer_gets_a_new_server(
        self, bench: Bench, n_workers: int
    ) -> None:
        driver = bench.start(bench.command("Dynamic", "--seconds=3", workers(n_workers)))
        bench.until_there("plain.started")
        os.kill(bench.supervisor(), signal.SIGKILL)
        driver.wait(120)
        assert ":)" in bench.log(), bench.log()[-5000:]

    def test_a_frozen_supervisor_is_no_loss(self, bench: Bench, n_workers: int) -> None:
        driver = bench.start(bench.command("InferAll", workers(n_workers)))
        bench.until(bench.endpoint)
        server = bench.server()
        os.kill(bench.supervisor(), signal.SIGSTOP)
        os.kill(server, signal.SIGKILL)
        driver.wait(120)
        assert ":)" in bench.log(), bench.log()[-5000:]


def test_a_stopped_worker_goes_on(bench: Bench) -> None:
    driver = bench.start(bench.command("Plain", "--seconds=3", workers(2)))
    bench.until_there("plain.started")
    [worker] = _group(driver.pid, children_of=driver.pid)
    os.kill(worker, signal.SIGSTOP)
    driver.wait(60)
    assert ":)" in bench.log(), bench.log()[-5000:]


def test_a_stopped_driver_stays_so_with_its_workers(bench: Bench) -> None:
    driver = bench.start(bench.command("Plain", "--seconds=1", workers(2)))
    bench.until_there("plain.started")
    os.killpg(driver.pid, signal.SIGSTOP)  # as a terminal does for Ctrl-Z
    time.sleep(3)
    assert not (bench.directory / "plain.done").exists()
    os.killpg(driver.pid, signal.SIGCONT)
    driver.wait(60)
    assert ":)" in bench.log(), bench.log()[-5000:]


@pytest.mark.parametrize("n_workers", [1, 3])
class TestNeed:
    def test_the_server_is_gone_while_later_tasks_run(
        self, bench: Bench, scheduler: int | None, n_workers: int
    ) -> None:
        driver = bench.start(bench.command("Later", workers(n_workers), scheduler=scheduler))
        bench.until_there("later.started")
        bench.until(bench.is_clean, CLEAN_S)
        assert driver.poll() is None
        assert not (bench.directory / "later.done").exists()
        driver.wait(60)
        assert ":)" in bench.log()

    def test_the_server_starts_when_a_consumer_can_run(
        self, bench: Bench, scheduler: int | None, n_workers: int
    ) -> None:
        driver = bench.start(
            bench.command("Plain", "--gate-s=12", workers(n_workers), scheduler=scheduler)
        )
        bench.until_there("gate-plain.started")
        while not (bench.directory / "gate-plain.done").exists():
            assert not bench.processes()
            time.sleep(0.2)
        driver.wait(60)
        assert ":)" in bench.log(), bench.log()[-5000:]

    def test_a_consumer_that_is_tried_again_keeps_its_server(
        self, bench: Bench, n_workers: int
    ) -> None:
        again = ("--worker-keep-alive", "--scheduler-retry-delay=3", "--scheduler-retry-count=3")
        log = bench.run("Flaky", "--failures=2", *again, workers(n_workers))
        assert ":)" in log, log[-5000:]
        tries = (bench.directory / "tries").read_text().split()
        assert len(tries) == 3
        assert len(set(tries)) == 1

    def test_a_consumer_that_has_failed_too_often_needs_no_server(
        self, bench: Bench, n_workers: int
    ) -> None:
        again = ("--worker-keep-alive", "--scheduler-retry-delay=1", "--scheduler-retry-count=2")
        driver = bench.start(bench.command("FlakyBeside", *again, workers(max(2, n_workers))))
        bench.until_there("tries")
        bench.until(lambda: (bench.directory / "tries").read_text().count("\n") == 2, 30)
        bench.until(bench.is_clean, CLEAN_S)
        assert not (bench.directory / "slow.done").exists()
        driver.wait(90)
        assert (bench.directory / "tries").read_text().count("\n") == 2

    def test_what_is_complete_needs_no_server(self, bench: Bench, n_workers: int) -> None:
        (bench.directory / "plain.done").touch()
        log = bench.run("Later", "--seconds=1", workers(n_workers))
        assert ":)" in log
        assert "TritonServerTask" not in log

    def test_what_failed_for_good_needs_no_server(self, bench: Bench, n_workers: int) -> None:
        driver = bench.start(bench.command("FailAndGoOn", workers(n_workers)))
        bench.until_there("beside.started", 90)
        bench.until(bench.is_clean, CLEAN_S)
        assert not (bench.directory / "beside.done").exists()
        driver.wait(60)
        assert "2 failed" in bench.log()

    def test_what_waits_for_something_it_asked_for_in_vain_needs_no_server(
        self, bench: Bench, n_workers: int
    ) -> None:
        driver = bench.start(bench.command("AskInVain", workers(n_workers)))
        bench.until_there("beside.started", 90)
        bench.until(bench.is_clean, CLEAN_S)
        assert not (bench.directory / "beside.done").exists()
        driver.wait(60)
        assert "1 failed" in bench.log()

    def test_a_task_that_asks_while_it_runs_gets_a_server(
        self, bench: Bench, scheduler: int | None, n_workers: int
    ) -> None:
        log = bench.run("Dynamic", workers(n_workers), scheduler=scheduler)
        assert ":)" in log
        assert (bench.directory / "plain.done").read_text() == "[0.0, 2.0, 4.0, 6.0]"

    def test_a_server_that_cannot_start_fails_its_task_with_the_reason(
        self, tmp_path: Path, n_workers: int
    ) -> None:
        repository = tmp_path / "models"
        write_model(repository, "double", CONFIG, "raise RuntimeError('weights are missing')")
        broken = Bench(tmp_path, repository)
        log = broken.run("Plain", workers(n_workers))
        assert "weights are missing" in log
        assert "1 failed" in log
        assert "Did not run any tasks" not in log
        broken.assert_clean()


class TestDrivers:
    def test_two_drivers_share_one_server_and_neither_takes_it_from_the_other(
        self, bench: Bench, scheduler: int | None
    ) -> None:
        first = bench.start(
            bench.command("Plain", "--name=one", "--seconds=8", scheduler=scheduler), "first"
        )
        bench.until(bench.endpoint)
        server = bench.server()
        second = bench.start(
            bench.command("Plain", "--name=two", "--seconds=16", scheduler=scheduler), "second"
        )
        bench.until_there("two.started")
        assert first.wait(60) == 0
        assert (bench.directory / "one.done").exists()
        time.sleep(1)
        state = bench.state()
        assert state is not None
        assert bench.server() == server, state.supervisor_log.read_text()
        drivers = {driver.pid: leases for driver, leases in state.consumers().items()}
        assert list(drivers) == [second.pid]
        assert all(lease.is_running for lease in drivers[second.pid])
        second.wait(60)
        assert (bench.directory / "two.done").exists()

    def test_a_consumer_that_another_driver_has_run_needs_no_server(
        self, bench: Bench, scheduler_port: int
    ) -> None:
        plain = bench.command("Plain", "--name=shared", "--seconds=5", scheduler=scheduler_port)
        first = bench.start(plain)
        bench.until_there("shared.started")
        second = bench.start(bench.command("Shared", scheduler=scheduler_port))
        bench.until_there("slow.started")
        assert first.wait(60) == 0
        bench.until(bench.is_clean, CLEAN_S)
        assert not (bench.directory / "slow.done").exists()
        second.wait(60)
        assert ":)" in bench.log()

    def test_a_process_that_lives_on_leaves_nothing(self, bench: Bench) -> None:
        notebook = (
            "import luigi, pipelines, sys, time\n"
            "for name in ('a', 'bad-b', 'c'):\n"
            "    task = pipelines.Plain(name=name, model_repository=sys.argv[1])\n"
            "    luigi.build([task], local_scheduler=True, workers=int(sys.argv[2]))\n"
            "open('built', 'w').close()\n"
            "time.sleep(60)\n"
        )
        for n_workers in ("1", "3"):
            process = bench.start(
                [sys.executable, "-c", notebook, str(bench.repository), n_workers]
            )
            bench.until_there("built", 120)
            bench.until(bench.is_clean, CLEAN_S)
            assert process.poll() is None
            assert (bench.directory / "c.done").exists()
            process.kill()
            for done in bench.directory.glob("*.done"):
                done.unlink()
            (bench.directory / "built").unlink()

    @pytest.mark.parametrize("n_workers", [1, 3])
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_nothing_is_left_of_a_driver_that_got(
        self, bench: Bench, n_workers: int, number: signal.Signals
    ) -> None:
        driver = bench.start(bench.command("InferAll", "--rows=4000", workers(n_workers)))
        bench.until(bench.endpoint)
        time.sleep(1)
        if number == signal.SIGINT:
            os.killpg(driver.pid, number)  # as a terminal does for Ctrl-C
        else:
            driver.send_signal(number)
        ended_at = time.monotonic()
        bench.until(bench.is_clean, CLEAN_S)
        bench.until(lambda: not _group(driver.pid), CLEAN_S)
        print(f"clean after {time.monotonic() - ended_at:.1f} s")

    @pytest.mark.parametrize("n_workers", [1, 3])
    def test_nothing_is_left_of_a_driver_that_ends_while_the_server_starts(
        self, bench: Bench, n_workers: int
    ) -> None:
        driver = bench.start(bench.command("InferAll", workers(n_workers)))
        bench.until(bench.processes)
        driver.kill()
        bench.until(bench.is_clean, CLEAN_S)

    def test_the_leases_of_a_dead_driver_count_for_nothing(self, bench: Bench) -> None:
        driver = bench.start(bench.command("Plain", "--seconds=3"))
        bench.until(bench.endpoint)
        state = bench.state()
        assert state is not None
        me = ProcessIdentity.of(os.getpid())
        state.acquire(ProcessIdentity(me.pid, me.start_ticks - 1, me.host), Lease(consumer="Dead"))
        driver.wait(60)


def _group(leader: int, children_of: int | None = None) -> list[int]:
    """The living processes of a process group; the children of one of them only."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            is_child = children_of in (None, int(fields[1]))
            if int(fields[2]) == leader and fields[0] != "Z" and is_child:
                found.append(int(entry.name))
    return found


def test_a_scheduler_that_is_killed_ends_its_pipeline_within_luigis_own_retries(
    bench: Bench, luigid: Luigid
) -> None:
    (bench.directory / "luigi.cfg").write_text("[core]\nrpc-retry-wait = 2\n")
    for number in range(3):
        write_input(bench.directory / f"{number}.h5", 1000)
    options = ["--model-name=double", "--inputs=*.h5", "--output-dir=results", "--workers=2"]
    options += [f"--model-repository={bench.repository}", f"--scheduler-port={luigid.port}"]
    luigi = [sys.executable, "-m", "luigi", "--module", "workflows.validate", "Validate"]
    driver = bench.start([*luigi, *options, '--input-map={"x": "x"}'])
    # Before any file is under way: its worker would try to tell of its progress, and again.
    bench.until(lambda: (state := bench.state()) is not None and state.owner())
    luigid.process.kill()
    assert driver.wait(60) == 40
    said = bench.log()
    assert said.count("Wait for 2 seconds") == 3, said
    last = said.splitlines()[-1]
    assert last.startswith("hermes: Luigi's scheduler is not there: ")
    assert f"http://localhost:{luigid.port}" in last
    assert "Traceback" not in said
