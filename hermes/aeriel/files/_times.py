"""What the attributes of a series say of time."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import h5py
import numpy as np

from hermes.aeriel.files._links import data_error
from hermes.aeriel.files._values import text_of

_SECONDS = ("s", "sec", "second", "seconds")


@dataclass(frozen=True, kw_only=True)
class SeriesAttributes:
    """The names of the attributes in which a program stores the time of a series.

    The attributes are those of the dataset, or of a group that has it.

    Parameters
    ----------
    rate
        Samples per second.
    spacing
        Seconds between samples.
    unit
        The unit of `spacing`, which has to be seconds.
    start
        The time of the first sample: a number of seconds, or a time of ISO 8601.
    """

    rate: str = ""
    spacing: str = ""
    unit: str = ""
    start: str = ""


# The attributes by the program that writes them; a project may add its own. The first one that a
# file has counts.
LAYOUTS: dict[str, SeriesAttributes] = {
    # https://gwosc.org/archive
    "gwosc": SeriesAttributes(spacing="Xspacing", unit="Xunits", start="Xstart"),
    # the HDF5 files of gwpy.timeseries
    "gwpy": SeriesAttributes(spacing="dx", unit="xunit", start="x0"),
    "short": SeriesAttributes(spacing="dt", start="t0"),
    # the HDF5 files of pycbc.types
    "pycbc": SeriesAttributes(spacing="delta_t", start="start_time"),
    "hermes": SeriesAttributes(rate="sample_rate", start="start_time"),
    "sampling": SeriesAttributes(rate="sampling_rate"),
}


def sample_rate_of(dataset: h5py.Dataset) -> float | None:
    """Return the samples per second that a file says a series has; None where it says nothing.

    The attributes of the dataset count first, then those of the groups that it lies in.

    Raises
    ------
    DataError
        An attribute makes no sense.
    """
    for holder in _holders(dataset):
        found = {name: _rate(dataset, holder, name) for name in _names("rate", "spacing")}
        rates = {name: rate for name, rate in found.items() if rate is not None}
        first = next(iter(rates), "")
        for name, rate in rates.items():
            if not math.isclose(rate, rates[first], rel_tol=1e-6):
                problem = (
                    f"its attribute {first} says {rates[first]:.10g} Hz, {name} {rate:.10g} Hz"
                )
                raise data_error(dataset, f"{problem}; leave the right one")
        if rates:
            return rates[first]
    return None


def start_time_of(dataset: h5py.Dataset, sample_rate: float | None = None) -> float:
    """Return the time of a series' first sample in seconds; 0 where the file says nothing.

    A text is a number, or a time of ISO 8601 (of UTC, where it does not say), which becomes seconds
    since 1970.

    Raises
    ------
    DataError
        An attribute makes no sense, is not in seconds, or is a number of so few bits that it may be
        off by half a sample, or half a second where no `sample_rate` is given.
    """
    for holder in _holders(dataset):
        for name in _names("start"):
            if name not in holder.attrs:
                continue
            _check_seconds(dataset, holder, name, "write it in seconds")
            value = holder.attrs[name]
            time = _time(dataset, name, value)
            if not math.isfinite(time):
                raise data_error(dataset, f"its attribute {name} is {time}, no time")
            given = np.asarray(value).dtype
            if given.kind == "f" and given.itemsize < np.dtype(float).itemsize:
                rounded = float(np.spacing(given.type(abs(time))))
                if rounded * (sample_rate or 1.0) > 1.0:
                    problem = (
                        f"its attribute {name} is a {given}, which is exact to {rounded:.3g} s"
                    )
                    raise data_error(dataset, f"{problem} at {time:.10g} s; write it as float64")
            return time
    return 0.0


def says_start(dataset: h5py.Dataset) -> bool:
    """Tell whether a file says at what time a series begins."""
    return any(name in holder.attrs for holder in _holders(dataset) for name in _names("start"))


def _names(*fields: str) -> list[str]:
    return [
        name for field in fields for layout in LAYOUTS.values() if (name := getattr(layout, field))
    ]


def _holders(dataset: h5py.Dataset) -> Iterator[Any]:
    """Yield the dataset and the groups that it lies in, those that have attributes."""
    path = dataset.name
    if h5py.h5a.get_num_attrs(dataset.id):
        yield dataset
    while path != "/":
        path = posixpath.dirname(path)
        # Few groups have any: h5py's own object for each takes longer than all else here.
        if h5py.h5o.get_info(dataset.id, path.encode()).num_attrs:
            yield dataset.file[path]


def _rate(dataset: h5py.Dataset, holder: Any, name: str) -> float | None:
    """Return the samples per second by an attribute of the dataset, or of a group that has it."""
    if name not in holder.attrs:
        return None
    value = _number(dataset, name, holder.attrs[name])
    if not 0 < value < math.inf:
        raise data_error(dataset, f"its attribute {name} is {value}; it is above 0")
    if name in _names("rate"):
        return value
    _check_seconds(dataset, holder, name, "give sample_rate")
    # 1/(1/3) is no 3: what is a whole number but for that is one.
    rate = 1 / value
    return float(round(rate)) if math.isclose(rate, round(rate), rel_tol=1e-9) else rate


def _check_seconds(dataset: h5py.Dataset, holder: Any, name: str, advice: str) -> None:
    """Raise DataError where the attributes with `name` are in another unit than seconds."""
    units = (str(text_of(holder.attrs[unit])) for unit in _names("unit") if unit in holder.attrs)
    unit = next(units, _SECONDS[0])
    if unit not in _SECONDS:
        problem = f"its attribute {name} is in {unit!r}, not in seconds"
        raise data_error(dataset, f"{problem}; {advice}")


def _number(dataset: h5py.Dataset, name: str, value: Any) -> float:
    try:
        return float(np.asarray(value).item() if np.ndim(value) else value)
    except (TypeError, ValueError) as error:
        raise data_error(dataset, f"its attribute {name} is {value!r}, no number") from error


def _time(dataset: h5py.Dataset, name: str, value: Any) -> float:
    text = text_of(value)
    # "20240501" is a number of seconds, whatever else it might be.
    if isinstance(text, str) and not text.isdigit():
        with suppress(ValueError):
            time = datetime.fromisoformat(text)
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    return _number(dataset, name, value)
