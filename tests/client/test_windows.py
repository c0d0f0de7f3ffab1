"""The arithmetic of windows agrees with counting on one's fingers."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.aeriel.client._windows import Windows, pad, to_samples
from hermes.errors import ParameterError


def obvious(windows: Windows) -> list[list[list[int]]]:
    """The samples of each channel of each window, found by trying every place there is."""
    found = []
    reach = windows.n_samples + sum(map(abs, windows.shifts)) + windows.window
    places = range(-reach, reach)
    grid: int | None = None
    for place in places:
        window = [
            [place + shift + number for number in range(windows.window)] for shift in windows.shifts
        ]
        if all(0 <= sample < windows.n_samples for channel in window for sample in channel):
            grid = place if grid is None else grid
            if (place - grid) % windows.stride == 0:
                found.append(window)
    return found


def listed(windows: Windows) -> list[list[list[int]]]:
    return [
        [list(range(cut.start, cut.stop)) for cut in windows.samples(index)]
        for index in range(len(windows))
    ]


some_windows = st.builds(
    Windows,
    n_samples=st.integers(0, 60),
    window=st.integers(1, 20),
    stride=st.integers(1, 25),
    shifts=st.lists(st.integers(-15, 15), min_size=1, max_size=4).map(tuple),
)


class TestWindows:
    @pytest.mark.parametrize("n_samples", range(12))
    def test_are_the_obvious_ones_for_every_small_series(self, n_samples: int) -> None:
        for window in range(1, 8):
            for stride in range(1, 8):
                for shifts in ((0,), (0, 0), (0, 2), (2, 0), (-1, 1), (3, 3), (-2, -4)):
                    windows = Windows(
                        n_samples=n_samples, window=window, stride=stride, shifts=shifts
                    )
                    assert listed(windows) == obvious(windows)

    @given(some_windows)
    def test_are_the_obvious_ones(self, windows: Windows) -> None:
        assert listed(windows) == obvious(windows)

    @given(some_windows)
    def test_are_within_the_series_and_no_further_one_is(self, windows: Windows) -> None:
        for index in range(len(windows)):
            for cut in windows.samples(index):
                assert 0 <= cut.start < cut.stop <= windows.n_samples
        first = windows.origin + len(windows) * windows.stride
        further = [(first + shift, first + shift + windows.window) for shift in windows.shifts]
        assert any(not 0 <= begin < end <= windows.n_samples for begin, end in further)

    @given(some_windows, st.integers(1, 9), st.data())
    def test_batches_are_all_the_windows_from_any_start(
        self, windows: Windows, batch_size: int, data: st.DataObject
    ) -> None:
        start = data.draw(st.integers(0, len(windows)))
        batches = list(windows.batches(batch_size, start))
        assert [index for batch in batches for index in batch] == list(range(start, len(windows)))
        assert all(len(batch) == batch_size for batch in batches[:-1])
        assert all(1 <= len(batch) <= batch_size for batch in batches)
        assert len(batches) == -(-(len(windows) - start) // batch_size)

    @given(some_windows, st.data())
    def test_a_span_reaches_from_its_first_window_to_its_last(
        self, windows: Windows, data: st.DataObject
    ) -> None:
        if not windows:
            return
        first = data.draw(st.integers(0, len(windows) - 1))
        last = data.draw(st.integers(first, len(windows) - 1))
        assert windows.span(range(first, last + 1)) == tuple(
            slice(begin.start, end.stop)
            for begin, end in zip(windows.samples(first), windows.samples(last), strict=True)
        )

    def test_do_not_exist_in_a_series_that_is_too_short(self) -> None:
        assert not Windows(n_samples=3, window=4, stride=1)
        assert len(Windows(n_samples=4, window=4, stride=1)) == 1
        assert not Windows(n_samples=4, window=4, stride=1, shifts=(0, 1))
        assert not Windows(n_samples=0, window=1, stride=1000)

    @pytest.mark.parametrize("index", [-1, 4])
    def test_beyond_the_last_are_an_index_error(self, index: int) -> None:
        windows = Windows(n_samples=10, window=4, stride=2, sample_rate=1.0)
        with pytest.raises(IndexError, match=f"window {index} of 4"):
            windows.samples(index)
        with pytest.raises(IndexError):
            windows.time(index)

    @pytest.mark.parametrize("run", [range(0), range(2, 2), range(0, 4, 2)])
    def test_have_no_span_when_they_are_no_run(self, run: range) -> None:
        with pytest.raises(IndexError, match="not a range of consecutive"):
            Windows(n_samples=10, window=4, stride=2).span(run)

    def test_are_values(self) -> None:
        windows = Windows(n_samples=10, window=4, stride=2)
        assert pickle.loads(pickle.dumps(windows)) == windows  # noqa: S301
        assert hash(windows) == hash(Windows(n_samples=10, window=4, stride=2))

    @pytest.mark.parametrize(
        ("given", "named"),
        [
            ({"window": 0}, "window"),
            ({"stride": 0}, "stride"),
            ({"stride": -1}, "stride"),
            ({"shifts": ()}, "shifts"),
            ({"sample_rate": 0.0}, "sample_rate"),
            ({"sample_rate": float("nan")}, "sample_rate"),
            ({"sample_rate": float("inf")}, "sample_rate"),
        ],
    )
    def test_that_cannot_be_are_refused(self, given: dict[str, object], named: str) -> None:
        right: dict[str, object] = {"n_samples": 10, "window": 4, "stride": 2}
        with pytest.raises(ParameterError, match=named):
            Windows(**{**right, **given})  # type: ignore[arg-type]

    def test_no_batch_has_no_windows(self) -> None:
        with pytest.raises(ParameterError, match="batch_size"):
            list(Windows(n_samples=10, window=4, stride=2).batches(0))


class TestTime:
    windows = Windows(
        n_samples=100, window=8, stride=4, shifts=(-3, 5), sample_rate=16.0, start_time=1000.0
    )

    def test_is_that_of_the_first_sample_of_an_unshifted_channel(self) -> None:
        for index in range(len(self.windows)):
            unshifted = self.windows.samples(index)[0].start + 3
            assert self.windows.time(index) == 1000 + unshifted / 16

    def test_can_be_the_centre_or_the_end(self) -> None:
        begin = self.windows.time(2)
        assert self.windows.time(2, "centre") == begin + 0.25
        assert self.windows.time(2, "end") == begin + 0.5

    def test_advances_at_the_output_rate(self) -> None:
        assert self.windows.output_rate == 4.0
        times = [self.windows.time(index) for index in range(len(self.windows))]
        np.testing.assert_allclose(np.diff(times), 1 / 4.0)

    def test_is_before_the_series_where_every_channel_is_later(self) -> None:
        windows = Windows(n_samples=9, window=2, stride=1, shifts=(4, 5), sample_rate=2.0)
        assert windows.time(0) == -2.0
        assert windows.samples(0) == (slice(0, 2), slice(1, 3))

    def test_is_not_known_without_a_rate(self) -> None:
        windows = Windows(n_samples=10, window=4, stride=2)
        assert windows.output_rate is None
        with pytest.raises(ParameterError, match="sample_rate"):
            windows.time(0)


class TestCut:
    def test_takes_samples_and_seconds(self) -> None:
        windows = Windows.cut(
            8192,
            window="1s",
            stride=256,
            shifts=("-0.5s", "12", 0),
            sample_rate=2048.0,
            start_time=5.0,
        )
        assert windows == Windows(
            n_samples=8192,
            window=2048,
            stride=256,
            shifts=(-1024, 12, 0),
            sample_rate=2048.0,
            start_time=5.0,
        )

    def test_lays_windows_end_to_end_by_default(self) -> None:
        assert Windows.cut(100, window=10).stride == 10
        assert len(Windows.cut(100, window=10)) == 10

    def test_names_what_is_wrong(self) -> None:
        with pytest.raises(ParameterError, match=r"^stride: '0.1s' .* 1638.4 at 16384 Hz"):
            Windows.cut(100_000, window="1s", stride="0.1s", sample_rate=16384.0)


class TestToSamples:
    @pytest.mark.parametrize(
        ("length", "rate", "samples"),
        [
            (7, None, 7),
            ("1024", None, 1024),
            (" -3 ", None, -3),
            ("+3", 2.0, 3),
            ("1.5s", 2048.0, 3072),
            ("1.5 s", 2048.0, 3072),
            (".25s", 16384.0, 4096),
            ("2.s", 1.0, 2),
            ("1e-3s", 1000.0, 1),
            ("0.1s", 10.0, 1),
            ("0.3s", 10.0, 3),
            ("100000.1s", 16384 * 10.0, 16384016384),
            ("-0.5s", 4.0, -2),
            ("30s", 0.2, 6),
        ],
    )
    def test_counts(self, length: int | str, rate: float | None, samples: int) -> None:
        assert to_samples(length, rate) == samples

    @pytest.mark.parametrize("length", ["", "s", "1.5", "1ms", "one", "1 s s", "infs", "1e999s"])
    def test_refuses_what_is_no_length(self, length: str) -> None:
        with pytest.raises(ParameterError, match="window: "):
            to_samples(length, 2048.0, "window")

    def test_refuses_seconds_without_a_rate(self) -> None:
        with pytest.raises(ParameterError, match="give sample_rate"):
            to_samples("1s", None)

    def test_refuses_part_of_a_sample(self) -> None:
        with pytest.raises(ParameterError, match="not a whole number of samples"):
            to_samples("0.3333s", 3000.0)

    @given(st.integers(-(10**6), 10**6), st.sampled_from([1, 16, 100, 2048, 4096, 16384, 44100]))
    def test_finds_every_whole_number_again(self, samples: int, rate: int) -> None:
        text = f"{float(Fraction(samples, rate))!r}s"
        assert to_samples(text, float(rate)) == samples


class TestPad:
    @given(st.integers(1, 6), st.integers(0, 4))
    def test_repeats_the_last_row(self, rows: int, missing: int) -> None:
        batch = np.arange(rows * 3.0).reshape(rows, 3)
        padded = pad(batch, rows + missing)
        assert padded.shape == (rows + missing, 3)
        np.testing.assert_array_equal(padded[:rows], batch)
        assert (padded[rows:] == batch[-1]).all()
        assert padded.dtype == batch.dtype


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: Windows(n_samples=9, window=0, stride=1), "window: 0 samples; it has to be at"),
        (lambda: Windows(n_samples=9, window=1, stride=0), "stride: 0 samples; it has to be at"),
        (lambda: Windows(n_samples=9, window=1, stride=1, shifts=()), "shifts: is empty; give"),
        (lambda: next(Windows(n_samples=9, window=1, stride=1).batches(0)), "batch_size: 0 is"),
        (lambda: Windows(n_samples=9, window=1, stride=1).time(0), "sample_rate: is not known"),
        (lambda: Windows.cut(9, window="x"), "window: 'x' is neither a number of samples"),
        (lambda: Windows.cut(9, window=1, shifts=("1s",)), "shifts: '1s' is in seconds"),
        (lambda: to_samples("x", None), "length: 'x' is neither a number of samples"),
        (lambda: to_samples("1s", -2.0), "sample_rate: -2 Hz; it has to be above 0"),
    ],
)
def test_a_refusal_names_the_parameter(refused: Callable[[], object], message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        refused()
    assert str(caught.value).startswith(message)


def test_windows_begin_at_0_by_default() -> None:
    windows = Windows.cut(4, window=2, sample_rate=1.0)
    assert windows.start_time == 0.0
    assert list(windows.batches(9)) == [range(2)]


def test_seconds_may_have_an_exponent_of_either_case() -> None:
    assert to_samples("1E2s", 2.0) == to_samples("1e2s", 2.0) == 200
