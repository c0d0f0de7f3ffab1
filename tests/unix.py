"""A Triton that listens on Unix sockets only, started by hand."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hermes._cleanup import kill
from hermes.aeriel._channel import open_channel
from hermes.aeriel.endpoint import Endpoint
from hermes.runtime import find_triton
from tests.helpers import wait_until


@contextmanager
def socket_directory() -> Iterator[Path]:
    """Make a directory for sockets; their paths have 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="h ", dir="/tmp") as made:
        yield Path(made)


@contextmanager
def serve_on_sockets(
    repository: Path, directory: Path
) -> Iterator[tuple[Endpoint, Callable[[], None]]]:
    """Serve a repository on sockets; give the endpoint, and what kills the server."""
    for left in directory.iterdir():
        left.unlink()  # a Triton that finds a socket of one that was killed ends at once
    server_id = f"hermes-test-{secrets.token_hex(6)}"
    triton = find_triton()
    services = {name: f"unix:{directory}/{name[0]}" for name in ("grpc", "http", "metrics")}
    # The Python backend starts its stub through a shell: a blank would be the end of its path.
    links = tempfile.TemporaryDirectory(prefix="hermes-test-", dir="/tmp")
    backends = Path(links.name) / "backends"
    if triton.backend_directory:
        backends.symlink_to(triton.backend_directory)
    command = [
        str(triton.binary),
        *([f"--backend-directory={backends}"] if triton.backend_directory else ()),
        f"--id={server_id}",
        f"--model-repository={repository}",
        f"--backend-config=python,shm-region-prefix-name={server_id}-",
        *(f"--{name}-address={address}" for name, address in services.items()),
    ]
    endpoint = Endpoint(
        grpc=f"{services['grpc']}:8001",  # which Triton adds
        http=services["http"],
        metrics=services["metrics"],
        server_id=server_id,
    )
    with ExitStack() as stack:
        stack.enter_context(links)
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        process = subprocess.Popen(
            command, env={**os.environ, **triton.environment}, stdout=log, stderr=log
        )

        def end(end_it: Callable[[], None]) -> None:
            end_it()
            process.wait(20)
            kill(server_id, settle_s=0.0)  # its models' processes outlive it
            for region in Path("/dev/shm").glob(f"{server_id}-*"):
                region.unlink(missing_ok=True)

        stack.callback(end, process.kill)

        def is_ready() -> bool:
            log.seek(0)
            assert process.poll() is None, log.read()
            with open_channel(endpoint) as channel:
                stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                try:
                    answer = stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=5)
                except grpc.RpcError:
                    return False
            # The other services are opened after this one.
            return bool(answer.ready) and all((directory / name).exists() for name in ("h", "m"))

        wait_until(is_ready, 60)
        yield endpoint, lambda: end(process.kill)
