"""Deadlines, the rate limit, and the server's own times."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes.aeriel.client import ClientStatistics, Endpoint, InferenceClient, ServerTimes
from hermes.aeriel.serve import serve
from hermes.errors import ParameterError, RequestTimeoutError
from tests.helpers import write_model

SLEEPS = """
    def answer(self, request):
        time.sleep(float(array(request, "x").max()))
        return response(y=array(request, "x"))
"""


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, triton_home: Path) -> Iterator[Endpoint]:
    models = write_model(tmp_path_factory.mktemp("models"), "sleeps", SLEEPS)
    with serve(models, ports="auto", wait=True) as instance:
        yield instance.endpoint


def batch(seconds: float) -> dict[str, Any]:
    return {"x": np.full((1, 1), seconds, np.float32)}


@pytest.mark.parametrize("transport", ["shm", "http", "grpc"])
def test_request_that_takes_too_long_is_an_error(transport: Any, endpoint: Endpoint) -> None:
    options = {"transport": transport, "timeout_s": 0.3, "retry_for_s": 0.1}
    with InferenceClient(endpoint, "sleeps", **options) as client:
        with pytest.raises(RequestTimeoutError):
            client.infer(batch(1.5)).result()
        time.sleep(4)  # every attempt keeps the model for 1.5 s
        assert client.infer(batch(0)).result()["y"].item() == 0
        assert client.statistics.failures == 1


@pytest.mark.parametrize("transport", ["shm", "http", "grpc"])
def test_late_answer_does_not_become_anothers(transport: Any, endpoint: Endpoint) -> None:
    with InferenceClient(
        endpoint, "sleeps", transport=transport, timeout_s=0.5, retry_for_s=30
    ) as client:
        # The first attempt is given up, and answered while later requests are away.
        slow = client.infer(batch(0.8))
        values = [client.infer(batch(n / 100)).result()["y"].item() for n in range(10)]
        assert values == [np.float32(n / 100) for n in range(10)]
        slow.cancel()
        client.close()


@pytest.mark.parametrize("transport", ["shm", "http", "grpc"])
def test_stream_has_a_deadline_for_the_whole(transport: Any, endpoint: Endpoint) -> None:
    with InferenceClient(endpoint, "sleeps", transport=transport) as client:
        started = time.monotonic()
        stream = client.stream((batch(0.2) for _ in range(100)), deadline_s=1.0)
        with pytest.raises(RequestTimeoutError):
            list(stream)
        assert 0.8 < time.monotonic() - started < 4


@pytest.mark.parametrize("transport", ["shm", "http", "grpc"])
def test_deadline_holds_for_answers_that_come_soon(transport: Any, endpoint: Endpoint) -> None:
    with InferenceClient(endpoint, "sleeps", transport=transport) as client:
        started = time.monotonic()
        with pytest.raises(RequestTimeoutError, match="within 1 s"):
            for _ in client.stream((batch(0.01) for _ in range(1000)), deadline_s=1.0):
                pass
        assert 0.8 < time.monotonic() - started < 4


def test_rate_is_limited(endpoint: Endpoint) -> None:
    with InferenceClient(endpoint, "sleeps", rate_hz=20) as client:
        started = time.monotonic()
        assert len(list(client.stream(batch(0) for _ in range(11)))) == 11
        assert 0.5 <= time.monotonic() - started < 4


@pytest.mark.parametrize("rate_hz", [0, -1, float("nan")])
def test_impossible_rate_is_refused(rate_hz: float, endpoint: Endpoint) -> None:
    with pytest.raises(ParameterError, match="rate_hz"):
        InferenceClient(endpoint, "sleeps", rate_hz=rate_hz)


def test_statistics_have_the_servers_own_times(endpoint: Endpoint) -> None:
    with InferenceClient(endpoint, "sleeps") as earlier:
        list(earlier.stream(batch(0) for _ in range(5)))
    with InferenceClient(endpoint, "sleeps") as client:
        assert client.statistics.server == ServerTimes()
        list(client.stream(batch(0.05) for _ in range(4)))
        server = client.statistics.server
    assert server.requests == 4
    assert 0.2 <= server.infer_s < 1
    assert server.queue_s > 0
    assert client.statistics.server.requests == 4  # also when the client is closed
    assert ClientStatistics.sum([client.statistics] * 2).server.requests == 8


def test_the_server_is_asked_for_its_times_once_in_a_while(endpoint: Endpoint) -> None:
    def requests_of(n_requests: int, server_every_s: float) -> int:
        client.restart_statistics(server_every_s)
        list(client.stream(batch(0) for _ in range(n_requests)))
        done = client.statistics
        assert done.requests == n_requests
        return done.server.requests

    with InferenceClient(endpoint, "sleeps") as client:
        assert requests_of(3, 60) == 3
        assert requests_of(4, 60) == 0
        assert requests_of(5, 60) == 0
        assert requests_of(6, 0) == 4 + 5 + 6
        assert requests_of(7, 60) == 0
        assert requests_of(2, 0) == 7 + 2
        assert requests_of(1, 0) == 1
