"""hermes where the kernel's file systems are not what it needs: it says so, at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hermes._directory import state_home
from hermes.aeriel.endpoint import Endpoint
from tests.helpers import DOUBLE, wait_until, write_model
from tests.workflows.conftest import write_input

pytestmark = pytest.mark.root

WITHOUT_PROC = "mount -t tmpfs none /proc"
READ_ONLY_SHARED_MEMORY = "mount -t tmpfs -o ro none /dev/shm"
FOREIGN_PROC = ":"  # the new PID namespace goes on with the host's


def in_namespaces(set_up: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``hermes`` in mount and PID namespaces of its own, after a command of the shell there.

    With the host's ``/proc`` where that command does not bring another one.
    """
    mounting = ["unshare", "--mount", "sh", "-ec", f'{set_up}; exec "$@"', "sh"]
    with_pids = ["unshare", "--pid", "--fork"] if set_up == FOREIGN_PROC else []
    return subprocess.run(
        [*mounting, *with_pids, sys.executable, "-m", "hermes", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("set_up", "told"),
    [
        (WITHOUT_PROC, "missing processes: /proc cannot be read"),
        (FOREIGN_PROC, "missing processes: /proc belongs to another PID namespace"),
        (READ_ONLY_SHARED_MEMORY, "missing /dev/shm: is not writable"),
    ],
)
def test_check_tells_what_is_missing(set_up: str, told: str, triton_home: Path) -> None:
    done = in_namespaces(set_up, "check")
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("missing")]
    assert line.startswith(told)


@pytest.mark.parametrize(
    ("set_up", "told"),
    [
        (WITHOUT_PROC, "/proc cannot be read"),
        (FOREIGN_PROC, "/proc belongs to another PID namespace"),
        (READ_ONLY_SHARED_MEMORY, "shared memory"),
    ],
)
def test_a_server_that_cannot_be_started_is_told_at_once(
    set_up: str, told: str, triton_home: Path, tmp_path: Path
) -> None:
    write_model(tmp_path, "double", DOUBLE)
    done = in_namespaces(set_up, "serve", tmp_path, "--ports=auto", "--timeout-s=600")
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_an_installation_that_does_not_fit_is_told(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=20m none {tmp_path}; export HERMES_TRITON_HOME={tmp_path}/home"
    checked = in_namespaces(mount, "check").stdout
    assert f"missing triton's home: {tmp_path}/home, 0.0 GB free, but 1.0 GB are needed" in checked
    done = in_namespaces(mount, "install-triton")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("name another directory with HERMES_TRITON_HOME")


def test_an_installation_into_what_is_read_only_is_told(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o ro none {tmp_path}; export HERMES_TRITON_HOME={tmp_path}/home"
    checked = in_namespaces(mount, "check").stdout
    assert f"missing triton's home: {tmp_path} is not writable" in checked
    done = in_namespaces(mount, "install-triton")
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("name another one with HERMES_TRITON_HOME")


def test_a_home_that_is_full_does_not_matter(triton_home: Path, tmp_path: Path) -> None:
    """A server, a pipeline and their logs need nothing of it."""
    home = tmp_path / "home"
    home.mkdir()
    models = write_model(tmp_path / "models", "double", DOUBLE, inputs={"x": ("FP32", [4])})
    write_input(tmp_path / "a.h5", rows=20)
    full = f"mount -t tmpfs -o size=64k none '{home}'; head -c 1M /dev/zero > '{home}/all' || :"
    validate = [
        *("Predict", f"--file={tmp_path / 'a.h5'}", f"--predictions={tmp_path / 'out.h5'}"),
        *(f"--model-repository={models}", "--model-name=double", '--input-map={"x": "x"}'),
    ]
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-ec", f'{full}; exec "$@"', "sh"),
            *(sys.executable, "-m", "luigi", "--module=workflows.validate", *validate),
            "--local-scheduler",
        ],
        env={**os.environ, "HOME": str(home), "HERMES_TRITON_HOME": str(triton_home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.h5").exists()


def test_the_server_of_another_namespace_is_left_alone(triton_home: Path, tmp_path: Path) -> None:
    """Two hosts that share the directory with the state of servers have a server each."""
    write_model(tmp_path / "models", "double", DOUBLE)
    serve = [sys.executable, "-m", "hermes", "serve", str(tmp_path / "models"), "--ports=auto"]
    environment = {**os.environ, "HERMES_STATE_HOME": str(tmp_path / "state")}
    state = state_home(environment)

    def directories() -> set[Path]:
        return {path for path in state.iterdir() if path.is_dir()}

    @contextmanager
    def served(name: str, end: signal.Signals, *prefix: str) -> Iterator[Endpoint]:
        file = tmp_path / name
        command = [*prefix, *serve, f"--endpoint-file={file}"]
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            wait_until(file.exists, 60)
            yield Endpoint.read(file)
        finally:
            process.send_signal(end)
            process.wait(30)

    in_namespaces = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    with served("there", signal.SIGKILL, *in_namespaces) as there:
        (theirs,) = directories()
        with served("here", signal.SIGTERM):
            assert len(directories()) == 2
        assert there.is_reachable()
    # All of that namespace's processes were killed at once.
    wait_until(lambda: not there.is_reachable())
    with served("here", signal.SIGTERM):
        assert len(directories()) == 2
    assert directories() == {theirs}
    shutil.rmtree(state)
    for region in Path("/dev/shm").glob(f"{theirs.name}-*"):
        region.unlink()


def test_the_address_of_the_default_route_is_the_hosts(tmp_path: Path) -> None:
    """Not that of a bridge, such as one to containers, though it comes first in the alphabet."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost somewhere\n")
    set_up = f"""
        mount --bind '{hosts}' /etc/hosts
        hostname somewhere
        ip link add bridge type bridge
        ip link add eth0 type veth peer name other
        ip address add 10.1.1.1/24 dev bridge
        ip address add 192.168.7.2/24 dev eth0
        for name in bridge eth0 other; do ip link set $name up; done
        ip route add default via 192.168.7.1"""
    program = "from hermes.aeriel._credentials import reachable_name; print(reachable_name())"
    done = subprocess.run(
        [
            *("unshare", "--net", "--uts", "--mount", "sh", "-ec", f'{set_up}; exec "$@"', "sh"),
            *(sys.executable, "-c", program),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "192.168.7.2\n"
