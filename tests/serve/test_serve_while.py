"""``hermes serve`` for a driver elsewhere: started again, advertised, ended with its beacon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes.aeriel._beacon import BeaconReader, Movement
from hermes.aeriel.endpoint import Endpoint
from tests.helpers import DOUBLE, remains, server_pid, wait_until, write_model

HERMES = (sys.executable, "-m", "hermes")


@pytest.fixture
def models(tmp_path: Path, triton_home: Path) -> Path:
    return write_model(tmp_path / "models", "double", DOUBLE)


@pytest.fixture
def moving(tmp_path: Path) -> Iterator[tuple[Path, threading.Event]]:
    """A beacon that moves until an event is set."""
    beacon, dead = tmp_path / "beacon", threading.Event()
    beacon.touch()

    def move() -> None:
        while not dead.wait(1):
            beacon.write_text(str(time.monotonic_ns()))

    thread = threading.Thread(target=move)
    thread.start()
    yield beacon, dead
    dead.set()
    thread.join()


def serve(models: Path, *options: object) -> subprocess.Popen[str]:
    command = [*HERMES, "serve", str(models), "--endpoint-file=e.json", *map(str, options)]
    return subprocess.Popen(
        command, cwd=models.parent, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


def server_id_in(file: Path) -> str:
    return str(Endpoint.read(file).server_id)


@pytest.mark.parametrize("killed", [False, True], ids=["stands still", "is removed"])
def test_a_server_ends_with_the_beacon_of_its_driver(
    models: Path, moving: tuple[Path, threading.Event], killed: bool
) -> None:
    beacon, dead = moving
    file = models.parent / "e.json"
    with serve(models, "--listen=unix", f"--while={beacon}") as process:
        wait_until(file.exists, 60)
        server_id = server_id_in(file)
        time.sleep(2)
        assert process.poll() is None
        dead.set()
        if killed:
            time.sleep(1.5)  # the last move
            beacon.unlink()
        ended_at = time.monotonic()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"the beacon {beacon} stands still: the server has ended" in said
    assert time.monotonic() - ended_at < (12 if killed else 42)
    assert not file.exists()
    assert remains(server_id) == []


def test_a_server_is_started_again_as_often_as_was_said(models: Path) -> None:
    file = models.parent / "e.json"
    with serve(models, "--ports=auto", "--restarts=1") as process:
        for _ in range(2):
            wait_until(file.exists, 60)
            server_id = server_id_in(file)
            os.kill(server_pid(server_id), signal.SIGKILL)
            wait_until(lambda: not file.exists(), 20)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "restarting the server (1 of 1)" in said
    assert "hermes: the Triton server ended unexpectedly with exit code -9" in said
    # But for the log, which the error names.
    assert [left for left in remains(server_id) if not str(left).endswith(".log")] == []


def test_other_hosts_find_it_by_the_name_that_is_advertised(models: Path) -> None:
    file = models.parent / "e.json"
    with serve(models, "--ports=auto", "--advertise=localhost", "--listen=127.0.0.1") as process:
        wait_until(file.exists, 60)
        endpoint = Endpoint.read(file)
        process.terminate()
        process.communicate(timeout=60)
    assert endpoint.grpc.startswith("localhost:")


def test_a_beacon_that_is_not_there_is_refused(models: Path) -> None:
    with serve(models, "--listen=unix", "--while=nowhere") as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "hermes: while: there is no file nowhere; its driver has to make it first" in said


def test_what_changes_moves_and_what_does_not_stands_still_after_the_limit() -> None:
    movement = Movement(100.0, limit_s=30.0)
    assert movement.goes_on("a", 129.0)
    assert movement.goes_on("a", 159.0)
    assert not movement.goes_on("a", 159.1)
    assert movement.goes_on("b", 200.0)
    assert movement.goes_on(None, 230.0)  # it cannot be looked at
    assert not movement.goes_on(None, 230.1)


def test_a_beacon_moves_by_its_time_of_modification_alone(tmp_path: Path) -> None:
    beacon = tmp_path / "beacon"
    reader = BeaconReader(beacon)
    assert not reader.is_moving()
    beacon.touch()
    assert reader.is_moving()
