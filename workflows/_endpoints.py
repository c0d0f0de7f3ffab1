"""Where a server listens, as the targets of the tasks that stand for servers."""

from __future__ import annotations

import logging

import luigi

from hermes.aeriel.endpoint import Endpoint
from hermes.errors import ParameterError

logger = logging.getLogger(__name__)


class EndpointTarget(luigi.Target):
    """Where a server listens, for the tasks that require it; it exists while the server is usable.

    `InferenceTask` takes any task whose output is one.
    """

    def exists(self) -> bool:
        """Tell whether the server can be used just now."""
        return self.current() is not None

    @property
    def endpoint(self) -> Endpoint:
        """Where the server listens.

        Raises
        ------
        ServerError
            It cannot be used.
        """
        raise NotImplementedError

    def current(self) -> Endpoint | None:
        """Return where the server listens just now, or None while it cannot be used."""
        raise NotImplementedError

    def model_stamp(self, model_name: str, model_version: str) -> str:
        """Return what changes when a model of the server does."""
        raise NotImplementedError

    def check_models(self) -> None:
        """Raise ServerError where the server may have loaded other models than the stamp is of."""

    def provenance(self) -> dict[str, str]:
        """Return what an output says of the server, besides its address."""
        return {}


class ExternalEndpoint(EndpointTarget):
    """The endpoint of a server that somebody else runs.

    Parameters
    ----------
    server
        ``host:port`` or ``unix:PATH`` of its GRPC service, or an endpoint file.
    stamp
        Stands for its models.
    """

    def __init__(self, server: str, stamp: str) -> None:
        self._server = server
        self._stamp = stamp

    def __str__(self) -> str:
        return f"the server at {self._server}"

    @property
    def endpoint(self) -> Endpoint:
        """Where the server listens.

        Raises
        ------
        ParameterError
            That is neither an address nor an endpoint file.
        """
        return Endpoint.of(self._server)

    def current(self) -> Endpoint | None:
        """Return where the server listens, or None while nothing listens there."""
        try:
            endpoint = self.endpoint
        except ParameterError as error:
            logger.warning("%s", error)
            return None
        return endpoint if endpoint.is_reachable() else None

    def model_stamp(self, model_name: str, model_version: str) -> str:  # noqa: ARG002 (of all)
        """Return what was said to stand for the server's models."""
        return self._stamp
