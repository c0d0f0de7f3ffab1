"""Windows read from a file are those that slicing the whole series gives."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hermes.aeriel.client import Windows
from hermes.aeriel.files import InferenceOptions, inspect
from hermes.aeriel.files._series import read_windows
from hermes.aeriel.files._stack import Stack
from hermes.aeriel.files._times import sample_rate_of, start_time_of
from hermes.aeriel.files._window_options import WindowOptions
from hermes.errors import DataError, ParameterError


@pytest.fixture
def file() -> Iterator[h5py.File]:
    with h5py.File(io.BytesIO(), "w") as opened:
        yield opened


def sliced(series: NDArray[Any], windows: Windows, indices: range) -> NDArray[Any]:
    if series.ndim == 1:
        return np.stack([series[windows.samples(index)[0]] for index in indices])
    cuts = [windows.samples(index) for index in indices]
    return np.stack(
        [[channel[cut[number % len(cut)]] for number, channel in enumerate(series)] for cut in cuts]
    )


@pytest.fixture(params=[{}, {"chunks": True}, {"compression": "gzip"}], ids=str)
def stored(request: pytest.FixtureRequest, file: h5py.File) -> Any:
    """Return a function that stores a series."""
    return lambda series: file.create_dataset(f"series{len(file)}", data=series, **request.param)


class TestReadWindows:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(
        n_samples=st.integers(1, 300),
        window=st.integers(1, 40),
        stride=st.integers(1, 60),
        shifts=st.lists(st.integers(-20, 20), min_size=1, max_size=3),
        one_axis=st.booleans(),
        batch_size=st.integers(1, 9),
        read_bytes=st.integers(0, 2000),
        data=st.data(),
    )
    def test_gives_the_obvious_windows(
        self,
        stored: Any,
        n_samples: int,
        window: int,
        stride: int,
        shifts: list[int],
        one_axis: bool,
        batch_size: int,
        read_bytes: int,
        data: st.DataObject,
    ) -> None:
        if one_axis:
            shifts = shifts[:1]
        series = np.arange(len(shifts) * n_samples, dtype=np.float32).reshape(-1, n_samples)
        series = series[0] if one_axis else series
        windows = Windows(n_samples=n_samples, window=window, stride=stride, shifts=tuple(shifts))
        start = data.draw(st.integers(0, len(windows)))
        dataset = stored(series)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hermes.aeriel.files._series.READ_BYTES", read_bytes)
            batches = read_windows(dataset, windows, batch_size=batch_size, start=start)
            for indices in windows.batches(batch_size, start):
                np.testing.assert_array_equal(next(batches), sliced(series, windows, indices))
            assert next(batches, None) is None

    def test_reads_as_the_dtype_of_the_model(self, stored: Any) -> None:
        windows = Windows(n_samples=50, window=10, stride=5, shifts=(0, 3))
        series = np.arange(100, dtype=np.int16).reshape(2, 50)
        for batch in read_windows(stored(series), windows, batch_size=4, dtype=np.float32):
            assert batch.dtype == np.float32

    @pytest.mark.parametrize("shifts", [(0, 0), (0, 700)])
    def test_reads_each_sample_once_in_large_pieces(
        self, file: h5py.File, shifts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("hermes.aeriel.files._series.READ_BYTES", 1 << 16)
        n_samples = 100_000
        dataset = Recording(file.create_dataset("series", (2, n_samples), np.float32))
        windows = Windows(n_samples=n_samples, window=1000, stride=10, shifts=shifts)
        batches: Any = read_windows(dataset, windows, batch_size=64)
        assert sum(map(len, batches)) == len(windows)
        assert dataset.counts.max() == 1
        assert dataset.counts.sum() == 2 * (n_samples - max(shifts)) - 2 * (
            (n_samples - max(shifts) - 1000) % 10
        )
        assert dataset.n_reads <= 2 * (2 * n_samples * 4) / (1 << 16) + 2

    def test_reads_nothing_between_windows_that_are_far_apart(self, file: h5py.File) -> None:
        dataset = Recording(file.create_dataset("series", (2, 1_000_000), np.float32))
        windows = Windows(n_samples=1_000_000, window=10, stride=100_000, shifts=(0, 5))
        batches: Any = read_windows(dataset, windows, batch_size=8)
        assert [len(batch) for batch in batches] == [8, 2]
        assert dataset.counts.sum() == 2 * 10 * 10

    @pytest.mark.parametrize(("window", "stride"), [(4096, 16), (4096, 4096), (256, 1 << 20)])
    def test_holds_a_bounded_part_of_the_series(
        self, tmp_path: Path, window: int, stride: int
    ) -> None:
        tracemalloc = pytest.importorskip("tracemalloc")
        with h5py.File(tmp_path / "sparse.h5", "w") as opened:
            dataset = opened.create_dataset("series", (2, 1 << 24), np.float32)
            windows = Windows(n_samples=1 << 24, window=window, stride=stride, shifts=(0, 99))
            tracemalloc.start()
            for _ in read_windows(dataset, windows, batch_size=128):
                pass
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 12 << 20


class Recording:
    """A dataset that counts how often each of its samples is read."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        self.shape, self.dtype = dataset.shape, dataset.dtype
        self.counts = np.zeros(dataset.shape, np.int64)
        self.n_reads = 0

    def read_direct(self, buffer: Any, source: Any, destination: Any) -> None:
        self._dataset.read_direct(buffer, source, destination)
        self.n_reads += 1
        where, samples = source
        if isinstance(samples, h5py.MultiBlockSlice):
            for number in range(samples.count):
                begin = samples.start + number * samples.stride
                self.counts[where, begin : begin + samples.block] += 1
        else:
            self.counts[where, samples] += 1


