"""Ports of a server: taken as told, or found."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass

from hermes.errors import PortInUseError


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The three ports of a Triton server, with Triton's own defaults."""

    grpc: int = 8001
    http: int = 8000
    metrics: int = 8002


def free_ports(host: str) -> Ports:
    """Return three ports that nobody listens on at the moment."""
    with ExitStack() as stack:  # held together, so that they differ
        held = [stack.enter_context(_bound(host, 0)) for _ in range(3)]
        grpc, http, metrics = (listener.getsockname()[1] for listener in held)
    return Ports(grpc=grpc, http=http, metrics=metrics)


def check_free(host: str, port: int, service: str) -> None:
    """Raise PortInUseError where somebody listens on the address already."""
    try:
        _bound(host, port).close()
    except OSError as error:
        raise PortInUseError(address=f"{host}:{port}", service=service) from error


def _bound(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    # A connection of an earlier server in TIME_WAIT is no reason to refuse a port.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener
