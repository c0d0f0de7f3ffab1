"""Files through models that keep a state: sequences of updates, each row once, in order."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from hermes.aeriel.client import ClientStatistics, InferenceClient
from hermes.aeriel.files import InferenceOptions, Request, infer_file
from hermes.aeriel.serve import TritonInstance, serve
from hermes.errors import ParameterError, RequestError
from tests.helpers import ECHO, kill_server, some_ports, write_model
from tests.stateful import BATCHING, RUNNING_SUM, write_ensemble, write_implicit_model

# The sum of all rows so far, of updates with several of them.
RUNNING_SUMS = """
    sums = {}

    def answer(self, request):
        x = array(request, "x")
        if x.min() < -1000:
            raise ValueError("an update of ill omen")
        sequence = int(array(request, "id").item())
        y = np.cumsum(x, axis=0)
        if not array(request, "start").item():
            y += self.sums[sequence]
        self.sums[sequence] = y[-1]
        return response(y=y)
"""

# How many sequences are under way.
LIVE = """
    live = set()

    def answer(self, request):
        sequence = int(array(request, "id").item())
        self.live.add(sequence)
        y = np.full((1, 1), len(self.live), np.float32)
        if array(request, "end").item():
            self.live.remove(sequence)
        return response(y=y)
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")

    def write(name: str, methods: str, shape: list[int], max_batch_size: int = 8) -> None:
        inputs = {"x": ("FP32", shape)}
        write_model(
            models, name, methods, inputs=inputs, max_batch_size=max_batch_size, config=BATCHING
        )

    write("sum", RUNNING_SUMS, [1])
    write("live", LIVE, [1])
    write("windows", RUNNING_SUMS, [2, 8])
    write("window", RUNNING_SUM, [2, 8], max_batch_size=0)
    write("four_windows", RUNNING_SUMS, [4, 2, 8], max_batch_size=0)
    write("chunks", RUNNING_SUMS, [-1, 1], max_batch_size=0)
    write_model(models, "echo", ECHO)
    write_implicit_model(models, "implicit")
    write_ensemble(models, "ensemble", "sum")
    write_ensemble(models, "implicit_ensemble", "implicit")
    return models


@pytest.fixture(scope="module")
def server(repository: Path, triton_home: Path) -> Iterator[TritonInstance]:
    with serve(repository, ports="auto", wait=True, timeout_s=120) as instance:
        yield instance


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a file of 103 rows; whole numbers, whose sums are exact."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.random.default_rng(3).integers(-9, 9, (103, 1)).astype(np.float32)
    return tmp_path


def infer(
    server: TritonInstance,
    model: str,
    directory: Path,
    on_progress: Callable[[int, int], None] = lambda *_: None,
    *,
    client: Mapping[str, Any] | None = None,
    **fields: Any,
) -> ClientStatistics:
    request = Request(
        input_files=(directory / "a.h5",),
        output_file=directory / "out.h5",
        options=InferenceOptions(model_name=model, **fields),
        fingerprint="the same",
        provenance={},
    )
    with InferenceClient(server.endpoint, model, **(client or {})) as opened:
        return infer_file(opened, request, on_progress)


def read(file: Path, dataset: str) -> NDArray[Any]:
    with h5py.File(file) as opened:
        return np.asarray(opened[dataset])


def sums(x: NDArray[Any], rows_per_sequence: int) -> NDArray[Any]:
    """Return what the models are to answer."""
    begins = range(0, len(x), rows_per_sequence)
    return np.concatenate([np.cumsum(x[at : at + rows_per_sequence], axis=0) for at in begins])


@pytest.mark.parametrize("model", ["sum", "implicit", "ensemble", "implicit_ensemble"])
@pytest.mark.parametrize("rows_per_sequence", [0, 20, 103, 1])
def test_each_row_is_answered_in_its_sequence(
    server: TritonInstance, directory: Path, model: str, rows_per_sequence: int
) -> None:
    statistics = infer(server, model, directory, rows_per_sequence=rows_per_sequence)
    x = read(directory / "a.h5", "x")
    assert np.array_equal(read(directory / "out.h5", "y"), sums(x, rows_per_sequence or 103))
    assert statistics.rows == statistics.requests == 103


@pytest.mark.parametrize(("max_in_flight", "most"), [(1, 1), (2, 2), (8, 3)])
def test_as_many_are_under_way_as_there_are_places(
    server: TritonInstance, directory: Path, max_in_flight: int, most: int
) -> None:
    infer(server, "live", directory, client={"max_in_flight": max_in_flight}, rows_per_sequence=10)
    assert read(directory / "out.h5", "y").max() == most


def test_an_update_ends_with_its_sequence(server: TritonInstance, directory: Path) -> None:
    statistics = infer(server, "chunks", directory, rows_per_sequence=10, batch_size=4)
    x = read(directory / "a.h5", "x")
    assert np.array_equal(read(directory / "out.h5", "y"), sums(x, 10))
    assert statistics.requests == 10 * 3 + 1
    assert statistics.rows == 103


