"""How time series in HDF5 files are cut into windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import h5py

from hermes.aeriel._options import InferenceOptions, Shifts
from hermes.aeriel.client import Windows
from hermes.aeriel.files._stack import ROUNDED_SAMPLES, Stack
from hermes.errors import ParameterError


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """How the series of a file are to be cut.

    Parameters
    ----------
    window, stride
        Samples, as ``"1024"``, or seconds, as ``"1.5s"``. An empty stride is the window's length.
    shifts
        The same for each channel: how much later its windows begin; negative for earlier. Or that
        for each of several time slides, of which the first counts for what is not said to be of
        all.
    sample_rate
        Samples per second; 0 takes it from the attributes of the file.
    overlap
        Whether channels of different times are cut to the time that they have in common.
    """

    window: str
    stride: str = ""
    shifts: Shifts = ()
    sample_rate: float = 0.0
    overlap: bool = False

    @classmethod
    def of(cls, options: InferenceOptions) -> Self | None:
        """Return the cut that options ask for; None where they ask for rows.

        Raises
        ------
        ParameterError
            There is no window for the others to be about.
        """
        others = ("stride", "shifts", "sample_rate", "overlap")
        given = {name: getattr(options, name) for name in others}
        if options.window:
            return cls(window=options.window, **given)
        for name, value in given.items():
            if value:
                raise ParameterError(name, "is of windows; give the length of a window as window")
        return None

    def stack(self, datasets: Sequence[h5py.Dataset]) -> Stack:
        """Return datasets as the channels of one series; a single one may have channels itself.

        Raises
        ------
        DataError
            They do not agree; see `Stack.of`.
        """
        return Stack.of(*datasets, sample_rate=self.sample_rate or None, overlap=self.overlap)

    @property
    def slides(self) -> tuple[tuple[str, ...], ...]:
        """The shifts of each slide."""
        several = [shifts for shifts in self.shifts if not isinstance(shifts, str)]
        flat = tuple(shift for shift in self.shifts if isinstance(shift, str))
        return tuple(several) or (flat,)

    def check_slides(self, series: Stack) -> None:
        """Raise what `windows` raises where any of the slides has no windows of a series."""
        for shifts in self.slides:
            replace(self, shifts=shifts).windows(series)

    def windows(self, series: Stack) -> Windows:
        """Return the windows of a series of shape ``(channels, time)`` or ``(time,)``.

        Raises
        ------
        DataError
            It has another rank, other channels than there are shifts, or too few samples for a
            window.
        ParameterError
            A length is no whole number of samples, or needs a sample rate that is not there.
        """
        if len(series.shape) not in (1, 2):
            shape = f"has shape {series.shape}; a series has (channels, time) or (time,)"
            raise series.error(shape)
        channels = 1 if len(series.shape) == 1 else series.shape[0]
        shifts = self.slides[0]
        if len(shifts) not in (0, channels):
            raise series.error(f"has {channels} channels for {len(shifts)} shifts")
        windows = Windows.cut(
            series.n_samples,
            window=self.window,
            stride=self.stride or None,
            shifts=shifts or (0,),
            sample_rate=series.sample_rate,
            start_time=series.start_time,
        )
        if not windows:
            shifted = ", with these shifts" if len(set(windows.shifts)) > 1 else ""
            problem = f"has {windows.n_samples} samples; a window takes {windows.window}{shifted}"
            raise series.error(problem)
        return windows

    def shape_of(self, series: Stack) -> tuple[int, ...]:
        """Return the shape of all windows of a series: ``(windows, channels, window)``.

        ``(windows, window)`` for a series of shape ``(time,)``. Raises as `windows` does.
        """
        windows = self.windows(series)
        return (len(windows), *series.shape[:-1], windows.window)


def check_times(cut: WindowOptions, inputs: Sequence[Stack]) -> None:
    """Raise DataError where a window of one series of a file has another time than of another.

    Only what is known of the times is compared.
    """
    first = inputs[0]
    wanted = cut.windows(first)
    for other in inputs[1:]:
        given = cut.windows(other)
        if wanted.output_rate is None or given.output_rate is None:
            continue
        if not math.isclose(given.output_rate, wanted.output_rate, rel_tol=1e-9):
            problem = f"has {given.output_rate:.10g} windows in a second"
            raise other.error(f"{problem}, but {first} has {wanted.output_rate:.10g}")
        rate = max(wanted.output_rate * wanted.stride, given.output_rate * given.stride)
        is_off = abs(given.time(0) - wanted.time(0)) * rate > ROUNDED_SAMPLES
        if is_off and first.says_start and other.says_start:
            problem = f"has its first window at {given.time(0):.10g} s"
            raise other.error(f"{problem}, but {first} at {wanted.time(0):.10g} s")
