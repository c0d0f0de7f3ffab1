"""Datasets in chunks: the values are those of the file, and no chunk is read twice."""

import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.aeriel.files import WindowOptions, inspect
from hermes.aeriel.files import _blocks as blocks_module
from hermes.aeriel.files._blocks import BlockPlan, Blocks, within_bounds
from hermes.aeriel.files._reading import InputData, open_data
from hermes.aeriel.files._rows import RowPlan
from hermes.aeriel.files._series import SeriesPlan

GZIP: dict[str, Any] = {"compression": "gzip", "compression_opts": 1}


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, int]]:
    """Return how often each block was read from the file; blocks are small."""
    counts: Counter[tuple[int, int]] = Counter()
    fetch = Blocks._fetch

    def count(self: Blocks, number: int, group: int, array: Any) -> None:
        counts[group, number] += 1
        fetch(self, number, group, array)

    monkeypatch.setattr(Blocks, "_fetch", count)
    monkeypatch.setattr(blocks_module, "READ_BYTES", 1)
    monkeypatch.setattr(blocks_module, "SHIFTED_READ_BYTES", 360)
    return counts


def in_memory(shape: tuple[int, ...], chunks: Any, dtype: Any = "f4") -> h5py.Dataset:
    opened = h5py.File.in_memory()
    data = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    return opened.create_dataset("x", data=data, chunks=chunks, **GZIP)


@given(data=st.data())
def test_parts_are_those_of_the_dataset(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    chunks = tuple(data.draw(st.integers(1, length)) for length in shape)
    axis = data.draw(st.sampled_from([0, -1]))
    dataset = in_memory(shape, chunks)
    shifts = data.draw(st.sampled_from([(0,), tuple(range(shape[0]))] if axis == -1 else [(0,)]))
    plan = BlockPlan.of(dataset, axis=axis, n_readers=data.draw(st.integers(1, 3)), shifts=shifts)
    plan = replace(plan, length=data.draw(st.integers(1, shape[axis])))
    blocks = Blocks(dataset, axis, plan)
    everything = dataset[...]
    for _ in range(data.draw(st.integers(1, 6))):
        begin = data.draw(st.integers(0, shape[axis] - 1))
        end = data.draw(st.integers(begin + 1, shape[axis]))
        if axis == 0:
            array = np.empty((end - begin, shape[1]), data.draw(st.sampled_from(["f4", "f8"])))
            blocks.read(array, begin, end)
            np.testing.assert_array_equal(array, everything[begin:end])
            continue
        channel = data.draw(st.integers(0, shape[0] - 1)) if plan.channels else None
        wanted = everything if channel is None else everything[channel]
        array = np.empty((*wanted.shape[:-1], end - begin), "f4")
        blocks.read(array, begin, end, channel)
        np.testing.assert_array_equal(array, wanted[..., begin:end])
        window = data.draw(st.integers(1, end - begin))
        stride = data.draw(st.integers(window, end - begin))
        count = (end - begin - window) // stride + 1
        cuts = h5py.MultiBlockSlice(start=begin, stride=stride, count=count, block=window)
        array = np.empty((*wanted.shape[:-1], count * window), "f4")
        blocks.read_windows(array, cuts, channel)
        pieces = [
            wanted[..., first : first + window]
            for first in range(begin, begin + count * stride, stride)
        ]
        np.testing.assert_array_equal(array, np.concatenate(pieces, axis=-1))


def requests(
    file: Path, dtype: str = "f4", cut: WindowOptions | None = None, **options: Any
) -> list[Any]:
    """Return what the requests for a file are, of five rows or windows each."""
    facts = inspect(file, {"x": "x"}, cut=cut)
    inputs = {"x": (facts.datasets["x"].shape[1:], np.dtype(dtype))}
    plan: Any = RowPlan(inputs=inputs, rows_per_request=5, with_row_axis=True)
    if cut:
        plan = SeriesPlan.of_windows(plan, facts, cut, stateful=True)
    with open_data(facts, {"x": np.dtype(dtype)}, cut=cut, **options) as data:
        return [each["x"].copy() for each in plan.updates(data, range(facts.rows))]


def write(file: Path, data: Any, chunks: Any, **options: Any) -> Path:
    with h5py.File(file, "w") as opened:
        opened.create_dataset("x", data=data, chunks=chunks, **{**GZIP, **options})
    return file


@pytest.fixture(autouse=True)
def small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hermes.aeriel.files._rows.READ_BYTES", 1)
    monkeypatch.setattr("hermes.aeriel.files._series.READ_BYTES", 1)


@pytest.mark.parametrize("chunks", [(100, 8), (100, 1), (33, 3), (7, 8), (1, 1)], ids=str)
def test_each_chunk_is_read_once_for_rows(
    tmp_path: Path, fetched: Counter[Any], chunks: tuple[int, ...]
) -> None:
    data = np.random.default_rng(0).normal(size=(100, 8)).astype("f4")
    file = write(tmp_path / "x.h5", data, chunks)
    np.testing.assert_array_equal(np.concatenate(requests(file)), data)
    assert fetched == {(0, number): 1 for number in range(-(-100 // chunks[0]))}


@pytest.mark.parametrize("stride", [2, 6, 7, 25])
@pytest.mark.parametrize("chunks", [(2, 10), (1, 10), (2, 200), (1, 200), (2, 1)], ids=str)
def test_no_chunk_is_read_twice_for_windows(
    tmp_path: Path, fetched: Counter[Any], chunks: tuple[int, ...], stride: int
) -> None:
    data = np.random.default_rng(0).normal(size=(2, 200)).astype("f4")
    file = write(tmp_path / "x.h5", data, chunks)
    windows = np.concatenate(requests(file, cut=WindowOptions(window="6", stride=str(stride))))
    wanted = np.lib.stride_tricks.sliding_window_view(data, 6, axis=-1)[:, ::stride]
    np.testing.assert_array_equal(windows, np.moveaxis(wanted, 0, 1))
    assert set(fetched.values()) == {1}


@pytest.mark.parametrize("chunks", [(3, 10), (1, 10), (2, 40), (1, 400)], ids=str)
def test_no_chunk_is_read_twice_where_channels_are_shifted(
    tmp_path: Path, fetched: Counter[Any], chunks: tuple[int, ...]
) -> None:
    data = np.random.default_rng(0).normal(size=(3, 400)).astype("f4")
    file = write(tmp_path / "x.h5", data, chunks)
    windows = np.concatenate(
        requests(file, cut=WindowOptions(window="6", shifts=("0", "95", "-20")))
    )
    first = np.stack([data[0, 20:26], data[1, 115:121], data[2, 0:6]])
    np.testing.assert_array_equal(windows[0], first)
    assert set(fetched.values()) == {1}


def test_no_chunk_is_read_twice_where_several_read_at_once(
    tmp_path: Path, fetched: Counter[Any]
) -> None:
    data = np.arange(800, dtype="f4").reshape(800, 1)
    file = write(tmp_path / "x.h5", data, (20, 1))
    facts = inspect(file, {"x": "x"})
    with open_data(facts, {"x": np.dtype("f4")}, n_readers=8) as opened:
        # In turn, each in a part of its own: all of them leave a chunk in the same round.
        for begin in range(100):
            for reader in range(8):
                row = np.empty((1, 1), "f4")
                opened.read_rows("x", 100 * reader + begin, 100 * reader + begin + 1, row)
                assert row[0, 0] == 100 * reader + begin
    assert fetched == {(0, number): 1 for number in range(40)}


def test_several_threads_read_what_is_theirs(tmp_path: Path) -> None:
    data = np.arange(4000, dtype="f4").reshape(4000, 1)
    file = write(tmp_path / "x.h5", data, (7, 1))
    facts = inspect(file, {"x": "x"})

    def read(opened: InputData, part: int) -> bool:
        rows = np.empty((3, 1), "f4")
        for begin in range(1000 * part, 1000 * part + 997, 3):
            opened.read_rows("x", begin, begin + 3, rows)
            if rows[:, 0].tolist() != [begin, begin + 1, begin + 2]:
                return False
        return True

    reading = open_data(facts, {"x": np.dtype("f4")}, n_readers=2)
    with reading as opened, ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lambda part: read(opened, part), range(4)))


def test_values_that_are_rounded_are_read_once_too(tmp_path: Path, fetched: Counter[Any]) -> None:
    # What became infinite was compared with the file, whose one chunk was read for every request.
    data = np.where(np.arange(100) % 3 == 0, np.inf, 1 / 3)[:, np.newaxis]
    file = write(tmp_path / "x.h5", data, (100, 1))
    np.testing.assert_array_equal(
        np.concatenate(requests(file, cast=True)), data.astype(np.float32)
    )
    assert fetched == {(0, 0): 1}


@pytest.mark.parametrize("chunks", [None, (9, 2)], ids=str)
@pytest.mark.parametrize(
    ("given_dtype", "wanted", "cast"),
    [("i2", "f4", False), (">f4", "f4", False), ("f8", "f2", True), ("?", "?", False),
     ("i8", "f8", False), ("u1", "i8", False), ("S3", object, False)],
)  # fmt: skip
def test_dtypes_are_read_alike_with_chunks_and_without(
    tmp_path: Path, chunks: Any, given_dtype: str, wanted: Any, cast: bool
) -> None:
    data = (np.arange(80).reshape(40, 2) % 100).astype(given_dtype)
    options = {} if chunks else {"compression": None, "compression_opts": None}
    file = write(tmp_path / "x.h5", data, chunks, **options)
    read = np.concatenate(requests(file, wanted, cast=cast))
    assert read.dtype == wanted
    assert read.tolist() == data.astype(wanted).tolist()


def test_a_virtual_dataset_is_read_in_blocks_of_its_sources(
    tmp_path: Path, fetched: Counter[Any]
) -> None:
    data = np.random.default_rng(0).normal(size=(900, 4)).astype("f4")
    layout = h5py.VirtualLayout((900, 4), "f4")
    for number in range(3):
        rows = slice(300 * number, 300 * (number + 1))
        write(tmp_path / f"{number}.h5", data[rows], (20, 2))
        layout[rows] = h5py.VirtualSource(f"{number}.h5", "x", (300, 4))
    with h5py.File(tmp_path / "x.h5", "w") as opened:
        opened.create_virtual_dataset("x", layout)
    np.testing.assert_array_equal(np.concatenate(requests(tmp_path / "x.h5")), data)
    assert fetched == {(0, number): 1 for number in range(6)}  # of eight chunks


def plans(n_rows: int) -> Iterator[BlockPlan]:
    for width in (4, 12):
        yield BlockPlan.of(in_memory((n_rows, width), (n_rows, 1)), axis=0)


def test_blocks_of_a_file_are_within_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(blocks_module, "BLOCKS_BYTES", 1600)
    bounded = within_bounds(list(plans(100)))
    assert sum(plan.n_bytes for plan in bounded) <= 1600
    assert [plan.n_passes for plan in bounded] == [4, 4]
    data = np.arange(800, dtype="f4").reshape(100, 8)
    file = write(tmp_path / "x.h5", data, (100, 1))
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(np.concatenate(requests(file)), data)
    assert "its chunks are read about 2 times over" in caplog.text
    assert "for 100 rows" in caplog.text


def test_what_needs_no_blocks_has_none(tmp_path: Path) -> None:
    """Contiguous data, and chunks as wide as a row that are stored as they are."""
    with h5py.File(tmp_path / "x.h5", "w") as opened:
        for name, options in {"a": {}, "b": {"chunks": (10, 4)}}.items():
            opened.create_dataset(name, data=np.zeros((40, 4), "f4"), **options)
            assert BlockPlan.of(opened[name], axis=0).length == 0
