"""Time series in HDF5 files, read as windows: the rows of a model that looks at a stretch of time.

The arithmetic is that of `hermes.aeriel.client.Windows`.
"""

# Over 300 lines: reading windows and planning them share one arithmetic.
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from hermes.aeriel.client import InferenceClient, Windows, pad
from hermes.aeriel.files._facts import InputFacts, RowInputs
from hermes.aeriel.files._reading import InputData
from hermes.aeriel.files._rows import Arrays, RowPlan, split
from hermes.aeriel.files._stack import Selection
from hermes.aeriel.files._window_options import WindowOptions
from hermes.errors import ParameterError

READ_BYTES = 4 << 20

ReadSamples = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class SeriesPlan(RowPlan):
    """How windows of a file's series, which are its rows then, become requests of a model.

    Parameters
    ----------
    inputs, rows_per_request, with_row_axis, varying
        As `RowPlan` has them.
    is_padded
        Whether the last request is filled up to as many windows.
    cut
        How the series are cut.
    """

    unit: ClassVar = "windows"

    is_padded: bool
    cut: WindowOptions

    @classmethod
    def of_windows(
        cls, rows: RowPlan, facts: InputFacts, cut: WindowOptions, *, stateful: bool
    ) -> Self:
        """Return the plan for a model with a plan for rows, and a file inspected with `cut`."""
        inputs, fixed = window_inputs(rows, facts)
        return cls(
            inputs=inputs,
            # Where the file has less than a full request, that is no reason to fill it up.
            rows_per_request=fixed or min(rows.rows_per_request, facts.rows),
            # A model with a state is to see no window twice, if that can be.
            is_padded=fixed > 0 or not stateful,
            with_row_axis=rows.with_row_axis or fixed > 0,
            cut=cut,
            varying=rows.varying,
        )

    def stream(
        self, client: InferenceClient, data: InputData, start: int
    ) -> Iterator[tuple[range, Arrays]]:
        """Yield the windows of each request from `start` on, and the same rows of their outputs.

        An array is only good until the next one is asked for.
        """
        facts = data.facts
        windows = range(start, facts.rows)
        batches = self._batches(data, windows)

        def read(begin: int, end: int, arrays: Mapping[str, NDArray[Any]]) -> None:
            for name, array in arrays.items():
                for first in range(0, end - begin, self.rows_per_request):
                    array[first : first + self.rows_per_request] = next(batches[name])

        n_missing = -len(windows) % self.rows_per_request
        return self.answered(client, read, windows, facts, n_missing)

    def updates(self, data: InputData, rows: range) -> Iterator[Arrays]:
        """Yield the inputs of the requests that windows make.

        An array is only good until the next one is asked for.
        """
        batches = self._batches(data, rows)
        for together in zip(*batches.values(), strict=True):
            arrays = dict(zip(batches, together, strict=True))
            yield arrays if self.with_row_axis else {name: a[0] for name, a in arrays.items()}

    def blocks(self, data: InputData, rows: range, length: int) -> Iterator[Arrays]:
        """Yield arrays of so many windows each, which are the caller's; the last may have fewer."""
        blocks = {name: self._windows(data, name, rows, length) for name in data.stacks}
        for together in zip(*blocks.values(), strict=True):
            yield {name: array.copy() for name, array in zip(blocks, together, strict=True)}

    def requests_of(self, arrays: Mapping[str, NDArray[Any]]) -> Iterator[Arrays]:
        """Yield the inputs of the requests that windows make, as they are sent."""
        size = self.rows_per_request
        for request in split(range(len(next(iter(arrays.values())))), size):
            some = {name: array[request.start : request.stop] for name, array in arrays.items()}
            if self.is_padded:
                some = {name: pad(array, size) for name, array in some.items()}
            yield some if self.with_row_axis else {name: array[0] for name, array in some.items()}

    def rows_of(self, outputs: Arrays, expected: int, client: InferenceClient) -> Arrays:
        """Return the outputs for the first `expected` windows; see `RowPlan.rows_of`."""
        rows = super().rows_of(
            outputs, self.rows_per_request if self.is_padded else expected, client
        )
        return {name: array[:expected] for name, array in rows.items()}

    def _batches(self, data: InputData, rows: range) -> dict[str, Iterator[NDArray[Any]]]:
        """Return the windows of each request, as they are sent, of each input."""
        size = self.rows_per_request

        def batches(name: str) -> Iterator[NDArray[Any]]:
            for batch in self._windows(data, name, rows, size):
                yield pad(batch, size) if self.is_padded else batch

        return {name: batches(name) for name in data.stacks}

    def _windows(
        self, data: InputData, name: str, rows: range, length: int
    ) -> Iterator[NDArray[Any]]:
        series = data.stacks[name]
        return read_windows(
            series,
            self.cut.windows(series),
            batch_size=length,
            dtype=self.inputs[name][1],
            start=rows.start,
            stop=rows.stop,
            read=partial(data.read_samples, name),
        )


