"""How time series in HDF5 files are cut into windows, and what their attributes say of time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import h5py
import numpy as np

from hermes.aeriel._options import InferenceOptions
from hermes.aeriel.client import Windows
from hermes.errors import DataError, ParameterError

# Attributes of a dataset, or of a group that it lies in, by who writes them:
#   Xspacing, Xstart, Xunits   GWOSC, https://gwosc.org/archive
#   dx, x0, xunit              gwpy.timeseries.TimeSeries.write(format="hdf5")
#   delta_t, start_time        pycbc.types.TimeSeries.save
#   sample_rate, start_time    this package
_RATES = ("sample_rate", "sampling_rate")
_SPACINGS = ("Xspacing", "dx", "dt", "delta_t")
_STARTS = ("Xstart", "x0", "t0", "start_time")
_UNITS = ("Xunits", "xunit")
_SECONDS = ("s", "sec", "second", "seconds")


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """How the series of a file are to be cut.

    Parameters
    ----------
    window, stride
        Samples, as ``"1024"``, or seconds, as ``"1.5s"``. An empty stride is the window's length.
    shifts
        The same for each channel: how much later its windows begin; negative for earlier.
    sample_rate
        Samples per second; 0 takes it from the attributes of the file.
    """

    window: str
    stride: str = ""
    shifts: tuple[str, ...] = ()
    sample_rate: float = 0.0

    @classmethod
    def of(cls, options: InferenceOptions) -> Self | None:
        """Return the cut that options ask for; None where they ask for rows.

        Raises
        ------
        ParameterError
            There is no window for the others to be about.
        """
        others = ("stride", "shifts", "sample_rate")
        given = {name: getattr(options, name) for name in others}
        if options.window:
            return cls(window=options.window, **given)
        for name, value in given.items():
            if value:
                raise ParameterError(name, "is of windows; give the length of a window as window")
        return None

    def windows(self, dataset: h5py.Dataset) -> Windows:
        """Return the windows of a dataset of shape ``(channels, time)`` or ``(time,)``.

        Raises
        ------
        DataError
            It has another rank, other channels than there are shifts, too few samples for a
            window, or attributes that make no sense.
        ParameterError
            A length is no whole number of samples, or needs a sample rate that is not there.
        """
        if dataset.ndim not in (1, 2):
            shape = f"has shape {dataset.shape}; a series has (channels, time) or (time,)"
            raise _problem(dataset, shape)
        channels = 1 if dataset.ndim == 1 else dataset.shape[0]
        if len(self.shifts) not in (0, channels):
            raise _problem(dataset, f"has {channels} channels for {len(self.shifts)} shifts")
        windows = Windows.cut(
            dataset.shape[-1],
            window=self.window,
            stride=self.stride or None,
            shifts=self.shifts or (0,),
            sample_rate=self.sample_rate or sample_rate_of(dataset),
            start_time=start_time_of(dataset),
        )
        if not windows:
            shifted = ", with these shifts" if len(set(windows.shifts)) > 1 else ""
            problem = f"has {windows.n_samples} samples; a window takes {windows.window}{shifted}"
            raise _problem(dataset, problem)
        return windows

    def shape_of(self, dataset: h5py.Dataset) -> tuple[int, ...]:
        """Return the shape of all windows of a dataset: ``(windows, channels, window)``.

        ``(windows, window)`` for a dataset of shape ``(time,)``. Raises as `windows` does.
        """
        windows = self.windows(dataset)
        return (len(windows), *dataset.shape[:-1], windows.window)


def check_times(cut: WindowOptions, datasets: Sequence[h5py.Dataset]) -> None:
    """Raise DataError where a window of one series of a file has another time than of another.

    Only what is known of the times is compared.
    """
    first = datasets[0]
    wanted = cut.windows(first)
    for other in datasets[1:]:
        given = cut.windows(other)
        if wanted.output_rate is None or given.output_rate is None:
            continue
        if not math.isclose(given.output_rate, wanted.output_rate, rel_tol=1e-9):
            problem = f"has {given.output_rate:.10g} windows in a second"
            raise _problem(other, f"{problem}, but {first.name} has {wanted.output_rate:.10g}")
        rate = max(wanted.output_rate * wanted.stride, given.output_rate * given.stride)
        # Less than half a sample is how times are rounded where they are written.
        is_off = abs(given.time(0) - wanted.time(0)) * rate > 0.5
        if is_off and _says_start(first) and _says_start(other):
            problem = f"has its first window at {given.time(0):.10g} s"
            raise _problem(other, f"{problem}, but {first.name} at {wanted.time(0):.10g} s")


def sample_rate_of(dataset: h5py.Dataset) -> float | None:
    """Return the samples per second that a file says a series has; None where it says nothing.

    The attributes of the dataset count first, then those of the groups that it lies in.

    Raises
    ------
    DataError
        An attribute makes no sense.
    """
    for holder in _holders(dataset):
        unit = next((holder.attrs[name] for name in _UNITS if name in holder.attrs), "s")
        for name in (*_RATES, *_SPACINGS):
            if name not in holder.attrs:
                continue
            value = _number(dataset, name, holder.attrs[name])
            if not 0 < value < math.inf:
                raise _problem(dataset, f"its attribute {name} is {value}; it is above 0")
            if name in _RATES:
                return value
            if _text(unit) not in _SECONDS:
                problem = f"its attribute {name} is in {_text(unit)!r}, not in seconds"
                raise _problem(dataset, f"{problem}; give sample_rate")
            # 1/(1/3) is no 3: what is a whole number but for that is one.
            rate = 1 / value
            return float(round(rate)) if math.isclose(rate, round(rate), rel_tol=1e-9) else rate
    return None


def start_time_of(dataset: h5py.Dataset) -> float:
    """Return the time of a series' first sample in seconds; 0 where the file says nothing.

    A text is a number, or a time of ISO 8601 (of UTC, where it does not say), which becomes seconds
    since 1970.

    Raises
    ------
    DataError
        An attribute makes no sense.
    """
    for holder in _holders(dataset):
        for name in _STARTS:
            if name in holder.attrs:
                return _time(dataset, name, holder.attrs[name])
    return 0.0


def _says_start(dataset: h5py.Dataset) -> bool:
    return any(name in holder.attrs for holder in _holders(dataset) for name in _STARTS)


def _holders(dataset: h5py.Dataset) -> Iterator[Any]:
    holder: Any = dataset
    yield holder
    while holder.name != "/":
        holder = holder.parent
        yield holder


def _number(dataset: h5py.Dataset, name: str, value: Any) -> float:
    try:
        return float(np.asarray(value).item() if np.ndim(value) else value)
    except (TypeError, ValueError) as error:
        raise _problem(dataset, f"its attribute {name} is {value!r}, no number") from error


def _time(dataset: h5py.Dataset, name: str, value: Any) -> float:
    text = np.asarray(value).ravel()[0] if np.size(value) == 1 else value
    try:
        time = datetime.fromisoformat(_text(text))
    except ValueError:
        return _number(dataset, name, value)
    # "20240501" is a number of seconds, whatever else it might be.
    if isinstance(text, str | bytes) and not _text(text).isdigit():
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    return _number(dataset, name, value)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _problem(dataset: h5py.Dataset, problem: str) -> DataError:
    return DataError(file=dataset.file.filename, dataset=dataset.name.lstrip("/"), problem=problem)
