"""What one input of a model reads: a dataset, or the series of several datasets as its channels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import h5py
import numpy as np

from hermes.aeriel.files._links import data_error, file_name, is_same
from hermes.aeriel.files._times import sample_rate_of, says_start, start_time_of
from hermes.aeriel.files._values import units_of
from hermes.errors import DataError

# Which channel of a series, or all of them, and which samples.
Selection = tuple[Any, Any]

# Less than half a sample is how times are rounded where they are written.
ROUNDED_SAMPLES = 0.5


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A dataset, or several one-dimensional ones, each of which is a channel of a series.

    The datasets are read where they are: nothing is copied. Several of them may lie in different
    files.

    Parameters
    ----------
    datasets
        The dataset; or those of the channels, in their order.
    firsts
        The sample of each with which the series begins.
    n_samples
        The length of the last axis.
    sample_rate
        Samples per second, where it is known.
    start_time
        The time of the first sample in seconds; 0 where it is not known.
    """

    datasets: tuple[h5py.Dataset, ...]
    firsts: tuple[int, ...]
    n_samples: int
    sample_rate: float | None
    start_time: float

    @classmethod
    def of(
        cls, *datasets: h5py.Dataset, sample_rate: float | None = None, overlap: bool = False
    ) -> Self:
        """Return the stack of datasets that agree in all but their values.

        Parameters
        ----------
        datasets
            The dataset, or the channels.
        sample_rate
            Samples per second; by default what the attributes of the datasets say.
        overlap
            Whether channels of different times are cut to the time that they have in common.

        Raises
        ------
        DataError
            Channels are not one-dimensional, have different dtypes, units, sample rates, start
            times or lengths, or have no time in common; one dataset is given for two channels; or
            an attribute makes no sense.
        """
        first = datasets[0]
        rate = sample_rate or sample_rate_of(first)
        if len(datasets) == 1:
            n_samples = first.shape[-1] if first.shape else 0
            start = start_time_of(first, rate)
            return cls(
                datasets=datasets,
                firsts=(0,),
                n_samples=n_samples,
                sample_rate=rate,
                start_time=start,
            )
        _check_channels(datasets, with_rates=sample_rate is None)
        if overlap:
            begins, ends = _spans(datasets, rate)
            begin, end = max(begins), min(ends)
            if begin >= end:
                other = datasets[begins.index(begin)]
                raise data_error(
                    other, f"has no time in common with {_name(datasets[ends.index(end)])}"
                )
        else:
            _check_spans(datasets, rate)
            begins, begin, end = [0] * len(datasets), 0, first.shape[0]
        start = start_time_of(first, rate)
        if begin and rate:
            start += begin / rate
        return cls(
            datasets=datasets,
            firsts=tuple(begin - each for each in begins),
            n_samples=end - begin,
            sample_rate=rate,
            start_time=start,
        )

    @classmethod
    def of_rows(cls, dataset: h5py.Dataset) -> Self:
        """Return the stack of a dataset with rows, for which attributes say nothing of time."""
        return cls(
            datasets=(dataset,),
            firsts=(0,),
            n_samples=dataset.shape[-1],
            sample_rate=None,
            start_time=0.0,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape: ``(channels, time)`` of several datasets."""
        if len(self.datasets) == 1:
            return tuple(self.datasets[0].shape)
        return len(self.datasets), self.n_samples

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the datasets."""
        dtype: np.dtype[Any] = self.datasets[0].dtype
        return dtype

    @property
    def says_start(self) -> bool:
        """Whether the start time is that of the file."""
        return says_start(self.datasets[0])

    def parts(
        self, there: Selection, here: Selection
    ) -> Iterator[tuple[int, Selection, Selection]]:
        """Yield, for each dataset that a selection reads, its number and its own selection.

        Parameters
        ----------
        there, here
            Channel and samples, of this and of the array that they go to, as
            `h5py.Dataset.read_direct` takes them.
        """
        if len(self.datasets) == 1:
            yield 0, there, here
            return
        which, samples = there
        for number in range(len(self.datasets)) if which is ... else (which,):
            yield number, (..., _later(samples, self.firsts[number])), (number, here[1])

    def error(self, problem: str) -> DataError:
        """Return the error for a problem of this."""
        return data_error(self.datasets[0], problem)

    def __str__(self) -> str:
        return _name(self.datasets[0])


def _check_channels(datasets: Sequence[h5py.Dataset], *, with_rates: bool) -> None:
    """Raise DataError where channels are not series of the same kind."""
    first = datasets[0]
    for number, other in enumerate(datasets):
        if other.ndim != 1:
            problem = f"has shape {other.shape}; a channel is a series of shape (time,)"
            raise data_error(other, problem)
        if any(is_same(other, earlier) for earlier in datasets[:number]):
            raise data_error(other, "is given for two channels")
        facts = {
            "dtype": (other.dtype, first.dtype),
            "units": (units_of(other), units_of(first)),
        }
        if with_rates:
            facts["sample rate"] = sample_rate_of(other), sample_rate_of(first)
        for what, (given, wanted) in facts.items():
            if not _agree(given, wanted):
                problem = f"has {what} {given}, but {_name(first)} has {wanted}"
                raise data_error(other, f"{problem}; the channels of an input have to agree")


def _check_spans(datasets: Sequence[h5py.Dataset], rate: float | None) -> None:
    """Raise DataError where channels begin at other times, or have other lengths."""
    first = datasets[0]
    advice = "give overlap to take the time that they have in common"
    for other in datasets[1:]:
        late = start_time_of(other, rate) - start_time_of(first, rate)
        is_off = abs(late) * (rate or math.inf) > ROUNDED_SAMPLES
        if is_off or says_start(first) != says_start(other):
            problem = f"begins at {_start(other)}, but {_name(first)} at {_start(first)}"
            raise data_error(other, f"{problem}; {advice}")
        if len(other) != len(first):
            problem = f"has {len(other)} samples, but {_name(first)} has {len(first)}"
            raise data_error(other, f"{problem}; {advice}")


def _spans(datasets: Sequence[h5py.Dataset], rate: float | None) -> tuple[list[int], list[int]]:
    """Return the first sample of each channel, counted from that of the first, and the end."""
    for dataset in datasets:
        if not (says_start(dataset) and rate):
            problem = "says no start time" if rate else "says no sample rate"
            raise data_error(dataset, f"{problem}, which the overlap of channels needs")
    first = start_time_of(datasets[0], rate)
    starts = [start_time_of(dataset, rate) - first for dataset in datasets]
    begins = [round(start * (rate or 0.0)) for start in starts]
    return begins, [begin + len(each) for begin, each in zip(begins, datasets, strict=True)]


def _later(samples: Any, first: int) -> Any:
    if isinstance(samples, slice):
        return slice(samples.start + first, samples.stop + first)
    return h5py.MultiBlockSlice(
        start=samples.start + first,
        stride=samples.stride,
        count=samples.count,
        block=samples.block,
    )


def _agree(given: Any, wanted: Any) -> bool:
    if isinstance(given, float) and isinstance(wanted, float):
        return math.isclose(given, wanted, rel_tol=1e-9)
    return bool(given == wanted)


def _start(dataset: h5py.Dataset) -> str:
    return f"{start_time_of(dataset):.10g} s" if says_start(dataset) else "no known time"


def _name(dataset: h5py.Dataset) -> str:
    return f"{file_name(dataset)}:{dataset.name.lstrip('/')}"
