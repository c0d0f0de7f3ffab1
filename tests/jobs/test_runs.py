"""The files of a run, its chunks and its beacon."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hermes.aeriel._options import InferenceOptions
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.files import Request
from hermes.aeriel.jobs import _beacon
from hermes.aeriel.jobs._beacon import Beacon, BeaconWatch
from hermes.aeriel.jobs._chunks import MOST_FILES_PER_JOB, chunks
from hermes.aeriel.jobs._files import JobStatus, RunDirectory, Work, sweep_runs
from hermes.aeriel.jobs._server_request import ServerRequest, check_reachable
from hermes.aeriel.supervise import ServerSpec
from hermes.errors import ParameterError
from tests.helpers import wait_until


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "jobs")


def request(file: Path, **options: Any) -> Request:
    return Request(
        input_files=(file,),
        output_file=file.with_suffix(".out"),
        options=InferenceOptions(model_name="m", **options),
        fingerprint="f",
        provenance={"task": "t"},
    )


def test_a_run_is_for_its_user_alone(run: RunDirectory) -> None:
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700


def test_a_job_reads_what_the_driver_wrote(run: RunDirectory, tmp_path: Path) -> None:
    files = run.submission("0")
    files.path.mkdir()
    asked = (
        request(tmp_path / "a b.h5", input_map={"x": "/x", "y": ("/y", "/z")}, shifts=("0", "1s")),
        request(tmp_path / "c.h5", outputs=("o",)),
    )
    work = Work(requests=asked, server=1)
    files.write_work(3, work)
    assert files.read_work(3) == work
    assert files.read_status(3) == JobStatus()
    files.write_status(3, JobStatus(rows=5, failures={"/a": "bad"}))
    assert files.read_status(3) == JobStatus(rows=5, failures={"/a": "bad"})


def test_a_server_request_comes_back(run: RunDirectory) -> None:
    asked = ServerRequest(spec=ServerSpec(model_repository="/m", n_gpus=2), log_file="/log")
    asked.write(run.server(0))
    assert ServerRequest.read(run.server(0)) == asked
    assert run.has_work_for(0)
    run.server(0).unlink()
    assert not run.has_work_for(0)


def test_each_of_several_servers_has_files_of_its_own() -> None:
    asked = ServerRequest(spec=ServerSpec(model_repository="/m"), log_file="/logs/triton.log")
    assert asked.of_server(0) == asked
    assert asked.of_server(2) == replace(asked, log_file="/logs/triton-2.log")


def test_logs_stay_and_nothing_else(run: RunDirectory) -> None:
    (run.path / "0").mkdir()
    (run.path / "1").mkdir()
    run.submission("0").log(1).write_text("why")
    run.submission("0").log(2).touch()
    for file in (run.endpoint(0), run.beacon, run.path / "1" / "0.work.json"):
        file.touch()
    run.remove(keep_logs=True)
    assert [path for path in run.path.rglob("*") if path.is_file()] == [run.submission("0").log(1)]
    run.remove(keep_logs=False)
    assert not run.path.parent.exists()


def test_logs_go_when_a_later_run_has_done_all(run: RunDirectory) -> None:
    (run.path / "0").mkdir()
    run.submission("0").log(1).write_text("why")
    others = [RunDirectory.create(run.path.parent) for _ in range(2)]
    others[0].beacon.touch()  # it is under way
    others[1].finish()
    assert [path.name for path in run.path.parent.iterdir()] == [others[0].name]


def test_a_new_run_removes_what_dead_ones_left(run: RunDirectory) -> None:
    run.bury()
    other = RunDirectory.create(run.path.parent)
    assert [path.name for path in run.path.parent.iterdir()] == [other.name]


HOLDS_A_RUN = """
import sys, time
from pathlib import Path
from hermes.aeriel.jobs._beacon import Beacon
from hermes.aeriel.jobs._files import RunDirectory

with Beacon(RunDirectory.create(Path(sys.argv[1]))):
    print("moves", flush=True)
    time.sleep(60)
"""


def test_a_driver_of_this_host_that_was_killed_is_not_waited_for(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS_A_RUN, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        (left,) = tmp_path.iterdir()
        sweep_runs(tmp_path)
        assert BeaconWatch(RunDirectory(left)).is_moving()
        driver.kill()
    sweep_runs(tmp_path)
    assert not left.exists()
    assert not BeaconWatch(RunDirectory(left)).is_moving()


def test_a_run_that_ends_removes_what_died_beside_it(run: RunDirectory) -> None:
    other = RunDirectory.create(run.path.parent)
    run.beacon.touch()
    run.bury()
    other.finish()
    assert not run.path.parent.exists()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ParameterError, match="cannot be made"):
        RunDirectory.create(tmp_path / "file")


class TestBeacon:
    def test_it_moves_while_the_block_lasts(
        self, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_beacon, "INTERVAL_S", 0.1)
        run.bury()  # by a job that ended while the driver was suspended
        with Beacon(run):
            first = run.beacon.read_text()
            wait_until(lambda: run.beacon.read_text() not in {"", first})
            assert BeaconWatch(run).is_moving()
        last = run.beacon.read_text()
        time.sleep(0.3)
        assert run.beacon.read_text() == last

    def test_a_tombstone_is_believed_at_once(self, run: RunDirectory) -> None:
        with Beacon(run):
            pass
        watch = BeaconWatch(run)
        assert watch.is_moving()
        run.endpoint(1).touch()
        run.bury()
        assert not watch.is_moving()
        assert not run.endpoint(1).exists()  # it has a key

    def test_a_run_without_a_beacon_is_over(self, run: RunDirectory) -> None:
        assert not BeaconWatch(run).is_moving()


@pytest.mark.parametrize("what", [("infer", "0", "0"), ("serve", "0", "0")])
def test_a_job_that_comes_late_does_nothing(run: RunDirectory, what: tuple[str, ...]) -> None:
    command = [sys.executable, "-P", "-m", "hermes.aeriel.jobs", what[0], str(run.path), *what[1:]]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "is over; there is nothing to do" in done.stderr


def test_files_of_jobs(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.h5" for number in range(7)]
    for file in files:
        file.touch()
    asked = [request(file) for file in files]
    assert [len(chunk.requests) for chunk in chunks(asked, 3)] == [3, 3, 1]
    assert [len(chunk.requests) for chunk in chunks(asked, 0)] == [2, 2, 2, 1]
    assert [len(chunk.requests) for chunk in chunks(asked[:1], 0)] == [1]
    assert len(chunks(asked, 0, n_servers=2)) == 7
    many = chunks([asked[0]] * 10_000, 0)
    assert len(many) == 20
    assert max(len(chunk.requests) for chunk in many) <= MOST_FILES_PER_JOB


def test_an_address_that_only_this_host_has() -> None:
    endpoint = Endpoint(grpc="127.0.0.1:8001")
    with pytest.raises(ParameterError, match="--advertise HOST"):
        check_reachable(endpoint, is_advertised=False)
    check_reachable(endpoint, is_advertised=True)
    check_reachable(Endpoint(grpc="192.0.2.1:8001"), is_advertised=False)