@pytest.mark.parametrize("model", ["windows", "window", "four_windows"])
@pytest.mark.parametrize("rows_per_sequence", [0, 10])
def test_windows_are_updates(
    server: TritonInstance, tmp_path: Path, model: str, rows_per_sequence: int
) -> None:
    series = np.random.default_rng(5).integers(-9, 9, (2, 200)).astype(np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = series
    statistics = infer(
        server,
        model,
        tmp_path,
        window="8",
        stride="4",
        shifts=("0", "2"),
        rows_per_sequence=rows_per_sequence,
    )
    windows = np.array(
        [[series[0, i : i + 8], series[1, i + 2 : i + 10]] for i in range(0, 191, 4)]
    )
    expected = sums(windows, rows_per_sequence or len(windows))
    assert np.array_equal(read(tmp_path / "out.h5", "y"), expected)
    assert statistics.rows == len(windows)


class Stopped(Exception):  # noqa: N818 (it is none)
    """What ends a run in its middle."""


@pytest.mark.parametrize("model", ["sum", "implicit"])
@pytest.mark.parametrize("rows_per_sequence", [0, 30])
def test_a_run_that_was_stopped_goes_on_in_its_sequence(
    server: TritonInstance, directory: Path, model: str, rows_per_sequence: int
) -> None:
    stopped_at = 0

    def stop_at_70(done: int, _: int) -> None:
        nonlocal stopped_at
        if done >= 70:  # more where the sequence before was the slower one
            stopped_at = done
            raise Stopped

    options: dict[str, Any] = {
        "rows_per_sequence": rows_per_sequence,
        "client": {"max_in_flight": 2},
    }
    with pytest.raises(Stopped):
        infer(server, model, directory, stop_at_70, **options)
    assert not [t for t in threading.enumerate() if t.name.startswith("hermes-sequence")]
    seen: list[int] = []
    statistics = infer(server, model, directory, lambda done, _: seen.append(done), **options)
    assert seen[0] == stopped_at
    assert seen == sorted(seen)
    x = read(directory / "a.h5", "x")
    assert np.array_equal(read(directory / "out.h5", "y"), sums(x, rows_per_sequence or 103))
    assert statistics.rows == 103 - stopped_at
    # A sequence that a busy machine left idle for a second is sent again, and counted as retried.
    begun_at = stopped_at - stopped_at % (rows_per_sequence or 103)
    sent = 0 if stopped_at == 103 else 103 - begun_at
    assert statistics.requests == sent or (statistics.retries and statistics.requests > sent)


def test_nothing_is_sent_again_where_every_row_is_there(
    server: TritonInstance, directory: Path
) -> None:
    def stop_at_the_end(done: int, total: int) -> None:
        if done == total:
            raise Stopped

    with pytest.raises(Stopped):
        infer(server, "sum", directory, stop_at_the_end, rows_per_sequence=20)
    assert infer(server, "sum", directory, rows_per_sequence=20).requests == 0
    assert np.array_equal(read(directory / "out.h5", "y"), sums(read(directory / "a.h5", "x"), 20))


def test_an_update_that_fails_ends_them_all(server: TritonInstance, directory: Path) -> None:
    with h5py.File(directory / "a.h5", "a") as file:
        file["x"][55] = -2000
    with pytest.raises(RequestError, match="an update of ill omen"):
        infer(server, "sum", directory, rows_per_sequence=25)
    assert not (directory / "out.h5").exists()
    assert not [t for t in threading.enumerate() if t.name.startswith("hermes-sequence")]


@pytest.mark.parametrize(
    ("model", "fields", "problem"),
    [
        ("echo", {"rows_per_sequence": 10}, "rows_per_sequence: model 'echo' keeps no state"),
        ("sum", {"batch_size": 2}, "batch_size: 2 rows, but model 'sum' takes 1 at most"),
    ],
)
def test_what_the_model_cannot_is_refused(
    server: TritonInstance, directory: Path, model: str, fields: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ParameterError, match=problem):
        infer(server, model, directory, **fields)
    assert not list(directory.glob("out*"))


def test_memory_does_not_grow_with_the_file(
    server: TritonInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermes.aeriel.files._sequences.HELD_BYTES", 1 << 20)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (96 << 16, 1), np.float32)[:1] = 0  # sparse, but written

    def slowly(*_: int) -> None:
        time.sleep(0.002)

    tracemalloc.start()
    try:
        infer(server, "chunks", tmp_path, slowly, rows_per_sequence=24 << 16, batch_size=1 << 13)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20  # 24 MiB come in, and go out


def test_a_disk_that_is_slow_loses_no_sequence(server: TritonInstance, directory: Path) -> None:
    def stall(done: int, _: int) -> None:
        if done == 10:
            time.sleep(2.5)  # the server gives a silent sequence up after 1 s

    statistics = infer(server, "sum", directory, stall)
    x = read(directory / "a.h5", "x")
    assert np.array_equal(read(directory / "out.h5", "y"), sums(x, 103))
    assert statistics.retries == 0


def test_a_server_that_was_killed_is_no_gap(
    repository: Path,
    triton_home: Path,
    directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Few answers may wait for the disk, or the server sends all of them before it is killed.
    monkeypatch.setattr("hermes.aeriel.files._sequences.HELD_BYTES", 8 << 10)
    options: dict[str, Any] = {"ports": some_ports(), "wait": True, "log_file": tmp_path / "log"}
    with ExitStack() as servers:
        first = servers.enter_context(serve(repository, **options))

        def kill_once(done: int, _: int) -> None:
            if done >= 20 and first.is_alive():
                kill_server(first)
                servers.enter_context(serve(repository, **options))

        statistics = infer(first, "sum", directory, kill_once, rows_per_sequence=40)
    x = read(directory / "a.h5", "x")
    assert np.array_equal(read(directory / "out.h5", "y"), sums(x, 40))
    assert statistics.retries > 0
    assert statistics.rows == 103
