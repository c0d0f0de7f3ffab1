"""A certificate authority for one server, which admits holders of its client certificate."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from hermes._files import write_whole
from hermes.aeriel._addresses import is_only_here
from hermes.aeriel.endpoint import ClientCredentials
from hermes.errors import MissingExtraError

# Longer than any job runs, so certificates need no renewal and no revocation.
VALID_FOR = timedelta(days=30)
CLOCK_SKEW = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True)
class ServerCredentials:
    """The certificates of a server, and those that it accepts.

    Parameters
    ----------
    directory
        The directory of the server's files while it runs, readable by their owner only.
    client
        The certificates of a client.
    pem
        The contents of the files, by name.
    """

    directory: Path
    client: ClientCredentials
    pem: Mapping[str, str] = field(repr=False)

    @property
    def flags(self) -> list[str]:
        """The flags of tritonserver that name the files."""
        files = {"server-cert": "server.crt", "server-key": "server.key", "root-cert": "root.crt"}
        return [f"--grpc-{flag}={self.directory / name}" for flag, name in files.items()]

    def write(self) -> None:
        """Write the files; the caller has arranged that they are removed in any case."""
        self.directory.mkdir(mode=0o700, parents=True)
        for name, text in self.pem.items():
            write_whole(self.directory / name, text, mode=0o600, durable=False)


def make_credentials(directory: Path, advertise: str = "") -> ServerCredentials:
    """Return certificates of a new authority, a server and a client; the authority's key is lost.

    Parameters
    ----------
    directory
        The directory for the server's files.
    advertise
        A further name or address of the server.

    Raises
    ------
    MissingExtraError
        The package cryptography is not installed.
    """
    try:
        from cryptography import x509  # noqa: PLC0415 (an extra)
        from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 (as above)
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 (as above)
        from cryptography.x509.oid import NameOID  # noqa: PLC0415 (as above)
    except ImportError as error:
        raise MissingExtraError(package="cryptography", extra="tls") from error

    now = datetime.now(UTC)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hermes authority")])

    def certificate(name: str, key: ec.EllipticCurvePrivateKey, *, is_authority: bool) -> str:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(now + VALID_FOR)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if name == "hermes server":
            names = {"localhost", socket.gethostname(), socket.getfqdn(), advertise} - {""}
            alternatives = map(general_name, sorted(names | _addresses()))
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        signed = builder.sign(authority_key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode()

    def general_name(text: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ipaddress.ip_address(text))
        except ValueError:
            return x509.DNSName(text)

    def pem(key: ec.EllipticCurvePrivateKey) -> str:
        return key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()

    server_key, client_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = certificate("hermes authority", authority_key, is_authority=True)
    return ServerCredentials(
        directory=directory,
        client=ClientCredentials(
            root=root,
            certificate=certificate("hermes client", client_key, is_authority=False),
            key=pem(client_key),
        ),
        pem={
            "server.crt": certificate("hermes server", server_key, is_authority=False),
            "server.key": pem(server_key),
            "root.crt": root,
        },
    )


def reachable_name() -> str:
    """Return a name or address under which other hosts reach this one, as far as it can be known.

    A name that stands for a loopback address here, as Debian writes it to ``/etc/hosts``, gives way
    to the address of an interface: that of the default route, where there is one, because others
    may be bridges to containers. Without a network it is a loopback address.
    """
    for name in (socket.getfqdn(), socket.gethostname()):
        if not is_only_here(f"{name}:0"):
            return name
    outer = [text for text in sorted(_addresses()) if not is_only_here(f"[{text}]:0")]
    # No link-local address: it takes the name of an interface to reach it.
    usable = [text for text in outer if not ipaddress.ip_address(text).is_link_local]
    if (routed := _routed_address()) in usable:
        return routed
    return next((text for text in usable if ":" not in text), next(iter(usable), "127.0.0.1"))


def _routed_address() -> str:
    """Return the address from which this host reaches others; empty where it has no such route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))  # of no host, for documentation; nothing is sent
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _addresses() -> set[str]:
    """Return the addresses of this host, without the zone of a link-local one."""
    found = {
        address.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in (socket.AF_INET, socket.AF_INET6)
    }
    return found | {"127.0.0.1", "::1"}
