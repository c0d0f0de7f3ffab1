"""The transports by name, and which one a client takes."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hermes.aeriel._addresses import is_this_host, usual_http
from hermes.aeriel.client._connection import Connection
from hermes.aeriel.client._grpc_carrier import GrpcCarrier
from hermes.aeriel.client._http_carrier import HttpCarrier
from hermes.aeriel.client._inline import InlineTransport
from hermes.aeriel.client._shared import SharedMemoryTransport
from hermes.aeriel.client._specification import ModelSpecification, ServerFacts
from hermes.aeriel.client._transports import Transport
from hermes.aeriel.endpoint import Endpoint
from hermes.errors import InferenceError, ParameterError

logger = logging.getLogger(__name__)


class TransportUnavailableError(Exception):
    """A transport cannot be used with this server, or on this host.

    Parameters
    ----------
    reason
        Why.
    is_surprising
        Whether the user should know when another transport is used in its place.
    """

    def __init__(self, reason: str, *, is_surprising: bool = False) -> None:
        super().__init__(reason)
        self.is_surprising = is_surprising


@dataclass(frozen=True, kw_only=True)
class ServerAccess:
    """What a transport needs: the server, its model, and the channel to it.

    Attributes
    ----------
    endpoint
        Where the server listens.
    connection
        The gRPC channel; `connection.error` returns an error for a gRPC status and a reason.
    specification, model_version, outputs
        The model, and the outputs to ask for; none for all.
    server
        The server's metadata.
    """

    endpoint: Endpoint
    connection: Connection
    specification: ModelSpecification
    model_version: str
    outputs: Sequence[str]
    server: ServerFacts

    def inline(
        self, *, grpc: GrpcCarrier | None = None, http: HttpCarrier | None = None
    ) -> InlineTransport:
        """Return a transport whose requests hold their tensors, on these carriers."""
        return InlineTransport(
            self.connection,
            self.specification,
            model_version=self.model_version,
            outputs=self.outputs,
            grpc=grpc or GrpcCarrier(self.connection.channel, self.connection.error),
            http=http,
        )

    @functools.cached_property
    def http(self) -> HttpCarrier | str:
        """The server's HTTP service, or why it cannot be used."""
        if self.endpoint.credentials is not None:
            return "its clients need a certificate, which Triton supports over gRPC only"
        if self.endpoint.http is None:
            return "its HTTP address is not known; pass an Endpoint with http"
        carrier = HttpCarrier(self.endpoint.http, self.connection.error)
        if not carrier.is_server(self.server.name):
            return f"{self.endpoint.http} does not answer as this server"
        return carrier


def _grpc(access: ServerAccess) -> Transport:
    return access.inline()


def _http(access: ServerAccess) -> Transport:
    if isinstance(access.http, str):
        message = f"no HTTP with the server at {access.endpoint.grpc}: {access.http}"
        raise TransportUnavailableError(message)
    return access.inline(http=access.http)


def _shared_memory(access: ServerAccess) -> Transport:
    nowhere = f"no shared memory with the server at {access.endpoint.grpc}"
    if not is_this_host(access.endpoint.grpc):
        raise TransportUnavailableError(f"{nowhere}: it is not on this host")
    if "system_shared_memory" not in access.server.extensions:
        raise TransportUnavailableError(f"{nowhere}: it does not support system shared memory")
    http = access.http if isinstance(access.http, HttpCarrier) else None
    try:
        return SharedMemoryTransport(access.inline(http=http), http or _usual_http(access))
    except InferenceError as error:
        raise TransportUnavailableError(f"{nowhere}: {error}") from error
    except OSError as error:
        message = f"no shared memory on this host: {error}"
        raise TransportUnavailableError(message, is_surprising=True) from error


def _usual_http(access: ServerAccess) -> HttpCarrier | None:
    """Return the HTTP service at Triton's default address.

    The caller has to check that it is the same server: it has to know the same shared memory.
    """
    if access.endpoint.credentials is not None or access.endpoint.http is not None:
        return None
    address = usual_http(access.endpoint.grpc)
    return None if address is None else HttpCarrier(address, access.connection.error)


# Each transport by its name. hermes.aeriel._options.TransportName lists the names for the command
# line and for type checkers.
TRANSPORTS: dict[str, Callable[[ServerAccess], Transport]] = {
    "grpc": _grpc,
    "http": _http,
    "shm": _shared_memory,
}
# What "auto" tries before gRPC, which always works: the fastest first.
FASTER = ("shm", "http")


def open_transport(name: str, access: ServerAccess) -> Transport:
    """Return the transport of this name; ``"auto"`` is the fastest that works.

    Raises
    ------
    ParameterError
        There is no such transport, or it does not work with this server.
    """
    if name == "auto":
        for faster in FASTER:
            try:
                return TRANSPORTS[faster](access)
            except TransportUnavailableError as error:
                level = logging.WARNING if error.is_surprising else logging.DEBUG
                logger.log(level, "%s; the next fastest transport is tried", error)
        name = "grpc"
    if name not in TRANSPORTS:
        problem = f"{name!r} is none of {', '.join(map(repr, ('auto', *TRANSPORTS)))}"
        raise ParameterError("transport", problem)
    try:
        return TRANSPORTS[name](access)
    except TransportUnavailableError as error:
        raise ParameterError("transport", str(error)) from error
