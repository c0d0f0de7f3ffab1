"""Two users on one host, one of them hostile: what the second one tries, and what he gets.

Root plays the first, `nobody` the second, who has nothing but Python's standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes._directory import ServerDirectory, new_server_id, state_home
from hermes._processes import SHARED_MEMORY, ProcessIdentity
from hermes._shared_memory import sweep_regions
from hermes.aeriel.client import InferenceClient
from hermes.aeriel.serve import TritonInstance, serve
from hermes.errors import ParameterError
from tests.helpers import DOUBLE, remains, server_pid, write_model

pytestmark = pytest.mark.root

NOBODY = 65534
TRIES = """
import json, os, socket, sys, urllib.request

def attempt(what, argument):
    match what:
        case "connect":
            socket.socket(socket.AF_UNIX).connect(argument)
        case "connect to a port":
            socket.create_connection(("127.0.0.1", argument))
        case "list":
            os.listdir(argument)
        case "read":
            open(argument, "rb").read(1)
        case "write":
            open(argument, "r+b")
        case "remove":
            os.unlink(argument)
        case "plant":
            open(os.path.join(argument, "planted"), "w")
        case "kill":
            os.kill(argument, 9)
        case "make":
            os.mkdir(argument)
        case "link":
            os.symlink("/etc", argument)
        case "region":
            open(argument, "wb").write(b"x" * 64)
        case "post":
            url, body = argument
            urllib.request.urlopen(url, json.dumps(body).encode(), timeout=10).read()

def result(what, argument):
    try:
        attempt(what, argument)
    except OSError as error:
        return type(error).__name__
    return "done"

print(json.dumps([result(*each) for each in json.loads(sys.argv[1])]))
"""


def tries(*attempts: tuple[str, object]) -> list[str]:
    """Return what the second user gets: ``done``, or the name of an exception."""
    texts = [(what, str(a) if isinstance(a, Path) else a) for what, a in attempts]
    done = subprocess.run(
        [debian_python(), "-I", "-c", TRIES, json.dumps(texts)],
        **as_nobody(),
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[str] = json.loads(done.stdout)
    return found


def as_nobody() -> dict[str, Any]:
    return {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/"}


def debian_python() -> str:
    """A Python that everybody can read; that of the tests may be root's alone."""
    python = shutil.which("python3", path="/usr/bin:/bin")
    assert python is not None
    return python


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for temporary files that both users write to, as /tmp is."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        directory = Path(made)
        directory.chmod(0o1777)
        monkeypatch.setenv("TMPDIR", made)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield directory


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_model(tmp_path / "models", "double", DOUBLE)


@contextlib.contextmanager
def in_use(instance: TritonInstance) -> Iterator[None]:
    """Have a client in the middle of a stream, which shares memory with the server."""
    batches = [{"x": np.zeros((8, 1), np.float32)}] * 40
    with InferenceClient(instance.endpoint, "double", transport="shm") as client:
        results = client.stream(batches)
        next(results)
        yield
        assert len(list(results)) == len(batches) - 1


def sockets(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.is_socket()]


def test_a_server_on_sockets(triton_home: Path, repository: Path, shared: Path) -> None:
    with serve(repository, listen="unix", wait=True) as instance, in_use(instance):
        server_id = str(instance.endpoint.server_id)
        directory = state_home() / server_id
        assert directory.is_relative_to(shared)
        assert len(sockets(directory)) == 3
        regions = [path for path in SHARED_MEMORY.iterdir() if is_of(path, server_id)]
        assert regions  # of the Python backend; a client unlinks its own once the server has it
        attempts: list[tuple[str, object]] = [
            *(("connect", path) for path in sockets(directory)),
            *(("list", path) for path in (directory, directory.parent)),
            *(("plant", path) for path in (directory, directory.parent)),
            *(("read", path) for path in directory.iterdir() if path.is_file()),
            *((what, path) for path in regions for what in ("read", "write", "remove")),
            ("kill", server_pid(server_id)),
        ]
        assert set(tries(*attempts)) == {"PermissionError"}
    assert remains(server_id) == []


