"""The windows of a time series: how many, and which samples each has."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from hermes.errors import ParameterError

# The largest distance of a product of two floats from a whole number: far above the rounding error
# for any series that fits on a disk, far below a sample.
_TOLERANCE_SAMPLES = 1e-6

Position = Literal["begin", "centre", "end"]
_SHARES = {"begin": 0.0, "centre": 0.5, "end": 1.0}


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The windows of a time series of shape ``(channels, time)`` or ``(time,)``.

    In channel `c`, window `i` has the `window` samples from ``origin + i * stride + shifts[c]`` on.
    All windows that have data in every channel are counted: the first begins at sample 0 of the
    channel with the lowest shift, and the last ends within the series in the channel with the
    highest.

    Parameters
    ----------
    n_samples
        Samples of the series.
    window, stride
        Samples of a window, and from one window to the next.
    shifts
        By how many samples each channel's window begins later (earlier, if negative) than the
        time of the window: one number for each channel, or a single one for all.
    sample_rate
        Samples per second, where it is known.
    start_time
        The time of sample 0 in seconds.

    Raises
    ------
    ParameterError
        `window` or `stride` is below 1, `shifts` is empty, or `sample_rate` is not above 0.

    Examples
    --------
    >>> windows = Windows(n_samples=10, window=4, stride=2)
    >>> len(windows), windows.samples(1)
    (4, (slice(2, 6, None),))
    """

    n_samples: int
    window: int
    stride: int
    shifts: tuple[int, ...] = (0,)
    sample_rate: float | None = None
    start_time: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("window", self.window), ("stride", self.stride)):
            if value < 1:
                raise ParameterError(name, f"{value} samples; it has to be at least 1")
        if not self.shifts:
            raise ParameterError("shifts", "is empty; give one for each channel, or omit it")
        _check_sample_rate(self.sample_rate)

    @classmethod
    def cut(
        cls,
        n_samples: int,
        *,
        window: int | str,
        stride: int | str | None = None,
        shifts: Sequence[int | str] = (0,),
        sample_rate: float | None = None,
        start_time: float = 0.0,
    ) -> Self:
        """Return the windows for lengths in samples or in seconds, as `to_samples` reads them.

        Parameters
        ----------
        n_samples, sample_rate, start_time
            As for the class.
        window, shifts
            As for the class, or texts.
        stride
            Likewise; by default `window`, so that the windows are contiguous.

        Raises
        ------
        ParameterError
            A length is not a number of samples, or is out of range.
        """
        length = to_samples(window, sample_rate, "window")
        return cls(
            n_samples=n_samples,
            window=length,
            stride=length if stride is None else to_samples(stride, sample_rate, "stride"),
            shifts=tuple(to_samples(shift, sample_rate, "shifts") for shift in shifts),
            sample_rate=sample_rate,
            start_time=start_time,
        )

    def __len__(self) -> int:
        spread = max(self.shifts) - min(self.shifts)
        return max(0, (self.n_samples - spread - self.window) // self.stride + 1)

    @property
    def origin(self) -> int:
        """The sample of an unshifted channel at which window 0 begins; it may be below 0."""
        return -min(self.shifts)

    def samples(self, index: int) -> tuple[slice, ...]:
        """Return the samples of a window, one slice for each of `shifts`.

        Raises
        ------
        IndexError
            There is no such window.
        """
        return self.span(range(self._checked(index), index + 1))

    def span(self, windows: range) -> tuple[slice, ...]:
        """Return the samples from the first to the last of some windows, a slice for each shift.

        Raises
        ------
        IndexError
            `windows` is empty, has gaps, or is not within ``range(len(self))``.
        """
        if not windows or windows.step != 1:
            raise IndexError(f"{windows} is not a range of consecutive windows")
        first = self.origin + self._checked(windows[0]) * self.stride
        end = self.origin + self._checked(windows[-1]) * self.stride + self.window
        return tuple(slice(first + shift, end + shift) for shift in self.shifts)

    def batches(self, batch_size: int, start: int = 0) -> Iterator[range]:
        """Yield the windows from `start` on, `batch_size` at a time; the last may be fewer.

        Raises
        ------
        ParameterError
            `batch_size` is below 1.
        """
        if batch_size < 1:
            raise ParameterError("batch_size", f"{batch_size} is below 1")
        for first in range(start, len(self), batch_size):
            yield range(first, min(first + batch_size, len(self)))

    @property
    def output_rate(self) -> float | None:
        """Windows per second: the sample rate of a series with one value for each window."""
        return None if self.sample_rate is None else self.sample_rate / self.stride

    def time(self, index: int, at: Position = "begin") -> float:
        """Return the time of a window in seconds.

        By convention it is that of the window's first sample, in a channel without a shift.
        ``time(0)`` is the start time of a series with one value for each window.

        Parameters
        ----------
        index
            The window.
        at
            Where in the window: its first sample (``"begin"``), its ``"centre"``, or its
            ``"end"``, one sample after its last, when all its data are there.

        Raises
        ------
        ParameterError
            The sample rate is not known.
        IndexError
            There is no such window.
        """
        if self.sample_rate is None:
            raise ParameterError("sample_rate", "is not known, so windows have no time")
        begin = self.origin + self._checked(index) * self.stride
        return self.start_time + (begin + _SHARES[at] * self.window) / self.sample_rate

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        return index


def pad(batch: NDArray[Any], batch_size: int) -> NDArray[Any]:
    """Return a batch of `batch_size` rows, in which the last row is repeated.

    Zeros could make a model that normalises its input return NaN or fail.

    Parameters
    ----------
    batch
        An array of shape ``(rows, ...)`` with 1 to `batch_size` rows.
    batch_size
        The rows of the result; the caller removes the additional ones from the answer.
    """
    missing = batch_size - len(batch)
    return np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch


def to_samples(length: int | str, sample_rate: float | None, parameter: str = "length") -> int:
    """Return a length of time in samples.

    Parameters
    ----------
    length
        A number of samples, such as 1024 or ``"1024"``, or of seconds, such as ``"1.5s"``.
    sample_rate
        Samples per second; seconds need it.
    parameter
        The name of the length in an error.

    Raises
    ------
    ParameterError
        It is neither, the sample rate is not known, or the seconds are not a whole number of
        samples.
    """
    if isinstance(length, int):
        return length
    if re.fullmatch(r"\s*[+-]?\d{1,18}\s*", length):
        return int(length.strip())
    match = re.fullmatch(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*s\s*", length)
    if match is None:
        problem = (
            f"{length!r} is neither a number of samples, such as 1024, nor seconds, such as 1.5s"
        )
        raise ParameterError(parameter, problem)
    _check_sample_rate(sample_rate)
    if sample_rate is None:
        problem = f"{length!r} is in seconds, but the sample rate is not known; give sample_rate"
        raise ParameterError(parameter, problem)
    samples = float(match[1]) * sample_rate
    if not math.isfinite(samples) or abs(samples - round(samples)) > _TOLERANCE_SAMPLES:
        problem = f"{length!r} is not a whole number of samples, but {samples:.10g}"
        advice = f"at {sample_rate:.10g} Hz; give samples, or another time"
        raise ParameterError(parameter, f"{problem} {advice}")
    return round(samples)


def _check_sample_rate(sample_rate: float | None) -> None:
    if sample_rate is not None and not 0 < sample_rate < math.inf:
        raise ParameterError("sample_rate", f"{sample_rate:g} Hz; it has to be above 0")
