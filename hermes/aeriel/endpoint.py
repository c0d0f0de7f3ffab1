"""The addresses of a server and the credentials for it, as one value that fits into a file."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from hermes._files import write_whole
from hermes.aeriel._addresses import is_address, listens
from hermes.errors import ParameterError


@dataclass(frozen=True, kw_only=True)
class ClientCredentials:
    """The certificates of a client for mutual TLS.

    Parameters
    ----------
    root
        PEM of the authority that signs the server's certificate.
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
        ``host:port`` of the GRPC service, or ``unix:PATH`` of its socket: a gRPC target. Triton
        appends ``:PORT`` to the path of the socket, which is a part of the address.
    http, metrics
        ``host:port`` or ``unix:PATH`` of the HTTP and of the metrics service, or None where it is
        off.
    server_id
        The server's ``--id``, which distinguishes it from another server that listens at the same
        address later. None where it is not known.
    credentials
        The client's certificates where the server requires mutual TLS; None for plain text.

    Raises
    ------
    ParameterError
        An address has another form.
    """

    grpc: str
    http: str | None = None
    metrics: str | None = None
    server_id: str | None = None
    credentials: ClientCredentials | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("grpc", "http", "metrics"):
            address = getattr(self, name)
            if address is not None and not is_address(address):
                problem = f"{address!r} is not an address; expected host:port or unix:PATH"
                raise ParameterError(name, problem)

    def __str__(self) -> str:
        return self.grpc

    def encode(self, encoding: str = "utf-8") -> bytes:
        """Return the address of the GRPC service, so that gRPC and tritonclient take an endpoint.

        Raises
        ------
        ParameterError
            The server asks for mutual TLS, for which an address is not enough.
        """
        if self.credentials is not None:
            problem = f"the server at {self.grpc} asks for a certificate (mutual TLS)"
            advice = "give the endpoint to hermes' InferenceClient, or take its channel()"
            raise ParameterError("endpoint", f"{problem}; {advice}")
        return self.grpc.encode(encoding)

    def startswith(self, *_: object) -> NoReturn:
        """Refuse to be the address of the HTTP service, as which `tritonclient.http` takes it.

        Raises
        ------
        ParameterError
            Always.
        """
        http = "which this server has not" if self.http is None else f"here {self.http!r}"
        problem = f"tritonclient.http takes the address of the HTTP service: endpoint.http, {http}"
        raise ParameterError("endpoint", problem)

    @classmethod
    def of(cls, text: str) -> Endpoint:
        """Return the endpoint that a text names: the path of an endpoint file, or an address.

        Raises
        ------
        ParameterError
            It is neither, or the file cannot be read.
        """
        if Path(text).is_dir():
            problem = f"{text} is a directory, and neither host:port nor an endpoint file"
            advice = "a model repository is given as --models, or --model-repository in Luigi"
            raise ParameterError("server", f"{problem}; {advice}")
        try:
            return cls.read(Path(text))
        except FileNotFoundError:
            pass
        try:
            return cls(grpc=text)
        except ParameterError:
            problem = f"{text!r} is neither a file nor an address (host:port or unix:PATH)"
            raise ParameterError("server", problem) from None

    def is_reachable(self) -> bool:
        """Return whether something listens at the address of the GRPC service."""
        return listens(self.grpc)

    def to_json(self) -> str:
        """Return the endpoint as a JSON object, for `from_json`; credentials included."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Endpoint:
        """Return the endpoint that `to_json` wrote.

        Raises
        ------
        ParameterError
            The text is not an endpoint.
        """
        try:
            facts = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ParameterError("endpoint", f"it is not JSON: {error}") from error
        facts = _fields_of(cls, facts, "it")
        if facts.get("credentials") is not None:
            parts = _fields_of(ClientCredentials, facts["credentials"], "its object of credentials")
            facts["credentials"] = ClientCredentials(**parts)
        return cls(**facts)

    def write(self, path: Path) -> None:
        """Write the endpoint to a file that appears complete, readable by its owner only.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        write_whole(path, self.to_json(), mode=0o600)

    @classmethod
    def read(cls, path: Path) -> Endpoint:
        """Return the endpoint in a file.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ParameterError
            The file cannot be read, or is not an endpoint file.
        """
        try:
            return cls.from_json(path.read_text())
        except FileNotFoundError:
            raise
        except ParameterError as error:
            problem = f"{path} is not an endpoint file: {error.problem}"
            raise ParameterError(error.parameter, problem) from error
        except UnicodeDecodeError as error:
            raise ParameterError("endpoint", f"{path} is not text") from error
        except OSError as error:
            problem = f"cannot read {path}: {error.strerror or error}"
            raise ParameterError("endpoint", problem) from error


def _fields_of(kind: type[Endpoint | ClientCredentials], facts: Any, what: str) -> dict[str, Any]:
    """Return an object that was read from JSON, after checking its fields, which are texts."""
    if not isinstance(facts, dict):
        raise ParameterError("endpoint", f"{what} is not a JSON object")
    is_needed = {each.name: each.default is MISSING for each in fields(kind)}
    problems = [
        f"has no {name!r}" for name, needed in is_needed.items() if needed and name not in facts
    ]
    for name, value in facts.items():
        if name not in is_needed:
            problems.append(f"has an unknown field {name!r}")
        elif name != "credentials" and not isinstance(
            value, str if is_needed[name] else str | None
        ):
            problems.append(f"has a value of {name!r} that is not a text")
    if problems:
        raise ParameterError("endpoint", f"{what} {'; '.join(problems)}")
    return facts
