"""Which transport a client takes."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from typing import Literal

from hermes.aeriel.client._connection import Connection
from hermes.aeriel.client._shared import SharedMemoryTransport
from hermes.aeriel.client._specification import ModelSpecification
from hermes.aeriel.client._transports import InlineTransport, Transport
from hermes.aeriel.endpoint import Endpoint
from hermes.errors import InferenceError, ParameterError

logger = logging.getLogger(__name__)

TransportName = Literal["auto", "grpc", "shm"]


def open_transport(
    choice: TransportName,
    endpoint: Endpoint,
    connection: Connection,
    specification: ModelSpecification,
    *,
    model_version: str,
    outputs: Sequence[str],
    extensions: frozenset[str],
) -> Transport:
    """Return the transport of this choice; ``"auto"`` is shared memory where that works.

    Raises
    ------
    ParameterError
        There is no such transport, or shared memory is insisted on and does not work.
    """
    if choice not in {"auto", "grpc", "shm"}:
        raise ParameterError("transport", f"{choice!r} is none of 'auto', 'grpc' and 'shm'")
    plain = InlineTransport(connection, specification, model_version=model_version, outputs=outputs)
    if choice == "grpc":
        return plain
    try:
        problem = _obstacle(endpoint, extensions)
        if problem is None:
            # A server that asks for credentials does so on its GRPC service.
            return SharedMemoryTransport(plain, None if endpoint.credentials else endpoint.http)
    except (InferenceError, OSError) as error:
        problem = str(error)
    problem = f"no shared memory with the server at {endpoint.grpc}: {problem}"
    if choice == "shm":
        raise ParameterError("transport", problem)
    logger.debug(problem)
    return plain


def is_this_host(address: str) -> bool:
    """Tell whether ``host:port`` is an address of this host: whether a socket can have it."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    return any(_is_own(family, str(name[0])) for family, *_, name in found)


def _obstacle(endpoint: Endpoint, extensions: frozenset[str]) -> str | None:
    if not is_this_host(endpoint.grpc):
        return "it is not on this host"
    if "system_shared_memory" not in extensions:
        return "it does not offer it"
    return None


def _is_own(family: int, host: str) -> bool:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True
