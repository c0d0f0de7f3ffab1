"""A monitor's table says what its server did, whatever becomes of the server."""

from __future__ import annotations

import csv
import logging
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.monitor import COLUMNS, ServerMonitor
from hermes.aeriel.serve import Endpoint, TritonInstance, serve
from hermes.errors import OutputError, ParameterError, RequestError
from tests.helpers import some_ports
from tests.unix import serve_on_sockets, socket_directory

Row = dict[str, str]


def table(path: Path) -> list[Row]:
    text = path.read_text()
    assert text.endswith("\n")
    rows = list(csv.DictReader(text.splitlines()))
    for row in rows:
        assert None not in row
        assert tuple(row) == COLUMNS
    return rows


def wait_for(path: Path, is_there: Callable[[list[Row]], bool]) -> list[Row]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        rows = table(path)
        if is_there(rows):
            return rows
        time.sleep(0.05)
    pytest.fail(f"not within 30 s: {path.read_text()[-2000:]}")


def ask(endpoint: Endpoint, model: str, times: int = 1) -> None:
    with InferenceClient(endpoint, model) as client:
        for _ in range(times):
            client.infer({"x": np.ones((3, 2), np.float32)}).result()


@pytest.fixture(scope="module")
def instance(repository: Path) -> Iterator[TritonInstance]:
    with serve(repository, ports="auto", wait=True, timeout_s=120) as served:
        yield served


