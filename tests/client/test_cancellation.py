"""What a client no longer waits for is answered, not cancelled: Triton 2.51 may die of that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes.aeriel.client import Endpoint, InferenceClient
from hermes.aeriel.serve import serve
from hermes.errors import RequestError, RequestTimeoutError
from tests.helpers import python, wait_until, write_model

WATCHES = """
    def initialize(self, args):
        self.path = args["model_repository"] + "/record"

    def record(self, state):
        with open(self.path, "w") as record:
            record.write(state)

    def answer(self, request):
        self.record("running")
        cancelled = False
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            cancelled = cancelled or request.is_cancelled()
            time.sleep(0.02)
        self.record("cancelled" if cancelled else "answered")
        return response(y=array(request, "x"))
"""

IS_INTERRUPTED = """
import os, signal, sys, threading, time
from pathlib import Path
import numpy as np
from hermes.aeriel.client import Endpoint, InferenceClient

client = InferenceClient(Endpoint.read(Path(sys.argv[1])), "watches", transport="grpc")
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    list(client.stream([{"x": np.zeros((1, 1), np.float32)}]))
except KeyboardInterrupt:
    print("interrupted", flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models"), "watches", WATCHES)


@pytest.fixture(scope="module")
def endpoint(repository: Path, triton_home: Path) -> Iterator[Endpoint]:
    with serve(repository, ports="auto", wait=True) as instance:
        yield instance.endpoint


@pytest.fixture
def record(repository: Path) -> Iterator[Record]:
    """What the model says of the one request that a test sends."""
    record = Record(repository / "watches" / "record")
    yield record
    record.path.unlink(missing_ok=True)


class Record:
    """What the model says of a request."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def wait_until_running(self) -> None:
        wait_until(lambda: self._state() == "running")

    def outcome(self) -> str:
        """Return what became of it, as soon as that is known."""
        wait_until(lambda: self._state() not in {"", "running"})
        return self._state()

    def _state(self) -> str:
        return self.path.read_text() if self.path.exists() else ""


def batch() -> dict[str, Any]:
    return {"x": np.zeros((1, 1), np.float32)}


def client_of(endpoint: Endpoint, **options: Any) -> InferenceClient:
    return InferenceClient(endpoint, "watches", transport="grpc", **options)


def test_a_lone_request_is_not_cancelled_at_its_deadline(
    endpoint: Endpoint, record: Record
) -> None:
    with client_of(endpoint, timeout_s=0.2, retry_for_s=0.0) as client:
        with pytest.raises(RequestTimeoutError, match=r"within 0\.2 s"):
            client.infer(batch()).result()
        assert record.outcome() == "answered"


def test_a_lone_request_is_not_cancelled_as_its_client_is_closed(
    endpoint: Endpoint, record: Record
) -> None:
    client = client_of(endpoint)
    future = client.infer(batch())
    record.wait_until_running()
    client.close()
    with pytest.raises(RequestError, match="the client was closed"):
        future.result()
    assert record.outcome() == "answered"


def test_a_lone_request_is_not_cancelled_by_ctrl_c(
    endpoint: Endpoint, record: Record, tmp_path: Path
) -> None:
    endpoint.write(tmp_path / "endpoint")
    with python(IS_INTERRUPTED, tmp_path / "endpoint") as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "interrupted"
        assert record.outcome() == "answered"
