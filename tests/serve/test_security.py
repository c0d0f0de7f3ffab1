"""Nobody else gets in: loopback by default, mutual TLS beyond it, and files for their owner."""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from hermes._directory import ServerDirectory, new_server_id, state_home
from hermes._processes import ProcessIdentity
from hermes.aeriel._credentials import make_credentials
from hermes.aeriel.client import InferenceClient
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.serve import TritonInstance, serve
from hermes.aeriel.supervise import Lease, ServerSpec, ServerState, ensure_server
from hermes.errors import ParameterError, ServerTimeoutError
from tests.helpers import DOUBLE, python, wait_until, write_model

NOBODY = 65534
EVERYWHERE = "0.0.0.0"  # noqa: S104 (what is tested)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models"), "double", DOUBLE)


@pytest.fixture(scope="module")
def secured(repository: Path, triton_home: Path) -> Iterator[TritonInstance]:
    with serve(repository, listen=EVERYWHERE, ports="auto", wait=True) as instance:
        yield instance


def ask(endpoint: Endpoint | str) -> None:
    with InferenceClient(endpoint, "double", retry_for_s=1.0) as client:
        outputs = client.infer({"x": np.ones((1, 1), np.float32)}).result(timeout=10)
        assert outputs["y"].item() == 2


def with_host(endpoint: Endpoint, host: str) -> Endpoint:
    port = endpoint.grpc.rpartition(":")[2]
    return dataclasses.replace(endpoint, grpc=f"{host}:{port}")


def test_who_has_the_endpoint_gets_in(secured: TritonInstance, tmp_path: Path) -> None:
    ask(secured.endpoint)
    secured.endpoint.write(tmp_path / "endpoint.json")
    ask(Endpoint.read(tmp_path / "endpoint.json"))


def test_each_name_and_address_of_the_host_will_do(secured: TritonInstance) -> None:
    for host in ("127.0.0.1", "localhost", socket.gethostname()):
        ask(with_host(secured.endpoint, host))


def test_who_has_no_certificate_is_refused(secured: TritonInstance) -> None:
    with pytest.raises(ParameterError, match="asks for TLS; give the server's endpoint file"):
        ask(secured.endpoint.grpc)
    with pytest.raises(ParameterError, match=r"asks for a certificate .* its channel"):
        secured.endpoint.encode()
    assert secured.endpoint.credentials is not None
    root = grpc.ssl_channel_credentials(secured.endpoint.credentials.root.encode())
    with grpc.secure_channel(secured.endpoint.grpc, root) as channel:
        ready = grpc.channel_ready_future(channel)
        with pytest.raises(grpc.FutureTimeoutError):
            ready.result(timeout=2)
        ready.cancel()


def test_who_has_a_certificate_for_another_server_is_refused(
    secured: TritonInstance, tmp_path: Path
) -> None:
    other = make_credentials(tmp_path).client
    assert secured.endpoint.credentials is not None
    mixed = dataclasses.replace(other, root=secured.endpoint.credentials.root)
    with pytest.raises(ServerTimeoutError):
        ask(dataclasses.replace(secured.endpoint, credentials=mixed))
    with pytest.raises(ServerTimeoutError):  # nor is another server believed
        ask(dataclasses.replace(secured.endpoint, credentials=other))


def test_http_is_off_and_metrics_stay_on_loopback(secured: TritonInstance) -> None:
    assert secured.endpoint.http is None
    assert secured.endpoint.metrics is not None
    assert secured.endpoint.metrics.startswith("127.0.0.1:")
    port = secured.endpoint.metrics.rpartition(":")[2]
    listeners = subprocess.run(["ss", "-Hltn"], check=True, stdout=subprocess.PIPE, text=True)
    (line,) = [line for line in listeners.stdout.splitlines() if f":{port} " in line]
    assert f"127.0.0.1:{port}" in line


def test_keys_are_for_their_owner_and_go_with_the_server(
    repository: Path, triton_home: Path
) -> None:
    with serve(repository, listen=EVERYWHERE, ports="auto") as instance:
        directory = ServerDirectory(state_home() / instance.server_id).keys
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
        assert modes == {"server.key": 0o600, "server.crt": 0o600, "root.crt": 0o600}
        assert "PRIVATE" not in repr(instance.endpoint)
    assert not directory.exists()


OWNER = """
import sys, time
from hermes.aeriel.serve import serve
with serve(sys.argv[1], listen="0.0.0.0", ports="auto") as instance:
    time.sleep(60)
"""


@pytest.mark.parametrize("name", ["server.crt", "server.key", "root.crt"])
def test_keys_of_an_owner_go_whenever_it_is_killed(
    repository: Path, triton_home: Path, tmp_path: Path, name: str
) -> None:
    environment = {**os.environ, "HERMES_STATE_HOME": str(tmp_path / "state")}
    home = state_home(environment)
    with python(OWNER, repository, environment=environment) as owner:
        wait_until(lambda: list(home.glob(f"*/keys/{name}")), 20)
        owner.kill()
    wait_until(lambda: not home.exists())


def test_keys_of_a_supervised_server_are_in_its_directory(
    repository: Path, triton_home: Path
) -> None:
    spec = ServerSpec(model_repository=str(repository), listen=EVERYWHERE)
    state = ServerState.of(spec)
    me = ProcessIdentity.of(os.getpid())
    state.acquire(me, Lease(consumer="Consumer"))
    endpoint = ensure_server(spec, driver=me, timeout_s=90)
    ask(endpoint)
    files = sorted(path.name for path in state.keys.iterdir())
    assert files == ["root.crt", "server.crt", "server.key"]
    state.release_all(me)
    wait_until(lambda: not state.path.exists())


@pytest.mark.root
def test_an_endpoint_that_another_user_planted_is_not_believed(tmp_path: Path) -> None:
    me = ProcessIdentity.of(os.getpid())
    state = ServerState(tmp_path / "states" / new_server_id())
    state.acquire(me, Lease(consumer="Consumer"))
    state.set_owner(me)
    Endpoint(grpc="127.0.0.1:1").write(state.endpoint_file)
    assert state.endpoint() is not None
    os.chown(state.path, NOBODY, NOBODY)
    assert state.owner() is None
    assert state.endpoint() is None
    with pytest.raises(ParameterError, match="is not a directory of this user"):
        state.acquire(me, Lease(consumer="Another"))


def test_insecure_has_to_be_said(repository: Path, triton_home: Path) -> None:
    with serve(repository, listen=EVERYWHERE, insecure=True, ports="auto", wait=True) as instance:
        assert instance.endpoint.credentials is None
        ask(with_host(instance.endpoint, socket.gethostname()).grpc)


def test_the_flags_of_encryption_are_not_for_server_args(repository: Path) -> None:
    with (
        pytest.raises(ParameterError, match="grpc-use-ssl is set by listen and insecure"),
        serve(repository, server_args=["--grpc-use-ssl=false"]),
    ):
        pass


@pytest.mark.parametrize(
    ("mode", "who"), [(0o777, "every user of this machine"), (0o775, "all users of its group")]
)
def test_a_repository_that_others_can_write_is_a_warning(
    tmp_path: Path, triton_home: Path, caplog: pytest.LogCaptureFixture, mode: int, who: str
) -> None:
    write_model(tmp_path, "double", DOUBLE)
    tmp_path.chmod(mode)
    with caplog.at_level(logging.WARNING, logger="hermes"), serve(tmp_path, ports="auto"):
        pass
    assert any(
        record.message.startswith(who) and str(tmp_path) in record.message
        for record in caplog.records
    )
