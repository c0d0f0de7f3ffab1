"""What several test modules need: small models, and what is left of a server."""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from hermes._directory import state_home
from hermes._processes import is_tritonserver, server_processes
from hermes.aeriel.serve import Ports, TritonInstance
from hermes.aeriel.serve._ports import check_free
from hermes.errors import PortInUseError

Tensors = Mapping[str, tuple[str, Sequence[int]]]

ONE_VALUE: Tensors = {"x": ("FP32", [1])}

_MODEL = """
import os
import time
import numpy as np
import triton_python_backend_utils as pb_utils

def array(request, name):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()

def response(**outputs):
    return pb_utils.InferenceResponse([pb_utils.Tensor(*output) for output in outputs.items()])

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

"""

DOUBLE = """
    def answer(self, request):
        return response(y=2 * array(request, "x"))
"""

ECHO = """
    def answer(self, request):
        return response(y=array(request, "x"))
"""

LOADS_FOR_60_S = """
    def initialize(self, args):
        time.sleep(60)
"""

DOES_NOT_LOAD = """
    def initialize(self, args):
        raise ValueError("its weights are missing")
"""


def write_model(
    repository: Path,
    name: str,
    methods: str,
    *,
    inputs: Tensors = ONE_VALUE,
    outputs: Tensors | None = None,
    max_batch_size: int = 8,
    config: str = "",
    version: str = "1",
) -> Path:
    """Write a Python model into a repository, and return the repository.

    Parameters
    ----------
    methods
        The body of its class, indented: ``answer(self, request)``, ``initialize(self, args)``.
    inputs, outputs
        Triton's data type and dims by name; by default one output ``y`` like the input ``x``.
    config
        Further text of its config.pbtxt.
    """
    directory = repository / name
    (directory / version).mkdir(parents=True)
    (directory / version / "model.py").write_text(_MODEL + methods)
    outputs = {"y": inputs["x"]} if outputs is None else outputs
    lines = ['backend: "python"', f"max_batch_size: {max_batch_size}", config]
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for tensor, (data_type, dims) in tensors.items():
            lines.append(
                f'{kind} [{{ name: "{tensor}", data_type: TYPE_{data_type}, dims: {list(dims)} }}]'
            )
    (directory / "config.pbtxt").write_text("\n".join(lines))
    return repository


def double_slowly_while(slow: Path) -> str:
    """Return the body of a model that takes a second for a request while there is a file."""
    return f"""
    def answer(self, request):
        if os.path.exists({str(slow)!r}):
            time.sleep(1)
        return response(y=2 * array(request, "x"))
"""


def write_program(path: Path, program: str) -> None:
    """Write a Python program that is called by its path, wherever this Python lies."""
    source = path.with_suffix(".py")
    source.write_text(program)
    # Not this Python in a `#!` line: there the kernel ends its path at the first blank.
    command = shlex.join([sys.executable, str(source)])
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)


def kill_server(instance: TritonInstance) -> None:
    """Kill a server, and have what it leaves removed."""
    os.kill(server_pid(str(instance.endpoint.server_id)), signal.SIGKILL)
    wait_until(lambda: not instance.is_alive())
    instance.stop()


def remains(server_id: str) -> list[object]:
    """Return whatever is there of a server: processes, shared memory, temporary files."""
    return [
        *server_processes(server_id),
        *Path("/dev/shm").glob(f"{server_id}*"),
        *state_home().glob(f"{server_id}*"),
    ]


def server_pid(server_id: str) -> int:
    """Return the process id of the tritonserver itself."""
    processes = server_processes(server_id).items()
    [pid] = [pid for pid, command in processes if is_tritonserver(command)]
    return pid


def server_environment(server_id: str) -> dict[str, str]:
    """Return the environment that the server process got."""
    text = Path(f"/proc/{server_pid(server_id)}/environ").read_bytes().decode()
    return dict(pair.split("=", 1) for pair in text.split("\0") if pair)


def wait_until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Return when a condition holds; fail when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.02)


def some_ports() -> Ports:
    """Return free ports that nobody gets who asks for any: a server can come back to them."""
    while True:
        # Linux hands out those from 32768 on (ip(7), ip_local_port_range).
        grpc, http, metrics = random.sample(range(10_000, 32_768), 3)
        ports = Ports(grpc=grpc, http=http, metrics=metrics)
        with contextlib.suppress(PortInUseError):
            for service, port in vars(ports).items():
                check_free("127.0.0.1", port, service)
            return ports


@contextlib.contextmanager
def listening(port: int = 0) -> Iterator[int]:
    """Listen on a port of the loopback address, and answer nobody."""
    with socket.create_server(("127.0.0.1", port)) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def python(
    program: str, *arguments: object, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program in a process of its own, and end that if it does not end itself."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()
