"""Channels from several datasets, and from several files, are read as one series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hermes.aeriel.client import Windows
from hermes.aeriel.files import WindowOptions, file_stamp, inspect
from hermes.aeriel.files._reading import open_data
from hermes.aeriel.files._series import read_windows
from hermes.errors import DataError, ParameterError
from tests.files.test_series import sliced

RATE = 16.0
Series = NDArray[np.float64]


def write(file: Path, n_samples: int, name: str = "strain", **options: Any) -> Series:
    """Write a series of distinct numbers."""
    attributes = {"dx": 1 / RATE, "x0": 100.0, **options.pop("attributes", {})}
    seed = options.pop("seed", 0)
    series = np.random.default_rng(seed).normal(size=n_samples)
    with h5py.File(file, "a") as opened:
        opened.create_dataset(name, data=series, **options)
        opened[name].attrs.update(attributes)
    return series


def read(
    files: Path | Sequence[Path], input_map: Any, cut: WindowOptions
) -> tuple[Windows, list[Series]]:
    """Return the windows of an input, a batch of three at a time."""
    facts = inspect(files, input_map, cut=cut)
    with open_data(facts, {"x": np.dtype("f8")}, cut=cut) as data:
        windows = cut.windows(data.stacks["x"])

        def samples(*arguments: Any, **keywords: Any) -> None:
            data.read_samples("x", *arguments, **keywords)

        batches = read_windows(data.stacks["x"], windows, batch_size=3, read=samples)
        return windows, [batch.copy() for batch in batches]


@pytest.mark.parametrize(
    "stored", [{}, {"chunks": (7,)}, {"compression": "gzip", "chunks": (50,)}], ids=str
)
@given(
    window=st.integers(1, 40),
    stride=st.integers(1, 60),
    shifts=st.lists(st.integers(-20, 20), min_size=2, max_size=2),
    late=st.integers(-10, 10),
)
@settings(deadline=None, max_examples=15)
def test_gives_the_windows_of_the_stacked_series(
    stored: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
    window: int,
    stride: int,
    shifts: list[int],
    late: int,
) -> None:
    directory = tmp_path_factory.mktemp("channels")
    start = 100.0 + late / RATE
    first = write(directory / "a.h5", 230, **stored)
    second = write(directory / "b.h5", 220, seed=1, attributes={"x0": start}, **stored)
    cut = WindowOptions(
        window=str(window), stride=str(stride), shifts=tuple(map(str, shifts)), overlap=True
    )
    windows, batches = read([directory / "a.h5", directory / "b.h5"], {"x": "strain"}, cut)
    begin, end = max(0, late), min(230, 220 + late)
    series = np.stack([first[begin:end], second[begin - late : end - late]])
    assert windows.n_samples == end - begin
    assert windows.start_time == 100.0 + begin / RATE
    expected = sliced(series, windows, range(len(windows)))
    assert np.array_equal(np.concatenate(batches), expected)


def test_datasets_of_one_file_are_channels(tmp_path: Path) -> None:
    file = tmp_path / "a.h5"
    series = [write(file, 100, name, seed=n) for n, name in enumerate(["H1:STRAIN", "L1:STRAIN"])]
    names = ("L1:STRAIN", "H1:STRAIN")  # in the order that is asked for
    facts = inspect(file, {"x": names}, cut=WindowOptions(window="10"))
    assert facts.datasets["x"].shape == (10, 2, 10)
    assert facts.datasets["x"].paths == names
    _, batches = read(file, {"x": names}, WindowOptions(window="10"))
    assert np.array_equal(np.concatenate(batches)[4], [series[1][40:50], series[0][40:50]])


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ({"n_samples": 99}, r"has 99 samples, but .*a\.h5:strain has 100; give overlap"),
        ({"attributes": {"x0": 101.0}}, r"begins at 101 s, but .*a\.h5:strain at 100 s"),
        ({"attributes": {"dx": 1 / 8}}, r"has sample rate 8\.0, but .*a\.h5:strain has 16\.0"),
        ({"dtype": "f4"}, "has dtype float32, but .* has float64"),
        ({"attributes": {"unit": "m"}}, "has units m, but"),
    ],
)
def test_channels_that_do_not_agree_are_refused(
    tmp_path: Path, other: dict[str, Any], problem: str
) -> None:
    write(tmp_path / "a.h5", 100)
    write(tmp_path / "b.h5", **{"n_samples": 100, **other})
    files = [tmp_path / "a.h5", tmp_path / "b.h5"]
    with pytest.raises(DataError, match=rf"b\.h5, dataset 'strain': {problem}"):
        inspect(files, {"x": "strain"}, cut=WindowOptions(window="10"))


def test_a_channel_without_a_start_does_not_agree_with_one_that_has_one(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", 100)
    write(tmp_path / "b.h5", 100)
    with h5py.File(tmp_path / "b.h5", "a") as opened:
        del opened["strain"].attrs["x0"]
    files = [tmp_path / "a.h5", tmp_path / "b.h5"]
    with pytest.raises(DataError, match=r"begins at no known time, but .* at 100 s"):
        inspect(files, {"x": "strain"}, cut=WindowOptions(window="10"))
    with pytest.raises(DataError, match="says no start time, which the overlap"):
        inspect(files, {"x": "strain"}, cut=WindowOptions(window="10", overlap=True))


def test_what_has_nothing_in_common_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", 100)
    write(tmp_path / "b.h5", 100, attributes={"x0": 200.0})
    files = [tmp_path / "a.h5", tmp_path / "b.h5"]
    with pytest.raises(DataError, match=r"b\.h5.*has no time in common with .*a\.h5:strain"):
        inspect(files, {"x": "strain"}, cut=WindowOptions(window="10", overlap=True))


@pytest.mark.parametrize(
    ("input_map", "cut", "problem"),
    [
        ({"x": ("a", "b")}, None, "'x' has several datasets, which can only be the channels"),
        ({"x": ("a", "a")}, WindowOptions(window="4"), "is given for two channels"),
        ({"x": ("a", "two")}, WindowOptions(window="4"), r"a channel is a series of shape"),
        ({"x": ("a", "none")}, WindowOptions(window="4"), "dataset 'none': not found"),
    ],
)
def test_what_cannot_be_stacked_is_refused(
    tmp_path: Path, input_map: Any, cut: WindowOptions | None, problem: str
) -> None:
    for name in ("a", "b"):
        write(tmp_path / "a.h5", 100, name)
    with h5py.File(tmp_path / "a.h5", "a") as opened:
        opened["two"] = np.zeros((2, 100))
    with pytest.raises((DataError, ParameterError), match=problem):
        inspect(tmp_path / "a.h5", input_map, cut=cut)


def test_as_many_datasets_as_files_are_wanted(tmp_path: Path) -> None:
    files = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for file in files:
        write(file, 100)
    names = ("strain", "strain", "strain")
    with pytest.raises(ParameterError, match="'x' has 3 datasets for 2 files"):
        inspect(files, {"x": names}, cut=WindowOptions(window="4"))


def test_what_stands_for_an_input_stands_for_all_of_its_files(tmp_path: Path) -> None:
    files = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for file in files:
        write(file, 100)
    before = file_stamp(*files)
    assert file_stamp(*reversed(files)) != before
    with h5py.File(files[1], "a") as opened:
        opened["more"] = np.zeros(10)
    assert file_stamp(*files) != before


def test_missing_values_of_a_channel_are_found_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermes.aeriel.files._series.READ_BYTES", 1)
    files = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for file in files:
        write(file, 100)
    with h5py.File(files[1], "a") as opened:
        opened["strain"][[3, 57]] = np.nan
    cut = WindowOptions(window="10", stride="5")
    facts = inspect(files, {"x": "strain"}, cut=cut)
    with open_data(facts, {"x": np.dtype("f8")}, cut=cut) as data:
        stack = data.stacks["x"]
        windows = cut.windows(stack)

        def samples(*arguments: Any, **keywords: Any) -> None:
            data.read_samples("x", *arguments, **keywords)

        for _ in read_windows(stack, windows, batch_size=2, read=samples):
            pass
        assert data.n_not_finite == {"x": 2}
    with (
        open_data(facts, {"x": np.dtype("f8")}, cut=cut, finite=True) as data,
        pytest.raises(DataError, match=r"b\.h5, dataset 'strain': has values that are not finite"),
    ):
        data.read_samples(
            "x", np.empty((2, 10)), (..., slice(0, 10)), (..., slice(0, 10)), window=0, n_known=0
        )