class TestSampleRate:
    @pytest.mark.parametrize(
        ("attributes", "rate"),
        [
            ({"sample_rate": 2048}, 2048.0),
            ({"sample_rate": np.array([2048.0])}, 2048.0),
            ({"Xspacing": 1 / 4096, "Xstart": 1126259446, "Xunits": "second"}, 4096.0),
            ({"Xspacing": 1 / 4096, "Xunits": np.bytes_(b"second")}, 4096.0),
            ({"dx": 1 / 16384, "x0": 1e9, "xunit": "s"}, 16384.0),
            ({"dx": 0.001}, 1000.0),
            ({"dx": 1 / 3000}, 3000.0),
            ({"dx": 5.0}, 0.2),
            ({"delta_t": 1 / 2048}, 2048.0),
            ({"sample_rate": "4096"}, 4096.0),
            ({}, None),
        ],
    )
    def test_is_in_an_attribute(
        self, file: h5py.File, attributes: dict[str, Any], rate: float | None
    ) -> None:
        dataset = file.create_dataset("strain/Strain", (10,), "f4")
        dataset.attrs.update(attributes)
        assert sample_rate_of(dataset) == rate

    def test_is_in_a_group_where_the_dataset_has_none(self, file: h5py.File) -> None:
        dataset = file.create_dataset("a/b/c", (10,), "f4")
        file.attrs["sample_rate"] = 16.0
        assert sample_rate_of(dataset) == 16.0
        file["a"].attrs["dx"] = 0.25
        assert sample_rate_of(dataset) == 4.0
        dataset.attrs["sample_rate"] = 2.0
        assert sample_rate_of(dataset) == 2.0

    @pytest.mark.parametrize(
        "attributes",
        [{"dx": 0.0}, {"sample_rate": -1}, {"sample_rate": "fast"}, {"dx": [1.0, 2.0]},
         {"dx": 1.0, "xunit": "ms"}, {"sample_rate": np.nan},
         {"sample_rate": 8.0, "dx": 0.25}],
    )  # fmt: skip
    def test_that_makes_no_sense_is_refused(
        self, file: h5py.File, attributes: dict[str, Any]
    ) -> None:
        dataset = file.create_dataset("series", (10,), "f4")
        dataset.attrs.update(attributes)
        with pytest.raises(DataError, match="attribute"):
            sample_rate_of(dataset)

    @pytest.mark.parametrize("name", ["Xstart", "x0", "t0", "start_time"])
    def test_comes_with_a_start_time(self, file: h5py.File, name: str) -> None:
        dataset = file.create_dataset("series", (10,), "f4")
        assert start_time_of(dataset) == 0.0
        dataset.attrs[name] = 1126259446
        assert start_time_of(dataset) == 1126259446.0

    @pytest.mark.parametrize(
        ("attributes", "problem"),
        [
            ({"x0": np.nan}, "its attribute x0 is nan, no time"),
            ({"x0": 7000.0, "dx": 1.0, "xunit": "ms"}, "its attribute x0 is in 'ms', not in sec"),
            ({"x0": np.float32(1126259446)}, "x0 is a float32, which is exact to 128 s"),
            ({"x0": np.float32(1000.0)}, "x0 is a float32, which is exact to 6.1e-05 s"),
        ],
    )
    def test_a_start_time_that_would_be_another_is_refused(
        self, file: h5py.File, attributes: dict[str, Any], problem: str
    ) -> None:
        dataset = file.create_dataset("series", (10,), "f4")
        dataset.attrs.update(attributes)
        with pytest.raises(DataError, match=problem):
            start_time_of(dataset, 32768.0)


