"""Inputs as they are read: each chunk once, and each value looked at."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hermes.aeriel import client
from hermes.aeriel.files._blocks import BLOCKS_BYTES, BlockPlan, Blocks, within_bounds
from hermes.aeriel.files._facts import InputFacts, Location
from hermes.aeriel.files._links import as_data_errors, attributes_of, file_name, find
from hermes.aeriel.files._opening import OpenInputs, open_inputs
from hermes.aeriel.files._stack import Selection, Stack
from hermes.aeriel.files._values import InputValues
from hermes.aeriel.files._window_options import WindowOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DatasetReader:
    """Reads a dataset of a file that is open.

    Parameters
    ----------
    location
        Where it is.
    dataset
        The dataset.
    values
        What looks at its values.
    blocks
        What reads it, where it has chunks.
    """

    location: Location
    dataset: h5py.Dataset
    values: InputValues
    blocks: Blocks | None

    def read_rows(self, begin: int, end: int, array: NDArray[Any]) -> None:
        """Read rows; see `InputData.read_rows`."""
        values = self.values
        with as_data_errors(self.location.file, self.location.path, f"rows {begin} to {end - 1}"):
            given = np.empty(array.shape, self.dataset.dtype) if values.is_converted else array
            if self.blocks is not None:
                self.blocks.read(given, begin, end)
            else:
                read_rows(self.dataset, begin, end, given)
            if given is not array:
                values.convert(begin, given, array)
            values.check(begin, begin, array, given)

    def read_samples(
        self, array: NDArray[Any], there: Selection, here: Selection, *, window: int, n_known: int
    ) -> None:
        """Read samples; see `InputData.read_samples`."""
        values = self.values
        target = array[here]
        what = f"samples from window {window} on"
        with as_data_errors(self.location.file, self.location.path, what):
            given = np.empty(target.shape, self.dataset.dtype) if values.is_converted else target
            channel = None if there[0] is ... else there[0]
            if self.blocks is not None and isinstance(there[1], slice):
                self.blocks.read(given, there[1].start, there[1].stop, channel)
            elif self.blocks is not None:
                self.blocks.read_windows(given, there[1], channel)
            elif given is target:
                self.dataset.read_direct(array, there, here)
            else:
                self.dataset.read_direct(given, there)
            if given is not target:
                values.convert(window, given, target)
            values.check((window, here[0]), window, target, given, n_known)


@dataclass(frozen=True, kw_only=True)
class InputData:
    """An input whose files are open.

    Parameters
    ----------
    facts
        What is known of it.
    cut
        How its series are cut into windows; None where it has rows.
    stacks
        What each model input reads, by its name.
    readers
        What reads each dataset of it.
    """

    facts: InputFacts
    cut: WindowOptions | None
    stacks: Mapping[str, Stack]
    readers: Mapping[str, Sequence[DatasetReader]]

    def read_rows(self, name: str, begin: int, end: int, array: NDArray[Any]) -> None:
        """Read rows of an input into an array of shape ``(end - begin, *shape)``.

        Raises
        ------
        DataError
            They cannot be read, or hold a value that cannot be right.
        """
        self.readers[name][0].read_rows(begin, end, array)

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
        for number, source, destination in self.stacks[name].parts(there, here):
            reader = self.readers[name][number]
            reader.read_samples(array, source, destination, window=window, n_known=n_known)

    @property
    def windows(self) -> client.Windows | None:
        """How the series of the first input are cut; None where it has rows."""
        first = next(iter(self.stacks.values()))
        return None if self.cut is None else self.cut.windows(first)

    @property
    def n_not_finite(self) -> dict[str, int]:
        """How many values of each input were not finite."""
        return {
            name: sum(reader.values.n_not_finite for reader in readers)
            for name, readers in self.readers.items()
        }


@contextmanager
def open_data(
    facts: InputFacts,
    dtypes: Mapping[str, np.dtype[Any]],
    *,
    cut: WindowOptions | None = None,
    cast: bool = False,
    finite: bool = False,
    n_readers: int = 1,
    opened: OpenInputs | None = None,
) -> Iterator[InputData]:
    """Open the files of an input to read its datasets.

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
    opened
        The files, where they are open; they stay so.

    Raises
    ------
    DataError
        One cannot be opened.
    """
    axis = -1 if cut else 0
    locations = {name: facts.datasets[name].locations for name in dtypes}
    with open_inputs(facts.files, opened) as given:
        with as_data_errors(facts.file):
            stacks = {}
            plans: list[BlockPlan] = []
            for name, places in locations.items():
                datasets = [find(given.hdf5[at.file], at.path) for at in places]
                stacks[name] = cut.stack(datasets) if cut else Stack.of_rows(datasets[0])
                # Of several datasets each is a channel, which is read by itself.
                shifts = cut.windows(stacks[name]).shifts if cut and len(datasets) == 1 else (0,)
                for location, dataset in zip(places, datasets, strict=True):
                    _warn_of_axes(location, dataset)
                plans += [
                    BlockPlan.of(dataset, axis=axis, n_readers=n_readers, shifts=shifts)
                    for dataset in datasets
                ]
            shares = iter(within_bounds(plans))
            readers = {
                name: [
                    DatasetReader(
                        location=location,
                        dataset=dataset,
                        values=InputValues(dataset=dataset, dtype=dtype, cast=cast, finite=finite),
                        blocks=_blocks(location, dataset, axis, next(shares)),
                    )
                    for location, dataset in zip(
                        locations[name], stacks[name].datasets, strict=True
                    )
                ]
                for name, dtype in dtypes.items()
            }
        yield InputData(facts=facts, cut=cut, stacks=stacks, readers=readers)


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
        They cannot be read, or one has a fill value.
    """
    n_rows, *row = dataset.shape
    step = max(1, n_bytes // max(1, dataset.dtype.itemsize * math.prod(row)))
    (plan,) = within_bounds([BlockPlan.of(dataset, axis=0)])
    reader = DatasetReader(
        location=Location(file=Path(file_name(dataset)), path=dataset.name.lstrip("/")),
        dataset=dataset,
        values=InputValues(dataset=dataset, dtype=dataset.dtype),
        blocks=Blocks(dataset, 0, plan) if plan.length else None,
    )
    memory = np.empty((min(step, n_rows), *row), dataset.dtype)
    for begin in range(0, n_rows, step):
        array = memory[: n_rows - begin]
        reader.read_rows(begin, begin + len(array), array)
        yield begin, array


def _warn_of_axes(location: Location, dataset: h5py.Dataset) -> None:
    if dataset.ndim > 1 and "MATLAB_class" in attributes_of(dataset):
        logger.warning(
            "%s, dataset %r: MATLAB stores arrays with their axes in reverse: %s is read, which is "
            "%s in MATLAB; where the model takes axes as MATLAB has them, save permute(x, %s)",
            location.file,
            location.path,
            dataset.shape,
            dataset.shape[::-1],
            list(range(dataset.ndim, 0, -1)),
        )


def _blocks(location: Location, dataset: h5py.Dataset, axis: int, plan: BlockPlan) -> Blocks | None:
    if plan.n_passes > 1:
        logger.warning(
            "%s, dataset %r: reading is slow: its chunks are read about %d times over, because "
            "what they hold together, for %d rows or samples, is more than the %d MiB that are "
            "kept; repack it with chunks that are shorter along that axis (h5repack -l CHUNK=…)",
            location.file,
            location.path,
            plan.n_passes,
            plan.chunk_length,
            BLOCKS_BYTES >> 20,
        )
    return Blocks(dataset, axis, plan) if plan.length else None
