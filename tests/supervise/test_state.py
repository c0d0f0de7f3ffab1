"""What drivers, consumers and a supervisor record in a server's directory, and when it counts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hermes._directory import Status
from hermes._processes import ProcessIdentity
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.supervise import Lease, ServerSpec, ServerState, Wishes
from hermes.aeriel.supervise._state import ASKED_S

OWN = ProcessIdentity.of(os.getpid())
OUTSTANDING, RUNNING = Lease(consumer="a task"), Lease(consumer="a task", is_running=True)
SPEC = ServerSpec(model_repository="/models", gpus=(0, "GPU-1"), server_args=("--strict",))


@pytest.fixture
def state(tmp_path: Path) -> ServerState:
    return ServerState(tmp_path / "hermes-00000000000000")


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Another driver."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture
def other(process: subprocess.Popen[bytes]) -> ProcessIdentity:
    return ProcessIdentity.of(process.pid)


def test_a_lease_counts_while_its_driver_lives(
    state: ServerState, process: subprocess.Popen[bytes], other: ProcessIdentity
) -> None:
    assert not state.is_needed()
    state.acquire(other, OUTSTANDING, Wishes(log_file="/log"))
    assert state.is_needed()
    assert state.consumers() == {other: [OUTSTANDING]}
    assert state.wishes() == [Wishes(log_file="/log")]
    process.kill()
    process.wait()
    assert not state.is_needed()
    assert state.consumers() == {}
    assert state.wishes() == []
    state.acquire(OWN, OUTSTANDING)
    assert state.consumers() == {OWN: [OUTSTANDING]}


def test_a_lease_is_its_drivers_and_consumers(state: ServerState, other: ProcessIdentity) -> None:
    state.acquire(OWN, OUTSTANDING)
    assert state.has_lease(OWN, "a task")
    assert not state.has_lease(OWN, "another task")
    assert not state.has_lease(other, "a task")
    state.acquire(other, RUNNING)
    state.acquire(OWN, Lease(consumer="another task"))
    assert len(state.consumers()[OWN]) == 2
    for _ in range(2):  # the second time there is none
        state.release(OWN, "a task")
        assert state.consumers() == {OWN: [Lease(consumer="another task")], other: [RUNNING]}
    state.release_all(OWN)
    assert state.consumers() == {other: [RUNNING]}


def test_a_consumer_that_runs_has_one_lease_and_keeps_it_where_waiting_ones_go(
    state: ServerState,
) -> None:
    state.acquire(OWN, OUTSTANDING)
    assert not state.is_running()
    state.release_waiting(OWN, "a task")
    assert not state.has_lease(OWN, "a task")
    state.release_waiting(OWN, "a task")
    for lease in (OUTSTANDING, RUNNING):
        state.acquire(OWN, lease)
        assert state.consumers() == {OWN: [lease]}
    state.release_waiting(OWN, "a task")
    assert state.is_running()


def test_consumers_run_for_their_own_driver(state: ServerState, other: ProcessIdentity) -> None:
    state.acquire(OWN, OUTSTANDING)
    state.acquire(other, RUNNING)
    assert state.is_running()
    assert state.is_running([OWN, other])
    assert not state.is_running([OWN])
    assert not state.is_running([])


def test_a_lease_that_is_just_being_written_counts_for_nothing(state: ServerState) -> None:
    state.acquire(OWN, OUTSTANDING, Wishes(linger_s=3))
    (lease,) = (path for path in state.path.rglob("*") if path.parent.name == str(OWN))
    lease.rename(lease.with_name(".half"))
    assert not state.is_needed()
    assert state.consumers() == {}
    assert state.wishes() == []
    lease.touch()
    assert state.is_needed()  # whatever is in it
    assert state.consumers() == {}


def test_wishes_are_those_of_drivers_with_leases(
    state: ServerState, other: ProcessIdentity
) -> None:
    assert state.wishes() == []
    assert Wishes() == Wishes(log_file="", monitor_file="", linger_s=0)
    wishes = Wishes(log_file="/log", monitor_file="/monitor.csv", linger_s=3)
    state.acquire(OWN, OUTSTANDING, wishes)
    state.acquire(other, RUNNING)
    assert state.wishes() == [wishes]
    state.acquire(OWN, RUNNING)
    assert state.wishes() == [wishes]
    state.acquire(other, RUNNING, Wishes(linger_s=1))
    assert sorted(each.linger_s for each in state.wishes()) == [1, 3]
    state.release(OWN, "a task")
    assert state.wishes() == [Wishes(linger_s=1)]


def test_a_directory_that_is_not_there_has_no_leases_and_is_not_made(state: ServerState) -> None:
    state.release(OWN, "a task")
    state.release_waiting(OWN, "a task")
    state.release_all(OWN)
    state.request_yield()
    assert not state.is_asked_to_yield()
    assert state.consumers() == {}
    assert state.failure() == ""
    assert not state.path.exists()


def test_who_needs_a_stopped_server_does_not_start_it_again_and_others_do(
    state: ServerState, other: ProcessIdentity
) -> None:
    assert not state.is_blocked(OWN)
    state.acquire(OWN, OUTSTANDING)
    state.block_drivers()
    assert state.is_blocked(OWN)
    assert not state.is_blocked(other)
    state.acquire(other, OUTSTANDING)
    assert not state.is_blocked(other)
    state.block_drivers()
    assert state.is_blocked(OWN)
    assert state.is_blocked(other)


def test_a_request_to_yield_is_valid_for_some_seconds(state: ServerState) -> None:
    state.acquire(OWN, OUTSTANDING)
    before = set(state.path.iterdir())
    assert not state.is_asked_to_yield()
    state.request_yield()
    assert state.is_asked_to_yield()
    (request,) = set(state.path.iterdir()) - before
    asked_at = request.stat().st_mtime
    os.utime(request, (asked_at - ASKED_S, asked_at - ASKED_S))
    assert not state.is_asked_to_yield()
    state.request_yield()
    assert state.is_asked_to_yield()


def test_an_endpoint_is_its_supervisors(
    state: ServerState, process: subprocess.Popen[bytes], other: ProcessIdentity
) -> None:
    endpoint = Endpoint(grpc="unix:/somewhere", server_id=state.server_id)
    state.set_owner(other)
    assert state.endpoint() is None
    state.unpublish()
    endpoint.write(state.endpoint_file)
    assert state.endpoint() == endpoint
    state.endpoint_file.write_text("{")
    assert state.endpoint() is None
    endpoint.write(state.endpoint_file)
    process.kill()
    process.wait()
    assert state.endpoint() is None
    state.set_owner(OWN)
    assert state.endpoint() == endpoint
    state.unpublish()
    assert state.endpoint() is None


def test_a_new_supervisor_finds_the_specification_and_nothing_of_the_last_one(
    state: ServerState,
) -> None:
    state.set_owner(OWN)
    state.clear(replace(SPEC, cpu=True))
    state.clear(SPEC)
    assert state.spec() == SPEC
    Endpoint(grpc="unix:/somewhere").write(state.endpoint_file)
    state.write_status(Status(phase="ready"))
    state.fail("it burns")
    assert state.failure() == "it burns"
    state.clear(SPEC)
    assert state.endpoint() is None
    assert state.status() is None
    assert state.failure() == ""
