from __future__ import annotations

import socket

import pytest

from hermes.aeriel.serve import Ports
from hermes.aeriel.serve._ports import check_free, check_listen, free_ports
from hermes.errors import ParameterError, PortInUseError
from tests.helpers import listening


def test_defaults_are_those_of_triton() -> None:
    assert Ports() == Ports(grpc=8001, http=8000, metrics=8002)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])  # noqa: S104 (nobody answers)
def test_free_ports_differ_and_can_be_listened_on(host: str) -> None:
    ports = free_ports(host)
    assert len({ports.grpc, ports.http, ports.metrics}) == 3
    for service in ("grpc", "http", "metrics"):
        check_free(host, getattr(ports, service), service)


def test_taken_port_is_told_with_its_service_and_address() -> None:
    with listening() as port, pytest.raises(PortInUseError) as caught:
        check_free("127.0.0.1", port, "metrics")
    assert caught.value.address == f"127.0.0.1:{port}"
    assert caught.value.service == "metrics"


def test_port_of_a_connection_that_was_closed_a_moment_ago_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()  # this side closes first, and is in TIME_WAIT afterwards
    check_free("127.0.0.1", port, "grpc")


@pytest.mark.parametrize("port", [0, -1, 65536, "8001", 8001.0, None])
def test_what_is_no_port_is_refused(port: object) -> None:
    with pytest.raises(ParameterError, match="ports: http: "):
        Ports(http=port)  # type: ignore[arg-type]


def test_one_port_for_two_services_is_refused() -> None:
    with pytest.raises(ParameterError, match="names a port twice"):
        Ports(grpc=8000)


def test_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"cannot listen on 192\.0\.2\.1:8001"):
        check_free("192.0.2.1", 8001, "grpc")


@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0", "::1", "::"])  # noqa: S104 (as above)
def test_ip_address_is_taken_as_it_is(listen: str) -> None:
    assert check_listen(listen) == listen


def test_localhost_is_the_loopback_address() -> None:
    assert check_listen("localhost") == "127.0.0.1"


@pytest.mark.parametrize("listen", ["", "node7", "127.0.0.1:8001", "127.1", "*"])
def test_what_is_no_ip_address_is_refused(listen: str) -> None:
    with pytest.raises(ParameterError, match=r"listen: .* is neither an IP address nor unix"):
        check_listen(listen)
