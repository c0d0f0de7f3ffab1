"""The settings of a Triton server, and its command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hermes._directory import ServerDirectory
from hermes.aeriel._credentials import ServerCredentials, reachable_name
from hermes.aeriel._flags import flag_values, is_off
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.serve._leases import GPULease
from hermes.aeriel.serve._ports import UNIX, Ports, host_and_port
from hermes.errors import ParameterError

_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
SERVICES = ("grpc", "http", "metrics")
# The parameters of `serve`, and the flags that they set.
_OWNED = {
    "hermes, which identifies servers by it": ("id",),
    "model_repository": ("model-repository", "model-store"),
    "ports": tuple(f"{service}-port" for service in SERVICES),
    "listen": tuple(f"{service}-address" for service in SERVICES),
    "log_file": ("log-file",),
    "listen and insecure": (
        *("grpc-use-ssl", "grpc-use-ssl-mutual"),
        *("grpc-server-cert", "grpc-server-key", "grpc-root-cert"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The settings of a server, for every kind of instance.

    Parameters
    ----------
    model_repository
        An absolute directory, or a URL that Triton understands (``s3://…``).
    directory
        The server's private directory, whose name is its id.
    ports
        None for free ones.
    listen
        The IP address to listen on, or ``unix`` for sockets in the directory.
    server_args
        Further flags of tritonserver.
    environment
        Variables to add to the caller's environment for the server process.
    stop_timeout_s
        Seconds that the server may take to finish its requests when it is stopped.
    advertise
        The name or address of this host in the endpoint; by default its own name.
    credentials
        Certificates for mutual TLS on the GRPC service. HTTP, which does not support it, is off
        then, and metrics stay on the loopback address.
    image
        The container image; none for a Triton of this machine.
    container_name
        The name of the container; by default the server's id.
    lease
        The GPUs that the server sees; they are locked as long as the server lives.
    cpu
        Whether Triton serves an overlay of a local repository; see `_cpu`.
    log_file
        The file for the server's output, which is replaced. By default a file beside the server's
        directory, which is removed when the server stops without an error.
    endpoint_file, started_by
        As in `Plan`, for whoever ends the server.
    """

    directory: ServerDirectory
    model_repository: str
    ports: Ports | None = field(default_factory=Ports)
    listen: str = "127.0.0.1"
    advertise: str = ""
    server_args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_timeout_s: float = 30.0
    credentials: ServerCredentials | None = None
    image: str = ""
    container_name: str | None = None
    lease: GPULease = field(default_factory=lambda: GPULease(None))
    cpu: bool = False
    log_file: Path | None = None
    endpoint_file: Path | None = None
    started_by: str = "program"

    @property
    def has_overlay(self) -> bool:
        """Whether Triton serves an overlay in place of the repository."""
        return self.cpu and self.model_repository.startswith("/")

    @property
    def served_repository(self) -> str:
        """The repository that Triton serves, as a path outside of a container."""
        return str(self.directory.overlay) if self.has_overlay else self.model_repository

    @property
    def server_id(self) -> str:
        """The server's ``--id``, by which its processes and regions are found."""
        return self.directory.server_id

    @property
    def services(self) -> tuple[str, ...]:
        """The services that the flags leave on."""
        return tuple(
            name
            for name in SERVICES
            if not is_off(self.server_args, f"allow-{name}")
            and not (name == "http" and self.credentials is not None)
        )

    def endpoint(self, ports: Ports) -> Endpoint:
        """Return the addresses for clients: on this host, and with credentials on others."""
        if self.listen == UNIX:
            addresses = {name: self._address(name) for name in self.services}
            addresses["grpc"] += f":{ports.grpc}"  # as Triton does to the path of the socket
        else:
            here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.listen, self.listen)  # noqa: S104 (only compared)
            is_wide = self.credentials is not None and here != self.listen
            hosts = {
                "grpc": self.advertise or (reachable_name() if is_wide else here),
                "http": here,
                "metrics": here if self.credentials is None else "127.0.0.1",
            }
            addresses = {
                name: host_and_port(hosts[name], getattr(ports, name)) for name in self.services
            }
        return Endpoint(
            grpc=addresses["grpc"],
            http=addresses.get("http"),
            metrics=addresses.get("metrics"),
            server_id=self.server_id,
            credentials=None if self.credentials is None else self.credentials.client,
        )

    def arguments(self, ports: Ports, model_repository: str | None = None) -> list[str]:
        """Return the flags of tritonserver.

        Parameters
        ----------
        ports
            The ports to listen on.
        model_repository
            The repository's path in a container, if it differs.
        """
        arguments = [
            f"--id={self.server_id}",
            f"--model-repository={model_repository or self.served_repository}",
            # When the server was killed, its regions are found and removed by their names.
            f"--backend-config=python,shm-region-prefix-name={self.server_id}-",
        ]
        for name in self.services:
            arguments += [
                f"--{name}-address={self._address(name)}",
                f"--{name}-port={getattr(ports, name)}",
            ]
        if self.credentials is not None:
            arguments += [
                "--allow-http=false",
                "--grpc-use-ssl=true",
                "--grpc-use-ssl-mutual=true",
                *self.credentials.flags,
            ]
        if not flag_values(self.server_args, "exit-timeout-secs"):
            arguments.append(f"--exit-timeout-secs={max(1, int(self.stop_timeout_s))}")
        return [*arguments, *self.server_args]

    def _address(self, service: str) -> str:
        if self.listen == UNIX:
            return f"unix:{self.directory.path / service[0]}"
        if service == "metrics" and self.credentials is not None:
            return "127.0.0.1"
        if ":" not in self.listen:
            return self.listen
        # gRPC has the usual notation for IPv6; libevhtp, of the other services, has a prefix.
        return f"[{self.listen}]" if service == "grpc" else f"ipv6:{self.listen}"


def check_advertise(advertise: str, address: str) -> None:
    """Check the name of the server for other hosts.

    Raises
    ------
    ParameterError
        It is no name or address of a host, or the server listens on sockets only.
    """
    if advertise and address == UNIX:
        problem = f"{advertise!r} is not for a server on sockets; give an address to listen on too"
        raise ParameterError("advertise", problem)
    if advertise and not _HOST.fullmatch(advertise):
        problem = f"{advertise!r} is neither the name nor the address of a host; leave ports out"
        raise ParameterError("advertise", problem)


def check_server_args(server_args: Sequence[str]) -> tuple[str, ...]:
    """Return the flags, after refusing those that hermes sets.

    Raises
    ------
    ParameterError
        hermes sets a flag, or the argument is one string.
    """
    if isinstance(server_args, str):
        raise ParameterError("server_args", f"{server_args!r} is one string; give a list of flags")
    for argument in server_args:
        name = argument.removeprefix("--").split("=")[0]
        # Triton accepts the beginning of a flag's name too.
        for owner, flags in _OWNED.items():
            if argument.startswith("--") and any(flag.startswith(name) for flag in flags):
                raise ParameterError("server_args", f"--{name} is set by {owner}")
        if "shm-region-prefix-name" in argument:
            problem = "shm-region-prefix-name is set by hermes, which finds the regions by it"
            raise ParameterError("server_args", problem)
    if is_off(server_args, "allow-grpc"):
        raise ParameterError("server_args", "hermes needs GRPC; remove --allow-grpc=false")
    return tuple(server_args)