def window_inputs(rows: RowPlan, facts: InputFacts) -> tuple[RowInputs, int]:
    """Return the shape and dtype of a window of each input, and the windows of a request.

    Parameters
    ----------
    rows
        How rows would become requests of the model.
    facts
        A file, inspected with a `WindowOptions`.

    Returns
    -------
    inputs
        The shape of a window (-1: any length) and the dtype of each input; shorter than that of a
        row by a leading axis where a model without a batch dimension has one of fixed length that
        the windows lack: it was exported for batches of just this length. Windows have channels
        then: that axis could as well be the channels of a series without any.
    fixed
        That length, or 0.

    Raises
    ------
    ParameterError
        A request has several windows, and an output is of varying length.
    """
    inputs = rows.inputs
    given = {name: inputs[name] for name in facts.datasets if name in inputs}
    lengths = {shape[0] if shape else 0 for shape, _ in given.values()}
    has_another_axis = not rows.with_row_axis and all(
        len(shape) == len(facts.datasets[name].shape) == 3 for name, (shape, _) in given.items()
    )
    if len(lengths) == 1 and has_another_axis and min(lengths) > 0:
        if rows.varying and max(lengths) > 1:
            problem = (
                f"the model takes {max(lengths)} windows at once, whose answers have one length"
            )
            raise ParameterError("varying", f"{problem}; export it for one window")
        return {name: (shape[1:], dtype) for name, (shape, dtype) in given.items()}, lengths.pop()
    return inputs, 0


def read_windows(
    dataset: Any,
    windows: Windows,
    *,
    batch_size: int,
    dtype: DTypeLike | None = None,
    start: int = 0,
    stop: int | None = None,
    read: ReadSamples | None = None,
) -> Iterator[NDArray[Any]]:
    """Yield the windows of a series, a batch at a time; each sample is read once at most.

    About `READ_BYTES` are read at once. They bound the memory, together with the samples of one
    window (where windows overlap) or of one batch.

    Parameters
    ----------
    dataset
        An `h5py.Dataset` of shape ``(channels, time)`` or ``(time,)``; or, with `read`, whatever
        has a ``shape`` and a ``dtype``.
    windows
        How it is cut.
    batch_size
        Windows of a batch; the last one may have fewer.
    dtype
        What to read the samples as; by default the dataset's own.
    start, stop
        The window to begin with, and the one to end before; by default all windows.
    read
        What reads samples, ``read(buffer, there, here, *, window, n_known)``: those of a selection
        of the dataset into one of a buffer, from a window on; so many of them, the first ones of
        each channel, belong to the window before as well. By default h5py does.

    Yields
    ------
    numpy.ndarray
        Shape ``(n, channels, window)``, or ``(n, window)``: a view of a buffer, read-only and
        only good until the next one is asked for.
    """
    stop = len(windows) if stop is None else stop
    left = stop - start
    if left <= 0:
        return
    dtype = np.dtype(dataset.dtype if dtype is None else dtype)
    channels = dataset.shape[:-1]
    # The buffer has no room for what lies between two windows.
    step = min(windows.stride, windows.window)
    batch_bytes = batch_size * step * dtype.itemsize * math.prod(channels)
    per_block = min(max(1, READ_BYTES // max(1, batch_bytes)), -(-left // batch_size)) * batch_size
    buffer = np.empty((*channels, (per_block - 1) * step + windows.window), dtype)
    views = np.lib.stride_tricks.sliding_window_view(buffer, windows.window, axis=-1)
    views = np.moveaxis(views[..., ::step, :], -2, 0)
    overlap = windows.window - step
    kept = 0
    for block in split(range(start, stop), per_block):
        length = (len(block) - 1) * step + windows.window
        n_known = overlap - kept if block.start else 0
        for there, here in _selections(windows, block, slice(kept, length)):
            if read is None:
                dataset.read_direct(buffer, there, here)
            else:
                read(buffer, there, here, window=block.start, n_known=n_known)
        for first in range(0, len(block), batch_size):
            yield views[first : min(first + batch_size, len(block))]
        buffer[..., :overlap] = buffer[..., length - overlap : length]
        kept = overlap


def _selections(
    windows: Windows, block: range, columns: slice
) -> Iterator[tuple[Selection, Selection]]:
    """Yield where the samples of a run of windows are, without gaps, and where they go.

    They go into those columns of a buffer that lack them.
    """
    spans = windows.span(block)
    shifted = len(set(windows.shifts)) > 1
    for channel, span in enumerate(spans if shifted else spans[:1]):
        if windows.stride > windows.window:
            samples: Any = h5py.MultiBlockSlice(
                start=span.start, stride=windows.stride, count=len(block), block=windows.window
            )
        else:
            samples = slice(span.start + columns.start, span.stop)
        where = channel if shifted else ...
        yield (where, samples), (where, columns)
