"""The ports of a server: given, or found."""

from __future__ import annotations

import errno
import ipaddress
import secrets
import socket
from contextlib import ExitStack
from dataclasses import dataclass

from hermes.errors import ParameterError, PortInUseError

UNIX = "unix"


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The three ports of a Triton server, with Triton's own defaults."""

    grpc: int = 8001
    http: int = 8000
    metrics: int = 8002

    def __post_init__(self) -> None:
        for service, port in vars(self).items():
            if not isinstance(port, int) or not 0 < port < 65536:
                raise ParameterError("ports", f"{service}: {port!r} is not between 1 and 65535")
        if len(set(vars(self).values())) < 3:
            raise ParameterError("ports", f"{self} names a port twice")


def check_listen(listen: str) -> str:
    """Return the address to listen on in Triton's form, or ``unix``.

    Raises
    ------
    ParameterError
        The text is neither an IP address nor ``unix``.
    """
    if listen == UNIX:
        return UNIX
    if listen == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(listen))
    except ValueError:
        # Triton's HTTP service takes a name for 255.255.255.255, without an error.
        raise ParameterError("listen", f"{listen!r} is neither an IP address nor unix") from None


def free_ports(host: str) -> Ports:
    """Return three ports that no process listens on."""
    with ExitStack() as stack:  # held together, so that they differ
        held = [stack.enter_context(_bound(host, 0)) for _ in range(3)]
        grpc, http, metrics = (listener.getsockname()[1] for listener in held)
    return Ports(grpc=grpc, http=http, metrics=metrics)


def socket_ports() -> Ports:
    """Return numbers for the names of sockets; they differ at each start, which clients notice."""
    return Ports(grpc=1024 + secrets.randbelow(60_000), http=1, metrics=2)


def host_and_port(host: str, port: int) -> str:
    """Return the address of a port, with the brackets of an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_free(host: str, port: int, service: str) -> None:
    """Check that a server can listen on a port.

    Raises
    ------
    PortInUseError
        Another process listens on it.
    ParameterError
        This machine does not have the address, or this user may not use the port.
    """
    address = host_and_port(host, port)
    try:
        _bound(host, port).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(address=address, service=service) from error
        raise ParameterError("listen", f"cannot listen on {address}: {error}") from error


def _bound(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    # A connection of an earlier server in TIME_WAIT does not prevent the use of a port.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener
