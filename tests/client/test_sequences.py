"""Sequences of a stateful model: order, places, restarts."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hermes.aeriel.client import Endpoint, InferenceClient
from hermes.aeriel.serve import serve
from hermes.errors import InputError, ParameterError, RequestError, RequestTimeoutError
from tests.helpers import ECHO, kill_server, some_ports, wait_until, write_model
from tests.stateful import BATCHING, RUNNING_SUM, write_ensemble, write_implicit_model


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    write_model(models, "sum", RUNNING_SUM, config=BATCHING)
    patient = BATCHING.replace("1000000", "20000000")
    write_model(models, "patient", RUNNING_SUM, config=patient)
    write_model(models, "echo", ECHO)
    write_implicit_model(models, "implicit")
    write_ensemble(models, "ensemble", "sum")
    write_ensemble(models, "implicit_ensemble", "implicit")
    write_ensemble(models, "ensemble_of_an_ensemble", "ensemble")
    return models


@pytest.fixture(scope="module")
def endpoint(repository: Path, triton_home: Path) -> Iterator[Endpoint]:
    with serve(repository, ports="auto", wait=True) as instance:
        yield instance.endpoint


def update(value: float) -> dict[str, NDArray[Any]]:
    return {"x": np.full((1, 1), value, np.float32)}


def values(stream: Iterator[dict[str, NDArray[Any]]]) -> list[float]:
    return [result["y"].item() for result in stream]


def sums(numbers: Any) -> list[float]:
    return [float(total) for total in itertools.accumulate(numbers)]


@pytest.mark.parametrize("transport", ["auto", "http", "grpc"])
@pytest.mark.parametrize(
    "model", ["sum", "implicit", "ensemble", "implicit_ensemble", "ensemble_of_an_ensemble"]
)
def test_each_update_is_answered_once_in_order(
    model: str, transport: Any, endpoint: Endpoint
) -> None:
    with InferenceClient(endpoint, model, transport=transport) as client:
        for numbers in (range(40), range(1), range(0)):
            with client.sequence() as sequence:
                assert values(sequence.stream(map(update, numbers))) == sums(numbers)


def test_an_update_that_does_not_fit_fails_at_once(endpoint: Endpoint) -> None:
    bad = {"x": np.zeros((1, 1), np.float64)}
    with InferenceClient(endpoint, "sum", retry_for_s=20) as client:
        for updates in ([update(1), update(2), bad], iter([update(1), bad]), [bad]):
            begun = time.monotonic()
            with client.sequence() as sequence, pytest.raises(InputError, match="float32"):
                values(sequence.stream(updates))
            assert time.monotonic() - begun < 10
        assert client.statistics.retries == 0
        with client.sequence() as sequence:
            assert values(sequence.stream(map(update, range(3)))) == sums(range(3))


def test_sequences_in_one_thread_do_not_mix(endpoint: Endpoint) -> None:
    with InferenceClient(endpoint, "sum") as client:
        assert client.specification.max_sequences == 3
        numbers = [range(k, 30 + k) for k in range(3)]
        streams = [client.sequence().stream(list(map(update, some))) for some in numbers]
        rows = [[result["y"].item() for result in row] for row in zip(*streams, strict=True)]
        assert rows == [list(row) for row in zip(*map(sums, numbers), strict=True)]


def test_more_sequences_than_places_wait_for_one(endpoint: Endpoint) -> None:
    answers = {}

    def run(client: InferenceClient, k: int) -> None:
        with client.sequence() as sequence:
            answers[k] = values(sequence.stream(map(update, range(k, 30 + k))))

    with InferenceClient(endpoint, "sum") as client:
        threads = [threading.Thread(target=run, args=(client, k)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == {k: sums(range(k, 30 + k)) for k in range(8)}


def test_wait_for_a_place_has_an_end(endpoint: Endpoint) -> None:
    with InferenceClient(endpoint, "sum", timeout_s=0.5) as client:
        held = [client.sequence().stream(map(update, itertools.count())) for _ in range(3)]
        for stream in held:
            next(stream)
        with pytest.raises(RequestTimeoutError):
            next(client.sequence().stream([update(1)]))


@pytest.mark.parametrize("transport", ["auto", "http", "grpc"])
def test_sequence_that_is_left_frees_its_place_on_the_server(
    transport: Any, endpoint: Endpoint
) -> None:
    with InferenceClient(endpoint, "patient", transport=transport) as client:
        started = time.monotonic()
        for _ in range(6):
            with client.sequence() as sequence:
                stream = sequence.stream(map(update, itertools.count()))
                assert [next(stream)["y"].item() for _ in range(3)] == [0, 1, 3]
        # The fourth would wait for Triton to give up the first, had that not been ended.
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("transport", ["auto", "http", "grpc"])
def test_sequence_that_takes_too_long_ends_and_frees_its_place(
    transport: Any, endpoint: Endpoint
) -> None:
    with InferenceClient(endpoint, "patient", transport=transport) as client:
        started = time.monotonic()
        for _ in range(6):
            with client.sequence() as sequence:
                stream = sequence.stream(map(update, itertools.count()), deadline_s=0.5)
                with pytest.raises(RequestTimeoutError, match=r"within 0\.5 s"):
                    values(stream)
        assert time.monotonic() - started < 13


def test_sequence_that_is_left_while_the_model_runs_is_left_at_once(endpoint: Endpoint) -> None:
    with InferenceClient(endpoint, "sum") as client, client.sequence() as sequence:
        stream = sequence.stream([update(1), update(103), update(1)])
        next(stream)
        started = time.monotonic()
        stream.close()  # type: ignore[attr-defined]
        assert time.monotonic() - started < 1


def test_model_without_a_state_has_no_sequences(endpoint: Endpoint) -> None:
    with (
        InferenceClient(endpoint, "echo") as client,
        pytest.raises(ParameterError, match="keeps no state"),
    ):
        client.sequence()


class TestRestart:
    def test_sequence_that_the_server_let_end_starts_again(self, endpoint: Endpoint) -> None:
        numbers = range(6)

        def late() -> Iterator[dict[str, NDArray[Any]]]:
            for number in numbers:
                if number == 4 and not slept:
                    slept.append(number)
                    time.sleep(3)  # the server gives a silent sequence up after 1 s
                yield update(number)

        slept: list[int] = []
        with InferenceClient(endpoint, "sum") as client, client.sequence() as sequence:
            assert values(sequence.stream(late)) == sums(numbers)
            assert client.statistics.retries > 0

    def test_iterator_that_cannot_be_kept_cannot_be_restarted(
        self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def late() -> Iterator[dict[str, NDArray[Any]]]:
            for number in range(6):
                if number == 4:
                    time.sleep(3)
                yield update(number)

        monkeypatch.setattr("hermes.aeriel.client._sequences.KEPT_BYTES", 8)
        with (
            InferenceClient(endpoint, "sum") as client,
            client.sequence() as sequence,
            pytest.raises(RequestError, match="START flag"),
        ):
            values(sequence.stream(late()))

    @pytest.mark.parametrize("transport", ["shm", "http", "grpc"])
    def test_server_that_was_killed_is_no_gap(
        self, transport: Any, repository: Path, image: Path | None, tmp_path: Path
    ) -> None:
        ports = some_ports()
        numbers = [number % 7 for number in range(1000)]
        log = tmp_path / "log"
        with (
            serve(repository, image, ports=ports, wait=True, log_file=log) as first,
            InferenceClient(first.endpoint, "sum", transport=transport) as client,
        ):
            seen: list[list[float]] = [[], []]

            def collect(into: list[float]) -> None:
                stream = client.sequence().stream(map(update, numbers))
                into.extend(result["y"].item() for result in stream)

            with ThreadPoolExecutor() as pool:
                done = [pool.submit(collect, some) for some in seen]
                wait_until(lambda: all(len(some) >= 60 for some in seen))
                kill_server(first)
                with serve(repository, image, ports=ports, wait=True, log_file=log):
                    for each in done:
                        each.result()
            assert client.transport == transport
            assert client.statistics.retries >= 2  # each sequence was in the middle of it
        assert seen == [sums(numbers)] * 2