class TestCut:
    def test_is_none_without_a_window(self) -> None:
        assert WindowOptions.of(InferenceOptions(model_name="m")) is None
        assert WindowOptions.of(InferenceOptions(model_name="m", window="1s")) == WindowOptions(
            window="1s"
        )

    @pytest.mark.parametrize(
        "option",
        [{"stride": "2"}, {"shifts": ("1",)}, {"sample_rate": 4.0}],
        ids=lambda o: next(iter(o)),
    )
    def test_of_no_window_is_refused(self, option: dict[str, Any]) -> None:
        with pytest.raises(ParameterError, match=f"^{next(iter(option))}: "):
            WindowOptions.of(InferenceOptions(model_name="m", **option))

    def test_takes_rate_and_start_from_the_file(self, file: h5py.File) -> None:
        dataset = file.create_dataset("series", (2, 4096), "f4")
        dataset.attrs.update({"dx": 1 / 1024, "x0": 7.0})
        windows = WindowOptions(window="1s", stride="0.5s", shifts=("0", "0.25s")).windows(
            Stack.of(dataset)
        )
        assert windows == Windows(
            n_samples=4096, window=1024, stride=512, shifts=(0, 256), sample_rate=1024.0,
            start_time=7.0,
        )  # fmt: skip
        cut = WindowOptions(window="1s", sample_rate=512.0)
        assert cut.windows(cut.stack([dataset])).window == 512

    def test_has_the_shape_of_rows(self, file: h5py.File) -> None:
        cut = WindowOptions(window="10", stride="5")
        assert cut.shape_of(Stack.of(file.create_dataset("two", (3, 100), "f4"))) == (19, 3, 10)
        assert cut.shape_of(Stack.of(file.create_dataset("one", (100,), "f4"))) == (19, 10)

    @pytest.mark.parametrize(
        ("shape", "cut", "problem"),
        [
            ((3, 4, 5), WindowOptions(window="2"), "a series has"),
            ((), WindowOptions(window="2"), "a series has"),
            ((3, 100), WindowOptions(window="2", shifts=("0", "1")), "3 channels for 2 shifts"),
            ((100,), WindowOptions(window="2", shifts=("0", "1")), "1 channels for 2 shifts"),
            ((2, 100), WindowOptions(window="101"), "has 100 samples; a window takes 101"),
            (
                (2, 100),
                WindowOptions(window="100", shifts=("0", "1")),
                "takes 100, with these shifts",
            ),
        ],
    )
    def test_says_why_a_dataset_has_no_windows(
        self, file: h5py.File, shape: tuple[int, ...], cut: WindowOptions, problem: str
    ) -> None:
        with pytest.raises(DataError, match=problem):
            cut.windows(Stack.of(file.create_dataset("series", shape, "f4")))


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({}, None),
        ({"dx": 1 / 16, "x0": 7.0}, None),
        ({"dx": 1 / 16, "x0": 7.02}, None),
        ({"dx": 1 / 16, "x0": 9.0}, "has its first window at 9 s, but .*a.h5:a at 7 s"),
        ({"dx": 1 / 8, "x0": 7.0}, "has 2 windows in a second, but .*a.h5:a has 4"),
    ],
)
def test_windows_of_two_inputs_are_of_the_same_times(
    tmp_path: Path, attributes: dict[str, float], problem: str | None
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        for name, said in {"a": {"dx": 1 / 16, "x0": 7.0}, "b": attributes}.items():
            opened.create_dataset(name, data=np.zeros(64, "f4")).attrs.update(said)
    inputs = {"a": "a", "b": "b"}
    if problem is None:
        assert inspect(tmp_path / "a.h5", inputs, cut=WindowOptions(window="4")).rows == 16
        return
    with pytest.raises(DataError, match=problem):
        inspect(tmp_path / "a.h5", inputs, cut=WindowOptions(window="4"))
