"""Inputs as they are read: each chunk once, and each value looked at."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.files._blocks import BLOCKS_BYTES, BlockPlan, Blocks, within_bounds
from hermes.aeriel.files._inputs import InputFacts, open_input
from hermes.aeriel.files._links import as_data_errors, find
from hermes.aeriel.files._values import InputValues
from hermes.aeriel.files._window_options import WindowOptions

logger = logging.getLogger(__name__)

# Which channel of a series, or all of them, and which samples.
Selection = tuple[Any, Any]


@dataclass(frozen=True, kw_only=True)
class InputData:
    """An input file that is open.

    Parameters
    ----------
    facts
        What is known of it.
    datasets
        Its datasets by the name of the model input.
    values
        What looks at the values of each.
    blocks
        What reads those that have chunks.
    """

    facts: InputFacts
    datasets: Mapping[str, h5py.Dataset]
    values: Mapping[str, InputValues]
    blocks: Mapping[str, Blocks]

    def read_rows(self, name: str, begin: int, end: int, array: NDArray[Any]) -> None:
        """Read rows of an input into an array of shape ``(end - begin, *shape)``.

        Raises
        ------
        DataError
            They cannot be read, or hold a value that cannot be right.
        """
        dataset, values = self.datasets[name], self.values[name]
        with self._reading(name, f"rows {begin} to {end - 1}"):
            given = np.empty(array.shape, dataset.dtype) if values.is_converted else array
            if name in self.blocks:
                self.blocks[name].read(given, begin, end)
            else:
                read_rows(dataset, begin, end, given)
            if given is not array:
                values.convert(begin, given, array)
            values.check(begin, begin, array, given)

    def read_samples(
        self,
        name: str,
        array: NDArray[Any],
        there: Selection,
        here: Selection,
        *,
        window: int,
        n_known: int,
    ) -> None:
        """Read samples of an input: those of a selection, into one of an array.

        Parameters
        ----------
        name
            The input.
        array, there, here
            As for `h5py.Dataset.read_direct`; samples are a slice, or an `h5py.MultiBlockSlice`.
        window
            The first window that they are of.
        n_known
            How many of them, the first ones of each channel, were read before.

        Raises
        ------
        DataError
            They cannot be read, or hold a value that cannot be right.
        """
        dataset, values = self.datasets[name], self.values[name]
        target = array[here]
        with self._reading(name, f"samples from window {window} on"):
            given = np.empty(target.shape, dataset.dtype) if values.is_converted else target
            if name in self.blocks:
                self._read_blocks(name, given, there)
            elif given is target:
                dataset.read_direct(array, there, here)
            else:
                dataset.read_direct(given, there)
            if given is not target:
                values.convert(window, given, target)
            values.check((window, here[0]), window, target, given, n_known)

    def _read_blocks(self, name: str, array: NDArray[Any], there: Selection) -> None:
        blocks = self.blocks[name]
        channel = None if there[0] is ... else there[0]
        if isinstance(there[1], slice):
            blocks.read(array, there[1].start, there[1].stop, channel)
        else:
            blocks.read_windows(array, there[1], channel)

    @contextmanager
    def _reading(self, name: str, what: str) -> Iterator[None]:
        """Turn what h5py raises while it reads an input into DataError."""
        with as_data_errors(self.facts.file, self.facts.datasets[name].path, what):
            yield


@contextmanager
def open_data(
    facts: InputFacts,
    dtypes: Mapping[str, np.dtype[Any]],
    *,
    cut: WindowOptions | None = None,
    cast: bool = False,
    finite: bool = False,
    n_readers: int = 1,
) -> Iterator[InputData]:
    """Open an input file to read its datasets.

    Parameters
    ----------
    facts
        What `inspect` found.
    dtypes
        What each input is read as.
    cut
        How the datasets are cut into windows; None for rows.
    cast
        Whether values may be rounded.
    finite
        Whether each has to be finite.
    n_readers
        At how many places they are read at a time.

    Raises
    ------
    DataError
        It cannot be opened.
    """
    axis = -1 if cut else 0
    with open_input(facts.file) as opened:
        with as_data_errors(facts.file):
            datasets = {name: find(opened["/"], facts.datasets[name].path) for name in dtypes}
            plans = [
                BlockPlan.of(
                    dataset,
                    axis=axis,
                    n_readers=n_readers,
                    shifts=cut.windows(dataset).shifts if cut else (0,),
                )
                for dataset in datasets.values()
            ]
            values = {
                name: InputValues(dataset=datasets[name], dtype=dtype, cast=cast, finite=finite)
                for name, dtype in dtypes.items()
            }
        blocks = {}
        for (name, dataset), plan in zip(datasets.items(), within_bounds(plans), strict=True):
            if plan.n_passes > 1:
                _warn(facts, name, plan)
            if plan.length:
                blocks[name] = Blocks(dataset, axis, plan)
        yield InputData(facts=facts, datasets=datasets, values=values, blocks=blocks)


def read_rows(dataset: h5py.Dataset, begin: int, end: int, array: NDArray[Any]) -> None:
    """Read rows of a dataset into an array of shape ``(end - begin, *shape)``."""
    if array.dtype == np.dtype(object):
        rows = dataset[begin:end]
        if h5py.check_string_dtype(dataset.dtype) is None:  # bytes as integers
            rows = np.frompyfunc(bytes, 1, 1)(rows)
        array[...] = rows
        return
    # What Dataset.read_direct does, without the half of its time that goes into selections.
    there = dataset.id.get_space()
    there.select_hyperslab((begin, *[0] * (array.ndim - 1)), array.shape)
    here = h5py.h5s.create_simple(array.shape)
    dataset.id.read(here, there, array, h5py.h5t.py_create(array.dtype))


def parts_of(dataset: h5py.Dataset, n_bytes: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the rows of a dataset, about so many bytes at a time, each with the first row's number.

    An array is only good until the next one is asked for.

    Raises
    ------
    DataError
        One has a fill value.
    """
    n_rows, *row = dataset.shape
    step = max(1, n_bytes // max(1, dataset.dtype.itemsize * math.prod(row)))
    (plan,) = within_bounds([BlockPlan.of(dataset, axis=0)])
    blocks = Blocks(dataset, 0, plan) if plan.length else None
    values = InputValues(dataset=dataset, dtype=dataset.dtype)
    memory = np.empty((min(step, n_rows), *row), dataset.dtype)
    for begin in range(0, n_rows, step):
        array = memory[: n_rows - begin]
        if blocks is None:
            read_rows(dataset, begin, begin + len(array), array)
        else:
            blocks.read(array, begin, begin + len(array))
        values.check(begin, begin, array, array)
        yield begin, array


def _warn(facts: InputFacts, name: str, plan: BlockPlan) -> None:
    logger.warning(
        "%s, dataset %r: reading is slow: its chunks are read about %d times over, because what "
        "they hold together, for %d rows or samples, is more than the %d MiB that are kept; repack "
        "it with chunks that are shorter along that axis (h5repack -l CHUNK=…)",
        facts.file,
        facts.datasets[name].path,
        plan.n_passes,
        plan.chunk_length,
        BLOCKS_BYTES >> 20,
    )
