"""Where a server listens, and what it takes to get in, as one value that fits into a file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grpc import Channel, insecure_channel, secure_channel, ssl_channel_credentials


@dataclass(frozen=True, kw_only=True)
class ClientCredentials:
    """What a client shows, and whom it believes, where a server asks for it (mutual TLS).

    Parameters
    ----------
    root
        PEM of the authority that the server's certificate has to come from.
    certificate, key
        PEM of the client's own certificate, and of its key.
    """

    root: str
    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """The addresses of one Triton server.

    Parameters
    ----------
    grpc
        ``host:port`` of the GRPC service.
    http, metrics
        ``host:port`` of the HTTP and of the metrics service, or None where it is off.
    server_id
        What the server calls itself (``--id``), so that a reader can tell it from another
        server that listens at the same address later. None where it is not known.
    credentials
        What a client needs where the server asks for mutual TLS; None for plain text.
    """

    grpc: str
    http: str | None = None
    metrics: str | None = None
    server_id: str | None = None
    credentials: ClientCredentials | None = field(default=None, repr=False)

    def channel(self, options: Sequence[tuple[str, Any]] = ()) -> Channel:
        """Return a new GRPC channel to the server, encrypted where the server asks for it."""
        if self.credentials is None:
            return insecure_channel(self.grpc, options=list(options))
        credentials = ssl_channel_credentials(
            self.credentials.root.encode(),
            self.credentials.key.encode(),
            self.credentials.certificate.encode(),
        )
        return secure_channel(self.grpc, credentials, options=list(options))

    def to_json(self) -> str:
        """Return the endpoint as a JSON object, for `from_json`; credentials included."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Endpoint:
        """Return the endpoint that `to_json` wrote."""
        facts = json.loads(text)
        if facts.get("credentials") is not None:
            facts["credentials"] = ClientCredentials(**facts["credentials"])
        return cls(**facts)

    def write(self, path: Path) -> None:
        """Write the endpoint to a file that appears whole, readable by its owner only."""
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w") as file:
            file.write(self.to_json())
        Path(temporary).replace(path)

    @classmethod
    def read(cls, path: Path) -> Endpoint:
        """Return the endpoint in a file.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        """
        return cls.from_json(path.read_text())
