"""What the attributes of a series say of time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import h5py
import numpy as np

from hermes.errors import DataError

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
        unit = next((holder.attrs[name] for name in _names("unit") if name in holder.attrs), "s")
        rates = _names("rate")
        for name in (*rates, *_names("spacing")):
            if name not in holder.attrs:
                continue
            value = _number(dataset, name, holder.attrs[name])
            if not 0 < value < math.inf:
                raise _problem(dataset, f"its attribute {name} is {value}; it is above 0")
            if name in rates:
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
        for name in _names("start"):
            if name in holder.attrs:
                return _time(dataset, name, holder.attrs[name])
    return 0.0


def says_start(dataset: h5py.Dataset) -> bool:
    """Tell whether a file says at what time a series begins."""
    return any(name in holder.attrs for holder in _holders(dataset) for name in _names("start"))


def _names(field: str) -> list[str]:
    return [name for layout in LAYOUTS.values() if (name := getattr(layout, field))]


def _holders(dataset: h5py.Dataset) -> Iterator[Any]:
    """Yield the dataset and the groups that it lies in, those that have attributes."""
    holder: Any = dataset
    while True:
        if h5py.h5a.get_num_attrs(holder.id):
            yield holder
        if holder.name == "/":
            return
        holder = holder.parent


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
