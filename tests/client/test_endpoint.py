"""An endpoint is addresses, and a file that holds none is told in a sentence."""

from __future__ import annotations

import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes.aeriel._addresses import http_connection, is_this_host, usual_http
from hermes.aeriel.endpoint import ClientCredentials, Endpoint
from hermes.errors import ParameterError
from tests.unix import socket_directory

SOCKETS = Endpoint(grpc="unix:/a b/g:8001", http="unix:/a b/h", metrics="unix:/a b/m")
WITH_CREDENTIALS = Endpoint(
    grpc="host:1", credentials=ClientCredentials(root="r", certificate="c", key="k")
)


@pytest.mark.parametrize("endpoint", [SOCKETS, WITH_CREDENTIALS, Endpoint(grpc="[::1]:8001")])
def test_is_read_as_it_was_written(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.write(tmp_path / "e")
    assert Endpoint.read(tmp_path / "e") == endpoint
    assert stat.S_IMODE((tmp_path / "e").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not JSON"),
        ("[1, 2]", "not a JSON object"),
        ("3", "not a JSON object"),
        ("null", "not a JSON object"),
        ("[" * 100_000, "is not JSON"),
        ('{"grpc": ' * 100_000, "is not JSON"),
        ("{}", "has no 'grpc'"),
        ('{"grpc": null}', "has a value of 'grpc' that is not a text"),
        ('{"grpc": 8001}', "has a value of 'grpc' that is not a text"),
        ('{"grpc": "localhost"}', "'localhost' is not an address"),
        ('{"grpc": "http://localhost:8001"}', "is not an address"),
        ('{"grpc": "unix:"}', "is not an address"),
        ('{"grpc": "a:1", "http": ["a:2"]}', "has a value of 'http' that is not a text"),
        ('{"grpc": "a:1", "http": "a"}', "'a' is not an address"),
        ('{"grpc": "a:1", "gprc": "a:2"}', "has an unknown field 'gprc'"),
        ('{"grpc": "a:1", "credentials": 3}', "credentials is not a JSON object"),
        ('{"grpc": "a:1", "credentials": {"root": "r"}}', "credentials has no 'certificate'"),
    ],
)
def test_file_that_holds_none_is_a_sentence(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "endpoint.json"
    path.write_text(text)
    with pytest.raises(ParameterError) as told:
        Endpoint.read(path)
    assert str(path) in str(told.value)
    assert problem in str(told.value)
    assert "\n" not in str(told.value)
    with pytest.raises(ParameterError):
        Endpoint.from_json(text)


def test_file_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Endpoint.read(tmp_path / "none")
    with pytest.raises(ParameterError, match=r"cannot read .*: Is a directory"):
        Endpoint.read(tmp_path)
    with pytest.raises(ParameterError, match=r"is a directory, and neither .* --models"):
        Endpoint.of(str(tmp_path))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(ParameterError, match="is not text"):
        Endpoint.read(tmp_path / "bytes")


@pytest.mark.parametrize(
    ("grpc", "http"),
    [
        ("localhost:8001", "localhost:8000"),
        ("[::1]:9001", "[::1]:9000"),
        ("unix:/tmp/hermes-0/x/g:8001", "unix:/tmp/hermes-0/x/h"),
        ("unix:/tmp/other:8001", None),
        ("unix:g:8001", None),
    ],
)
def test_http_is_looked_for_where_it_usually_is(grpc: str, http: str | None) -> None:
    assert usual_http(grpc) == http


def test_sockets_are_on_this_host() -> None:
    assert is_this_host("unix:/anything")
    assert is_this_host("localhost:1")
    assert not is_this_host("192.0.2.1:1")


@pytest.fixture(params=["tcp", "unix"])
def listener(request: pytest.FixtureRequest) -> Iterator[tuple[str, socket.socket]]:
    if request.param == "tcp":
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield f"127.0.0.1:{server.getsockname()[1]}", server
        return
    with socket_directory() as directory, socket.socket(socket.AF_UNIX) as server:
        server.bind(str(directory / "h"))
        server.listen()
        yield f"unix:{directory}/h", server


def test_http_is_spoken_to_ports_and_to_sockets(
    listener: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, server = listener
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    asked: list[bytes] = []

    def answer() -> None:
        with server.accept()[0] as connection:
            asked.append(connection.recv(1000))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    thread = threading.Thread(target=answer)
    thread.start()
    connection = http_connection(address, 5.0)
    try:
        connection.request("GET", "/metrics")
        assert connection.getresponse().read() == b"ok"
    finally:
        connection.close()
        thread.join()
    host = b"localhost" if address.startswith("unix:") else address.encode()
    assert b"Host: " + host + b"\r\n" in asked[0]


def test_path_that_is_too_long_for_a_socket_is_an_error(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/{'x' * 107}"
    with pytest.raises(OSError, match="too long"):
        http_connection(address, 5.0).request("GET", "/")
