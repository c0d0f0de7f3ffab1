"""Servers that may come, and come back, while files go through their models."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from hermes.aeriel._addresses import is_address
from hermes.aeriel.endpoint import Endpoint
from hermes.errors import ServerError

POLL_S = 0.2


class Server(Protocol):
    """Where a server listens, asked for again after it was lost."""

    @property
    def endpoint(self) -> Endpoint:
        """Where the server listens; it waits for one that is being started again."""

    def current(self) -> Endpoint | None:
        """Return where the server listens just now, or None while it cannot be used."""

    def check_models(self) -> None:
        """Raise ServerError where the server may have other models than the result stands for."""

    def provenance(self) -> dict[str, str]:
        """Return what an output says of the server, besides its address."""


class NamedServer:
    """A server that somebody else runs.

    Parameters
    ----------
    server
        ``host:port`` or ``unix:PATH`` of its GRPC service, the path of an endpoint file, or the
        endpoint.
    wait_s
        Seconds to wait for the endpoint file, and for a server behind it.
    return_s
        The same for a server that was there before.
    """

    def __init__(
        self, server: str | Endpoint, *, wait_s: float = 0.0, return_s: float = 0.0
    ) -> None:
        self._server = server
        self._wait_s = wait_s
        self._return_s = return_s

    @property
    def endpoint(self) -> Endpoint:
        """Where the server listens.

        Raises
        ------
        ParameterError
            The server's name is neither an address nor the path of an endpoint file.
        ServerError
            The file did not come in time, or nothing listened where it says.
        """
        deadline = time.monotonic() + self._wait_s
        endpoint = None if self._wait_s else self._find()
        while endpoint is None and (endpoint := self.current()) is None:
            if time.monotonic() > deadline:
                problem = "nothing listens there" if self._is_there() else "there is no such file"
                # No ServerTimeoutError, after which it would be waited for again.
                message = f"no server came at {self._server} in {self._wait_s:g} s: {problem}"
                raise ServerError(message)
            time.sleep(POLL_S)
        self._wait_s = self._return_s
        return endpoint

    def current(self) -> Endpoint | None:
        """Return where the server listens, or None while nothing listens there."""
        if not self._is_there():
            return None
        endpoint = self._find()
        return endpoint if endpoint.is_reachable() else None

    def check_models(self) -> None:
        """Do nothing: the files of its models may be anywhere."""

    def provenance(self) -> dict[str, str]:
        """Return nothing: only the address is known."""
        return {}

    def _is_there(self) -> bool:
        server = self._server
        return isinstance(server, Endpoint) or is_address(server) or Path(server).exists()

    def _find(self) -> Endpoint:
        server = self._server
        return server if isinstance(server, Endpoint) else Endpoint.of(server)
