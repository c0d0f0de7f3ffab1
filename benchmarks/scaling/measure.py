"""What several servers and clients of this machine do, measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import psutil

from hermes._processes import server_processes
from hermes.aeriel.serve import TritonInstance, serve

ROW_BYTES = 4096
ROWS_PER_REQUEST = 16
# A request of so many rows shows, beside the usual one, what a byte takes.
MANY_ROWS = 256
IN_FLIGHT = 6
INSTANCES = 2
SLEEP_S = 0.02
FILE_MB = 32
MODEL = """
import hashlib, json, time
import numpy as np
import triton_python_backend_utils as utils

class TritonPythonModel:
    def initialize(self, args):
        given = json.loads(args["model_config"])["parameters"]
        self.sleep_s = float(given["sleep_s"]["string_value"])
        self.n_hashes = int(given["n_hashes"]["string_value"])

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x = utils.get_input_tensor_by_name(request, "x").as_numpy()
        time.sleep(self.sleep_s)
        for _ in range(self.n_hashes):
            hashlib.sha256(bytes(65536)).digest()
        return utils.InferenceResponse([utils.Tensor("y", x[:, :1])])
"""
CONFIG = """
backend: "python"
max_batch_size: %d
input [{ name: "x", data_type: TYPE_FP32, dims: [ %d ] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [ 1 ] }]
instance_group [{ kind: KIND_CPU count: %d }]
parameters { key: "sleep_s" value { string_value: "%g" } }
parameters { key: "n_hashes" value { string_value: "%d" } }
"""
# Seconds that each sleeps for a request, and blocks of 64 KiB that it hashes.
MODELS = {"nothing": (0.0, 0), "sleeps": (SLEEP_S, 0), "computes": (0.0, 100)}


@dataclass(frozen=True, kw_only=True)
class Point:
    """What is measured: a model, servers, clients, and how they are connected."""

    model: str
    servers: int = 1
    clients: int = 1
    rows_per_request: int = ROWS_PER_REQUEST
    in_flight: int = IN_FLIGHT
    transport: str = "shm"
    namespace: str = ""  # of the clients
    on_one_core: bool = False  # clients too, with all other cores busy


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a point came to: rows, and processor seconds of a request."""

    rows_per_s: float
    client_s: float
    server_s: float


def write_inputs(directory: Path) -> Path:
    """Write the models and a file of rows; return the file."""
    for name, (sleep_s, n_hashes) in MODELS.items():
        version = directory / "models" / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(MODEL)
        config = CONFIG % (MANY_ROWS, ROW_BYTES // 4, INSTANCES, sleep_s, n_hashes)
        (version.parent / "config.pbtxt").write_text(config)
    file = directory / "rows.h5"
    with h5py.File(file, "w") as opened:
        shape = (FILE_MB << 20) // ROW_BYTES, ROW_BYTES // 4
        opened["x"] = np.random.default_rng(0).random(shape, np.float32)
    return file


@contextmanager
def serve_models(
    directory: Path, n: int, listen: str = "127.0.0.1", *, insecure: bool = False
) -> Iterator[list[TritonInstance]]:
    """Serve the models n times, each server on one core, for the length of a block."""
    allowed = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        started = []
        for number in range(n):
            os.sched_setaffinity(0, {allowed[number % len(allowed)]})  # a child inherits it
            try:
                server = serve(
                    directory / "models", ports="auto", gpus=[], listen=listen, insecure=insecure
                )
                started.append(stack.enter_context(server))
            finally:
                os.sched_setaffinity(0, allowed)
        for number, instance in enumerate(started):
            instance.wait()
            instance.endpoint.write(directory / f"endpoint-{number}.json")
        yield started


def measure(
    point: Point, instances: Sequence[TritonInstance], directory: Path, seconds: float
) -> Measured:
    """Return what a point comes to in some seconds in which all of its clients stream."""
    inside = ["ip", "netns", "exec", point.namespace] if point.namespace else []
    own, *others = sorted(os.sched_getaffinity(0))
    step = 1 + len(others) if point.on_one_core else 1
    servers = range(0, point.servers * step, step)
    if point.on_one_core:
        inside += ["taskset", "--cpu-list", str(own)]
    with ExitStack() as stack:
        for core in others if point.on_one_core else ():
            command = ["taskset", "--cpu-list", str(core), sys.executable, "-c", "while True: pass"]
            busy = stack.enter_context(subprocess.Popen(command))
            stack.callback(busy.kill)
        clients = []
        for number in range(point.clients):
            arguments = [
                directory / f"endpoint-{servers[number % point.servers]}.json", point.model,
                directory / "rows.h5", point.rows_per_request, point.in_flight, point.transport,
            ]  # fmt: skip
            command = [*inside, sys.executable, "-m", "benchmarks.scaling._client"]
            client = subprocess.Popen(
                [*command, *map(str, arguments)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            stack.enter_context(client)
            stack.callback(client.kill)
            clients.append(client)
        for client in clients:
            _line(client, "ready")
        begin = time.monotonic() + 0.3
        _tell(clients, f"{begin} {begin + seconds}")
        time.sleep(max(0.0, begin - time.monotonic()))
        used = [instances[number] for number in servers]
        before = _server_cpu_s(used)
        time.sleep(max(0.0, begin + seconds - time.monotonic()))
        server_s = _server_cpu_s(used) - before
        numbers = [json.loads(_line(client, "{")) for client in clients]
        _tell(clients, "")
        for client in clients:
            client.wait(timeout=60)
    n_requests = sum(one["rows"] for one in numbers) / point.rows_per_request
    return Measured(
        rows_per_s=sum(one["rows"] / one["seconds"] for one in numbers),
        client_s=sum(one["cpu_s"] for one in numbers) / n_requests,
        server_s=server_s / n_requests,
    )


def _line(client: subprocess.Popen[str], start: str) -> str:
    line = client.stdout.readline() if client.stdout else ""
    if not line.startswith(start):
        raise RuntimeError(f"{client.args!r} failed: {line}")
    return line


def _tell(clients: Sequence[subprocess.Popen[str]], line: str) -> None:
    for client in clients:
        if client.stdin:
            client.stdin.write(f"{line}\n")
            client.stdin.flush()


def _server_cpu_s(instances: Sequence[TritonInstance]) -> float:
    processes = [
        psutil.Process(pid) for one in instances for pid in server_processes(one.server_id)
    ]
    return sum(sum(process.cpu_times()[:2]) for process in processes)
