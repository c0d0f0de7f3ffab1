"""Which transport a client takes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import get_args

from hermes.aeriel._addresses import is_this_host, usual_http
from hermes.aeriel._options import TransportName
from hermes.aeriel.client._connection import Connection, ServerFacts
from hermes.aeriel.client._http_carrier import HttpCarrier
from hermes.aeriel.client._shared import SharedMemoryTransport
from hermes.aeriel.client._specification import ModelSpecification
from hermes.aeriel.client._transports import InlineTransport, Transport
from hermes.aeriel.endpoint import Endpoint
from hermes.errors import InferenceError, ParameterError

logger = logging.getLogger(__name__)


def open_transport(
    choice: TransportName,
    endpoint: Endpoint,
    connection: Connection,
    specification: ModelSpecification,
    *,
    model_version: str,
    outputs: Sequence[str],
    server: ServerFacts,
) -> Transport:
    """Return the transport of this choice; ``"auto"`` is the fastest that works.

    Raises
    ------
    ParameterError
        There is no such transport, or one is insisted on that does not work.
    """
    if choice not in get_args(TransportName):
        problem = f"{choice!r} is none of {', '.join(map(repr, get_args(TransportName)))}"
        raise ParameterError("transport", problem)
    http = None
    if choice != "grpc":
        try:
            http = _http(endpoint, connection, server)
        except _UnavailableError as obstacle:
            if choice == "http":
                problem = f"no HTTP with the server at {endpoint.grpc}: {obstacle}"
                raise ParameterError("transport", problem) from None
    plain = InlineTransport(
        connection, specification, model_version=model_version, outputs=outputs, http=http
    )
    if choice not in {"auto", "shm"}:
        return plain
    try:
        _check_memory(endpoint, server)
        return SharedMemoryTransport(plain, http or _usual_http(endpoint, connection))
    except (_UnavailableError, InferenceError) as obstacle:
        problem = f"no shared memory with the server at {endpoint.grpc}: {obstacle}"
        level = logging.DEBUG
    except OSError as obstacle:  # it could be faster, if /dev/shm were as it is elsewhere
        problem = f"no shared memory on this host: {obstacle}"
        level = logging.WARNING
    if choice == "shm":
        raise ParameterError("transport", problem)
    logger.log(level, "%s; tensors are sent instead", problem)
    return plain


class _UnavailableError(Exception):
    """Why a transport cannot be had."""


def _http(endpoint: Endpoint, connection: Connection, server: ServerFacts) -> HttpCarrier:
    if endpoint.credentials is not None:
        # A server that asks for credentials does so on its GRPC service.
        message = "its clients need a certificate, which is asked for over GRPC"
        raise _UnavailableError(message)
    if endpoint.http is None:
        message = "its HTTP address is not known; give an Endpoint that has it"
        raise _UnavailableError(message)
    carrier = HttpCarrier(endpoint.http, connection.error)
    if not carrier.leads_to(server.name):
        message = f"{endpoint.http} does not lead to it"
        raise _UnavailableError(message)
    return carrier


def _usual_http(endpoint: Endpoint, connection: Connection) -> HttpCarrier | None:
    """Return the HTTP service where it usually is.

    Whether it is that of this server shows when it knows the same shared memory.
    """
    if endpoint.credentials is not None or endpoint.http is not None:
        return None
    address = usual_http(endpoint.grpc)
    return None if address is None else HttpCarrier(address, connection.error)


def _check_memory(endpoint: Endpoint, server: ServerFacts) -> None:
    if not is_this_host(endpoint.grpc):
        message = "it is not on this host"
        raise _UnavailableError(message)
    if "system_shared_memory" not in server.extensions:
        message = "it does not offer it"
        raise _UnavailableError(message)
