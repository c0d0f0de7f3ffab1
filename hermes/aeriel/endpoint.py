"""Where a server listens, as one value that can be kept in a file."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path


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
    """

    grpc: str
    http: str | None = None
    metrics: str | None = None
    server_id: str | None = None

    def to_json(self) -> str:
        """Return the endpoint as a JSON object, for `from_json`."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Endpoint:
        """Return the endpoint that `to_json` wrote."""
        return cls(**json.loads(text))

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