def is_of(region: Path, server_id: str) -> bool:
    return region.name.startswith((f"{server_id}-", f"hermes-shm-{os.getpid()}-"))


def test_what_bears_our_names_and_is_not_ours(
    triton_home: Path, repository: Path, shared: Path
) -> None:
    """His processes and regions neither stop the clean-up, nor are they touched by it."""
    with serve(repository, listen="unix", wait=True) as instance:
        server_id = str(instance.endpoint.server_id)
        planted = [
            SHARED_MEMORY / f"{server_id}-planted",
            SHARED_MEMORY / f"hermes-shm-1-1-{server_id}-planted",
        ]
        pretender = subprocess.Popen(
            [debian_python(), "-c", "import time; time.sleep(600)", f"--id={server_id}"],
            **as_nobody(),
        )
        try:
            assert set(tries(*(("region", path) for path in planted))) == {"done"}
            instance.stop()
            sweep_regions()
            assert pretender.poll() is None
            assert all(path.exists() for path in planted)
        finally:
            pretender.kill()
            pretender.wait()
            for path in planted:
                path.unlink(missing_ok=True)


@pytest.mark.parametrize("what", ["make", "link", "region"])
def test_a_state_home_that_he_made_first(what: str, repository: Path, shared: Path) -> None:
    home = state_home()
    assert tries((what, home)) == ["done"]
    with (
        pytest.raises(ParameterError, match="HERMES_STATE_HOME"),
        serve(repository, listen="unix"),
    ):
        pass


def test_a_server_s_directory_that_he_made_first(shared: Path) -> None:
    """He cannot even where the home is ours; where he could, it is not believed."""
    directory = ServerDirectory(state_home() / new_server_id())
    directory.path.mkdir(parents=True)
    directory.path.parent.chmod(0o700)
    assert tries(("plant", directory.path), ("make", directory.path.parent / "hermes-1")) == [
        "PermissionError",
        "PermissionError",
    ]
    os.chown(directory.path, NOBODY, NOBODY)
    assert directory.path not in [found.path for found in ServerDirectory.all(state_home())]
    with pytest.raises(ParameterError, match="not a directory of this user"):
        directory.set_owner(ProcessIdentity.of(os.getpid()))


def test_a_server_on_a_port_is_everybody_s(
    triton_home: Path, repository: Path, shared: Path
) -> None:
    """What `hermes check` and the docs say of loopback TCP is so."""
    with serve(repository, ports="auto", wait=True) as instance, in_use(instance):
        port = int(str(instance.endpoint.grpc).rpartition(":")[2])
        server = f"http://{instance.endpoint.http}/v2"
        status = f"http://{instance.endpoint.http}/v2/systemsharedmemory/status"
        with urllib.request.urlopen(status) as answer:
            regions = [str(region["name"]) for region in json.loads(answer.read())]
        assert all(name.startswith(f"hermes-shm-{os.getpid()}-") for name in regions)
        x = {"name": "x", "shape": [1, 1], "datatype": "FP32"}
        of_the_client = {
            **x,
            "parameters": {"shared_memory_region": regions[0], "shared_memory_byte_size": 4},
        }
        planted = f"hermes-test-{os.getpid()}-planted"
        register = f"{server}/systemsharedmemory/region/{planted}"
        own = {"key": f"/{planted}", "offset": 0, "byte_size": 64}
        try:
            assert (
                tries(
                    ("connect to a port", port),
                    ("post", (f"{server}/models/double/infer", {"inputs": [{**x, "data": [1]}]})),
                    ("post", (f"{server}/models/double/infer", {"inputs": [of_the_client]})),
                    ("region", SHARED_MEMORY / planted),
                    ("post", (f"{register}/register", own)),
                    ("post", (f"{register}/unregister", {})),
                )
                == ["done"] * 6
            )
        finally:
            (SHARED_MEMORY / planted).unlink(missing_ok=True)