class TestTable:
    def test_counts_what_the_models_do(self, instance: TritonInstance, tmp_path: Path) -> None:
        path = tmp_path / "new" / "server.csv"
        before = datetime.now(UTC) - timedelta(seconds=1)
        with ServerMonitor(instance.endpoint, path, interval_s=0.1):
            first = {row["name"]: row for row in wait_for(path, lambda rows: len(rows) >= 5)[:5]}
            ask(instance.endpoint, "double", 5)
            with pytest.raises(RequestError, match="no"):
                ask(instance.endpoint, "fail")
            time.sleep(0.3)
        rows = table(path)
        last = {row["name"]: row for row in rows[-4:]}
        assert set(last) == {"double", "double-again", "fail", "quadruple"}
        assert {row["version"] for row in rows if row["kind"] == "model"} == {"1"}
        assert (rows[0]["kind"], rows[0]["name"]) == ("server", instance.endpoint.grpc)
        assert {(row["kind"], row["state"]) for row in rows} == {("server", "ok"), ("model", "ok")}

        def grown(name: str, column: str) -> float:
            return float(last[name][column]) - float(first[name][column])

        assert grown("double", "requests") == grown("double", "executions") == 5
        assert grown("double", "inferences") == 15
        assert grown("double", "failures") == 0
        assert grown("fail", "failures") == 1
        assert grown("fail", "requests") == 0
        for column in ("queue_s", "compute_input_s", "compute_infer_s", "compute_output_s"):
            assert 0 < grown("double", column) < 5
        assert last["double"]["pending"] == "0"
        assert last["double"]["utilisation"] == ""
        times = [datetime.fromisoformat(row["time"]) for row in rows]
        assert before < times[0]
        assert times == sorted(times)
        assert times[-1] < datetime.now(UTC) + timedelta(seconds=1)

    def test_is_of_a_server_on_sockets_too(self, repository: Path, tmp_path: Path) -> None:
        path = tmp_path / "server.csv"
        with (
            socket_directory() as directory,
            serve_on_sockets(repository, directory) as (endpoint, _),
            ServerMonitor(endpoint, path, interval_s=0.1),
        ):
            ask(endpoint, "double", 5)
            wait_for(path, lambda rows: any(row["requests"] == "5" for row in rows))
        pending = {row["pending"] for row in table(path) if row["kind"] == "model"}
        assert pending <= {"0", "1"}  # which the metrics say; one is asked at a time

    def test_shows_an_ensemble_by_its_members(
        self, instance: TritonInstance, tmp_path: Path
    ) -> None:
        path = tmp_path / "server.csv"
        with ServerMonitor(instance.endpoint, path, interval_s=0.1):
            before = {row["name"]: row for row in wait_for(path, bool)[:5]}
            ask(instance.endpoint, "quadruple", 3)
            time.sleep(0.3)  # a server counts a request some time after it has answered
        after = {row["name"]: row for row in table(path)[-4:]}
        assert after["double"]["member_of"] == "quadruple"
        assert after["double-again"]["member_of"] == "quadruple"
        assert after["quadruple"]["member_of"] == after["fail"]["member_of"] == ""
        for name in ("double", "double-again", "quadruple"):
            assert int(after[name]["requests"]) - int(before[name]["requests"]) == 3

    def test_has_a_sample_each_interval_and_one_at_the_end(
        self, instance: TritonInstance, tmp_path: Path
    ) -> None:
        path = tmp_path / "server.csv"
        with ServerMonitor(instance.endpoint, path, interval_s=0.2):
            time.sleep(1.1)
        times = sorted({row["time"] for row in table(path)})
        assert 5 <= len(times) <= 8
        with ServerMonitor(instance.endpoint, tmp_path / "two.csv", interval_s=1000):
            wait_for(tmp_path / "two.csv", bool)
            ask(instance.endpoint, "double")
        assert len({row["time"] for row in table(tmp_path / "two.csv")}) == 2

    def test_needs_no_metrics(self, instance: TritonInstance, tmp_path: Path) -> None:
        path = tmp_path / "server.csv"
        with ServerMonitor(instance.endpoint.grpc, path, interval_s=0.1):
            rows = wait_for(path, bool)
        assert {row["pending"] for row in rows} == {""}
        assert "" not in {row["requests"] for row in rows if row["kind"] == "model"}

    def test_asks_no_proxy(
        self, instance: TritonInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        with ServerMonitor(instance.endpoint, tmp_path / "server.csv", interval_s=0.1):
            rows = wait_for(tmp_path / "server.csv", bool)
        assert {row["pending"] for row in rows if row["name"] == "double"} == {"0"}

    def test_of_an_earlier_monitor_is_continued(
        self, instance: TritonInstance, tmp_path: Path
    ) -> None:
        path = tmp_path / "server.csv"
        with ServerMonitor(instance.endpoint, path):
            pass
        first = table(path)
        with path.open("a") as file:
            file.write("2026-01-01T00:00:00.000+00:00,ok,mod")
        with ServerMonitor(instance.endpoint, path):
            pass
        rows = table(path)
        assert rows[: len(first)] == first
        assert {row["state"] for row in first} == {"ok"}
        assert rows[len(first)]["state"] == "restarted"
        assert len(rows) > len(first)


class TestServer:
    def test_that_is_replaced_leaves_a_gap_and_is_told(
        self, repository: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "server.csv"
        ports = some_ports()
        address = Endpoint(grpc=f"127.0.0.1:{ports.grpc}", metrics=f"127.0.0.1:{ports.metrics}")
        with ServerMonitor(address, path, interval_s=0.1):
            wait_for(path, lambda rows: rows[-1:] != [] and rows[-1]["state"] == "unreachable")
            for _ in range(2):
                with serve(repository, ports=ports, wait=True, timeout_s=120) as instance:
                    wait_for(path, lambda rows: rows[-1]["state"] == "ok")
                    ask(instance.endpoint, "double", 2)
                    wait_for(path, lambda rows: "2" in {row["requests"] for row in rows[-4:]})
                wait_for(path, lambda rows: rows[-1]["state"] == "unreachable")
        states = [row["state"] for row in table(path)]
        runs = [
            state for number, state in enumerate(states) if [state] != states[number - 1 : number]
        ]
        assert runs == ["unreachable", "ok", "unreachable", "restarted", "ok", "unreachable"]
        gap = [row for row in table(path) if row["state"] == "unreachable"]
        assert {row["kind"] for row in gap} == {"server"}
        assert {row["requests"] for row in gap} == {""}

    def test_that_moves_is_followed(self, instance: TritonInstance, tmp_path: Path) -> None:
        path = tmp_path / "server.csv"
        where = Endpoint(grpc="127.0.0.1:9")
        with ServerMonitor(lambda: where, path, interval_s=0.05):
            wait_for(path, lambda rows: rows[-1:] != [] and rows[-1]["state"] == "unreachable")
            where = instance.endpoint
            wait_for(path, lambda rows: rows[-1]["state"] == "ok")

    def test_that_hangs_does_not_hold_up_the_end(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            started = time.monotonic()
            endpoint = Endpoint(grpc=address, metrics=address)
            with ServerMonitor(endpoint, tmp_path / "s.csv", interval_s=0.1, timeout_s=1.0):
                time.sleep(0.2)
            assert time.monotonic() - started < 4
        assert {row["state"] for row in table(tmp_path / "s.csv")} == {"unreachable"}

    def test_whose_metrics_are_garbage_is_still_counted(
        self, instance: TritonInstance, tmp_path: Path
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=_answer_garbage, args=(listener,), daemon=True).start()
            endpoint = Endpoint(
                grpc=instance.endpoint.grpc, metrics=f"127.0.0.1:{listener.getsockname()[1]}"
            )
            with ServerMonitor(endpoint, tmp_path / "server.csv", interval_s=0.1, timeout_s=1.0):
                rows = wait_for(tmp_path / "server.csv", bool)
        assert {(row["state"], row["pending"]) for row in rows} == {("ok", "")}


def _answer_garbage(listener: socket.socket) -> None:
    while True:
        try:
            connection = listener.accept()[0]
        except OSError:
            return
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b'HTTP/1.0 200 OK\r\n\r\nnv_x{a="b 1 2 3 4\n')


class TestBlock:
    def test_leaves_no_thread_and_no_open_file(
        self, instance: TritonInstance, tmp_path: Path
    ) -> None:
        path = tmp_path / "server.csv"
        with ServerMonitor(instance.endpoint, path, interval_s=0.05):
            wait_for(path, bool)
        size = path.stat().st_size
        assert "hermes-monitor" not in {thread.name for thread in threading.enumerate()}
        links = list(Path("/proc/self/fd").iterdir())
        assert path not in [link.readlink() for link in links if link.is_symlink()]
        time.sleep(0.2)
        assert path.stat().st_size == size

    def test_that_is_left_with_an_error_ends_too(
        self, instance: TritonInstance, tmp_path: Path
    ) -> None:
        with (
            pytest.raises(KeyboardInterrupt),
            ServerMonitor(instance.endpoint, tmp_path / "server.csv"),
        ):
            raise KeyboardInterrupt
        assert table(tmp_path / "server.csv")
        assert "hermes-monitor" not in {thread.name for thread in threading.enumerate()}

    def test_that_is_killed_leaves_whole_lines(
        self, instance: TritonInstance, tmp_path: Path
    ) -> None:
        path = tmp_path / "server.csv"
        script = (
            "import sys, time; from hermes.aeriel.monitor import ServerMonitor\n"
            "with ServerMonitor(sys.argv[1], sys.argv[2], 0.001): time.sleep(60)"
        )
        command = [sys.executable, "-c", script, instance.endpoint.grpc, str(path)]
        with subprocess.Popen(command) as process:
            deadline = time.monotonic() + 30
            while not path.exists() or path.stat().st_size < 5000:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert len(table(path)[1:]) % 4 == 0  # the first is the server


class TestFile:
    @pytest.mark.parametrize("content", ["time,state\n", "something\n", "x"])
    def test_that_is_something_else_is_not_touched(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "mine.csv"
        path.write_text(content)
        with pytest.raises(OutputError, match="not the table of a monitor"):
            ServerMonitor("localhost:1", path).__enter__()
        assert path.read_text() == content

    def test_that_cannot_be_written_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="directory"), ServerMonitor("localhost:1", tmp_path):
            pass

    def test_that_meets_a_full_disk_keeps_whole_lines(
        self, instance: TritonInstance, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "server.csv"
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            with (
                caplog.at_level(logging.WARNING, "hermes"),
                ServerMonitor(instance.endpoint, path, interval_s=0.02),
            ):
                wait_for(path, bool)
                resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
                deadline = time.monotonic() + 30
                while not caplog.records:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                n_rows = len(table(path))
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
                wait_for(path, lambda rows: len(rows) > n_rows)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)
        assert len(caplog.records) == 1
        assert "cannot write a sample" in caplog.text


@pytest.mark.parametrize(
    "wrong", [{"interval_s": 0.0}, {"timeout_s": -1.0}, {"interval_s": np.nan}]
)
def test_times_that_cannot_be_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        ServerMonitor("localhost:1", tmp_path / "server.csv", **wrong)
