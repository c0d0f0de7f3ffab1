"""Which of several servers the client in a job uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.jobs._client_server import ClientServer
from hermes.aeriel.jobs._files import RunDirectory
from hermes.errors import ServerTimeoutError
from tests.helpers import listening


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path)


@pytest.fixture
def endpoints() -> Iterator[list[Endpoint]]:
    """Where three servers listen."""
    with ExitStack() as stack:
        ports = [stack.enter_context(listening()) for _ in range(3)]
        yield [Endpoint(grpc=f"127.0.0.1:{port}") for port in ports]


def test_its_own_while_that_is_ready(run: RunDirectory, endpoints: list[Endpoint]) -> None:
    for number, endpoint in enumerate(endpoints):
        endpoint.write(run.endpoint(number))
    for number, endpoint in enumerate(endpoints):
        server = ClientServer(run, number, 5, wait_s=0)
        assert server.endpoint == endpoint
        assert not server.own_has_come_back()


def test_the_clients_of_a_lost_one_spread(run: RunDirectory, endpoints: list[Endpoint]) -> None:
    for number in (1, 2):
        endpoints[number].write(run.endpoint(number))
    clients = [ClientServer(run, 0, job, wait_s=0) for job in range(4)]
    assert [client.endpoint for client in clients] == [*endpoints[1:], *endpoints[1:]]
    assert not clients[0].own_has_come_back()
    endpoints[0].write(run.endpoint(0))
    assert clients[0].own_has_come_back()
    assert clients[0].endpoint == endpoints[0]


def test_one_that_cannot_be_reached_is_passed_over(
    run: RunDirectory, endpoints: list[Endpoint]
) -> None:
    with listening() as port:
        dead = Endpoint(grpc=f"127.0.0.1:{port}")
    dead.write(run.endpoint(0))  # its job was killed, and the driver has not seen it yet
    server = ClientServer(run, 0, 0, wait_s=0)
    assert server.endpoint == dead  # there is no other one
    endpoints[1].write(run.endpoint(1))
    assert server.endpoint == endpoints[1]


def test_a_server_that_has_gone_is_not_the_current_one(
    run: RunDirectory, endpoints: list[Endpoint]
) -> None:
    server = ClientServer(run, 0, 0, wait_s=0.1)
    assert server.current() is None
    with pytest.raises(ServerTimeoutError, match=r"endpoint-0\.json was not ready after 0\.1 s"):
        server.endpoint  # noqa: B018 (a property)
    endpoints[0].write(run.endpoint(0))
    assert server.endpoint == endpoints[0]
    endpoints[1].write(run.endpoint(0))  # it has come back elsewhere
    assert server.current() is None
