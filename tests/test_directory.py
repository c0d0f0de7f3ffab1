"""The private directory of a server: who owns it, who may believe it, how it is locked."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes._cleanup import sweep
from hermes._directory import MOST_HOME_BYTES, ServerDirectory, new_server_id, state_home
from hermes._processes import Host, ProcessIdentity, server_processes
from hermes.aeriel.supervise import Lease, ServerState
from hermes.errors import LockTimeoutError, ParameterError

ME = ProcessIdentity.of(os.getpid())
LONGEST_SOCKET = "g:65535"


@pytest.fixture
def directory(tmp_path: Path) -> ServerDirectory:
    return ServerDirectory(tmp_path / "home" / new_server_id())


@given(st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_a_socket_fits_whatever_the_state_home_is_called(name: str) -> None:
    home = state_home({"HERMES_STATE_HOME": name})
    socket = home / new_server_id() / LONGEST_SOCKET
    assert len(os.fsencode(socket)) <= 107
    assert str(home).isascii()
    assert " " not in str(home)


def test_a_short_state_home_is_taken_as_it_is() -> None:
    assert state_home({"HERMES_STATE_HOME": "/scratch/me"}) == Path("/scratch/me")
    long = "/" + "x" * MOST_HOME_BYTES
    other = f"{long}y"
    homes = {state_home({"HERMES_STATE_HOME": name}) for name in (long, other)}
    assert len(homes) == 2
    assert all(home.parent == Path("/tmp") for home in homes)


def test_it_is_for_its_user_only_under_any_umask(directory: ServerDirectory) -> None:
    before = os.umask(0)
    try:
        directory.set_owner(ME)
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in directory.path.iterdir())


def test_an_owner_of_another_host_or_namespace_is_neither_believed_nor_swept(
    directory: ServerDirectory,
) -> None:
    here = Host.here()
    for host in (replace(here, namespace="1"), replace(here, machine="ffffff", boot="eeeeee")):
        directory.set_owner(replace(ME, host=host))
        assert directory.owner() is None
        assert not directory.is_left()
        sweep(directory.path.parent)
        directory.tidy()
        assert directory.path.exists()


@pytest.mark.parametrize(
    "owner",
    [
        replace(ME, start_ticks=ME.start_ticks - 1),
        replace(ME, host=replace(ME.host, boot="before")),
    ],
    ids=["dead", "of an earlier boot"],
)
def test_what_the_dead_left_is_swept(directory: ServerDirectory, owner: ProcessIdentity) -> None:
    directory.set_owner(owner)
    directory.log_file.touch()
    sweep(directory.path.parent)
    assert not directory.path.parent.exists()


def test_the_log_of_a_server_that_failed_is_kept_for_a_week(directory: ServerDirectory) -> None:
    old, new = directory.log_file, directory.path.with_name(f"{new_server_id()}.log")
    other = directory.path.with_name("thesis.log")
    old.parent.mkdir()
    for log, days in ((old, 8), (new, 6), (other, 100)):
        log.touch()
        os.utime(log, (time.time() - days * 86400,) * 2)
    sweep(directory.path.parent)
    assert set(old.parent.iterdir()) == {new, other}


def test_what_may_have_left_more_is_not_just_removed(directory: ServerDirectory) -> None:
    directory.set_owner(replace(ME, start_ticks=1))
    directory.plan_file.write_text("{}")
    directory.tidy()
    assert directory.plan_file.exists()


def test_what_lives_is_not_swept(directory: ServerDirectory) -> None:
    directory.set_owner(ME)
    sweep(directory.path.parent)
    assert directory.owner() == ME


@pytest.mark.parametrize("driver", [ME, replace(ME, start_ticks=1)], ids=["alive", "dead"])
def test_what_a_driver_left_before_there_was_a_server_is_swept(
    directory: ServerDirectory, driver: ProcessIdentity
) -> None:
    ServerState(directory.path).acquire(driver, Lease(consumer="a task"))
    sweep(directory.path.parent)
    assert directory.path.exists() == (driver == ME)


def test_somebody_else_s_files_are_left_alone(directory: ServerDirectory) -> None:
    directory.set_owner(replace(ME, start_ticks=1))
    thesis = directory.path.parent / "thesis"
    thesis.mkdir()
    (thesis / "owner").write_text(str(replace(ME, start_ticks=1)))
    sweep(directory.path.parent)
    assert [path.name for path in directory.path.parent.iterdir()] == ["thesis"]
    assert (thesis / "owner").exists()


def test_a_link_in_its_place_is_refused(directory: ServerDirectory, tmp_path: Path) -> None:
    directory.path.parent.mkdir()
    directory.path.symlink_to(tmp_path)
    with pytest.raises(ParameterError, match="is not a directory of this user"):
        directory.set_owner(ME)


def test_a_home_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    directory = ServerDirectory(tmp_path / "file" / "home" / new_server_id())
    with pytest.raises(ParameterError, match=r"HERMES_STATE_HOME: cannot make "):
        directory.set_owner(ME)


@pytest.mark.parametrize("text", ["", "nonsense", "1-2", "a-b-c.d.e", "1-2-3.4", "1-2-3.4.5-6"])
def test_an_owner_that_cannot_be_read_is_none(directory: ServerDirectory, text: str) -> None:
    directory.set_owner(ME)
    (directory.path / "owner").write_text(text)
    assert directory.owner() is None
    assert not directory.is_left()


def test_a_lock_that_somebody_holds_has_a_deadline(directory: ServerDirectory) -> None:
    directory.set_owner(ME)
    with (directory.path / "cleaning").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(LockTimeoutError, match="cleaning"), directory.cleaning(timeout_s=0.1):
            pytest.fail("it was had twice")


def test_a_lock_is_had_when_its_holder_is_gone(directory: ServerDirectory) -> None:
    entered, left = threading.Event(), threading.Event()

    def hold() -> None:
        with directory.exclusive():
            entered.set()
            time.sleep(0.3)
            left.set()

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait()
    with directory.exclusive():
        assert left.is_set()
    holder.join()


def test_cleaners_of_temporary_files_find_everything_new(
    directory: ServerDirectory, tmp_path: Path
) -> None:
    directory.set_owner(ME)
    for path in (directory.path, directory.path / "owner"):
        os.utime(path, (0, 0))
    note = tmp_path / "note"
    note.touch()
    os.utime(note, (0, 0))
    directory.touch(str(note))
    found = (directory.path, *directory.path.iterdir(), note)
    assert all(path.stat().st_mtime > 1 for path in found)


@pytest.mark.root
def test_a_process_that_only_names_a_server_of_another_user_is_no_candidate() -> None:
    server_id = new_server_id()
    command = [sys.executable, "-c", "input()", f"--id={server_id}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, user=65534) as other:
        time.sleep(0.2)
        assert server_processes(server_id) == {}
        other.communicate()
