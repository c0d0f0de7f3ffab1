"""The addresses of a server's services: ``host:port``, or ``unix:PATH`` of a socket."""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
from contextlib import closing
from typing import Literal

CONNECT_S = 5.0
PROTOCOL_TIMEOUT_S = 2.0

_UNIX = "unix:"
_TCP = re.compile(r"[^/\s]+:[0-9]{1,5}")


def is_address(text: str) -> bool:
    """Return whether a text has the form of an address."""
    return len(text) > len(_UNIX) if is_unix(text) else _TCP.fullmatch(text) is not None


def is_unix(address: str) -> bool:
    """Return whether an address is that of a Unix socket."""
    return address.startswith(_UNIX)


def is_this_host(address: str) -> bool:
    """Return whether an address belongs to this host: a socket can be bound to it."""
    return is_unix(address) or any(map(_is_own, _resolved(address)))


def is_only_here(address: str) -> bool:
    """Tell whether other hosts cannot mean this host by an address, as far as this host knows."""
    # An address that this host cannot resolve others cannot either.
    return is_unix(address) or all(
        ipaddress.ip_address(each).is_loopback for each in _resolved(address)
    )


def usual_http(grpc: str) -> str | None:
    """Return the usual HTTP address for a GRPC address; None where there is no convention.

    It is the port below, as 8000 is below 8001, or the socket ``h`` beside ``g:PORT``.
    """
    if is_unix(grpc):
        directory, _, name = grpc.rpartition("/")
        return f"{directory}/h" if directory and name.startswith("g:") else None
    host, _, port = grpc.rpartition(":")
    return f"{host}:{int(port) - 1}" if int(port) > 1 else None


def http_host(address: str) -> str:
    """Return the ``Host`` field of a request to an HTTP service."""
    return "localhost" if is_unix(address) else address


def connect(address: str, timeout_s: float) -> socket.socket:
    """Return a connection; each of its operations times out after `timeout_s` seconds.

    Raises
    ------
    OSError
        The address cannot be connected to.
    """
    if not is_unix(address):
        connection = socket.create_connection(_split(address), timeout=timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(address.removeprefix(_UNIX))
    except BaseException:
        connection.close()
        raise
    return connection


def listens(address: str) -> bool:
    """Return whether something listens at an address."""
    try:
        connect(address, CONNECT_S).close()
    except OSError:
        return False
    return True


def other_protocol(address: str) -> Literal["HTTP/1", "TLS"] | None:
    """Return what a service speaks in place of plain GRPC, if it is one of these."""
    try:
        with closing(http_connection(address, PROTOCOL_TIMEOUT_S)) as connection:
            connection.request("GET", "/v2/health/live")
            connection.getresponse()
    except TimeoutError:  # it waits for more, or hangs
        return None
    except (OSError, http.client.HTTPException):
        return "TLS" if _speaks_tls(address) else None
    return "HTTP/1"


def _speaks_tls(address: str) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent
    try:
        with closing(connect(address, PROTOCOL_TIMEOUT_S)) as connection:
            context.wrap_socket(connection).close()
    except OSError:
        return False
    return True


def http_connection(address: str, timeout_s: float) -> http.client.HTTPConnection:
    """Return a connection to an HTTP service, which the first request opens.

    Unlike `urllib.request` it does not use the proxies of the environment.
    """
    return _HTTPConnection(address, timeout_s)


class _HTTPConnection(http.client.HTTPConnection):
    def __init__(self, address: str, timeout_s: float) -> None:
        super().__init__(http_host(address), timeout=timeout_s)
        self._address = address
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = connect(self._address, self._timeout_s)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _resolved(address: str) -> list[str]:
    """Return the IP addresses of an address's host; none where it cannot be resolved."""
    try:
        found = socket.getaddrinfo(_split(address)[0], 0, type=socket.SOCK_DGRAM)
    except OSError:
        return []
    return [str(name[0]) for *_, name in found]


def _is_own(host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True
