"""A client that is interrupted or never closed does not keep a server from stopping.

A Triton that is told to stop waits for every connection to its HTTP service, for half a minute.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.serve import serve
from tests.helpers import ECHO, python, wait_until, write_model

# At any moment of a request, with a traceback that keeps all that it can.
IS_INTERRUPTED = """
import os, random, signal, sys, threading, time
from pathlib import Path
import numpy as np
import psutil
from hermes.aeriel.client import Endpoint, InferenceClient

endpoint = Endpoint.read(Path(sys.argv[1]))
port = int(endpoint.http.rpartition(":")[2])
batch = {"x": np.zeros((1, 1), np.float32)}
client = InferenceClient(endpoint, "echo", transport=sys.argv[2])
interrupts = []
while len(interrupts) < 25:
    timer = threading.Timer(random.uniform(0.02, 0.06), os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        while True:
            list(client.stream([batch] * 1000))
    except KeyboardInterrupt as interrupt:
        interrupts.append(interrupt)
    timer.join()
deadline = time.monotonic() + 10
while True:
    connections = psutil.Process().net_connections("tcp4")
    left = [each for each in connections if each.raddr and each.raddr.port == port]
    if not left or time.monotonic() > deadline:
        break
    time.sleep(0.1)
print(len(left), flush=True)
"""

# The client is in use until the last line, and the server is stopped as the interpreter exits.
SESSION = """
import numpy as np
from hermes.aeriel.client import InferenceClient
from hermes.aeriel.serve import serve
serving = serve({repository!r}, ports="auto", wait=True)
instance = serving.__enter__()
client = InferenceClient(instance.endpoint, "echo", transport={transport!r})
stream = client.stream([{{"x": np.zeros((1, 1), np.float32)}}] * 9)
print("answered", next(stream)["y"].shape, flush=True)
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, triton_home: Path) -> Path:
    return write_model(tmp_path_factory.mktemp("models"), "echo", ECHO)


@pytest.mark.parametrize("transport", ["http", "shm"])
def test_connections_end_when_requests_are_interrupted(
    transport: Any, repository: Path, tmp_path: Path
) -> None:
    with serve(repository, ports="auto", wait=True) as instance:
        instance.endpoint.write(tmp_path / "endpoint")
        with python(IS_INTERRUPTED, tmp_path / "endpoint", transport) as process:
            told, problems = process.communicate(timeout=60)
    assert told == "0\n", problems


@pytest.mark.parametrize("transport", ["http", "shm", "grpc"])
def test_a_session_that_is_left_stops_its_server_soon(transport: Any, repository: Path) -> None:
    session = SESSION.format(repository=str(repository), transport=transport)
    with subprocess.Popen(
        [sys.executable, "-i"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHON_BASIC_REPL": "1"},
        text=True,
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(session)
            process.stdin.flush()
            assert process.stdout.readline() == "answered (1, 1)\n"
            left = time.monotonic()
            process.stdin.close()
            process.wait(60)
        finally:
            process.kill()
    assert time.monotonic() - left < 20


@pytest.mark.parametrize("transport", ["http", "shm", "grpc"])
def test_a_suspended_stream_does_not_keep_its_server_from_stopping(
    transport: Any, repository: Path
) -> None:
    batches = [np.full((1, 1), i, np.float32) for i in range(9)]
    with serve(repository, ports="auto", wait=True) as instance:
        client = InferenceClient(instance.endpoint, "echo", transport=transport, max_in_flight=3)
        suspended = client.stream({"x": batch} for batch in batches)
        first = next(suspended)
        left = time.monotonic()
    stopped = time.monotonic()
    assert first["y"] == 0
    assert stopped - left < 20
    client.close()


@pytest.mark.parametrize("transport", ["http", "shm"])
def test_answers_of_a_suspended_stream_are_kept(
    transport: Any, tmp_path: Path, triton_home: Path
) -> None:
    large = {"x": ("FP32", [-1])}
    write_model(tmp_path, "large", ECHO, inputs=large, outputs={"y": ("FP32", [-1])})
    batches = [np.full((1, 1 << 18), i, np.float32) for i in range(9)]
    with (
        serve(tmp_path, ports="auto", wait=True) as instance,
        InferenceClient(instance.endpoint, "large", transport=transport, max_in_flight=3) as client,
    ):
        answers = []
        for answer in client.stream({"x": batch} for batch in batches):
            answers.append(answer["y"].copy())
            if len(answers) in {1, 4}:
                wait_until(lambda: not connections_to(instance.endpoint.http), 10)
        np.testing.assert_array_equal(answers, batches)


def connections_to(address: str | None) -> list[Any]:
    port = int(str(address).rpartition(":")[2])
    connections = psutil.Process().net_connections("tcp4")
    return [each for each in connections if each.raddr and each.raddr.port == port]
