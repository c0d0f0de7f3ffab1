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

from hermes.aeriel.files._inputs import InputFacts, open_input
from hermes.aeriel.files._links import as_data_errors, find
from hermes.aeriel.files._sources import sources_of
from hermes.aeriel.files._values import InputValues

logger = logging.getLogger(__name__)

# How much of the chunks of an input may be kept, so that none is read and inflated twice.
CACHE_BYTES = 256 << 20
DEFAULT_CACHE_BYTES = 1 << 20
# What HDF5 finds chunks by: primes, far more than there are chunks.
_SLOTS = (521, 12_421, 100_003, 1_000_003)


@dataclass(frozen=True, kw_only=True)
class ChunkCache:
    """What it takes to keep the chunks that one row, or one sample of all channels, lies in.

    Parameters
    ----------
    n_chunks, n_bytes
        How many there are, and how large they are together.
    """

    n_chunks: int = 0
    n_bytes: int = 0

    @classmethod
    def of(cls, dataset: h5py.Dataset, axis: int) -> ChunkCache:
        """Return what suits a dataset that is read along an axis; the largest of its sources'."""
        needs = [_own_need(dataset, axis)]
        for source in sources_of(dataset) if dataset.is_virtual else ():
            if source.file is not None and source.path is not None:
                with h5py.File(source.file, "r") as opened:
                    found = find(opened["/"], source.path)
                    needs.append(cls.of(found, axis))
        return max(needs, key=lambda need: need.n_bytes)

    def options(self) -> dict[str, Any]:
        """Return the options of `h5py.File` for it; none where HDF5's own do."""
        if self.n_bytes <= DEFAULT_CACHE_BYTES:
            return {}
        n_slots = next((n for n in _SLOTS if n > 100 * self.n_chunks), _SLOTS[-1])
        return {
            "rdcc_nbytes": min(self.n_bytes, CACHE_BYTES),
            "rdcc_nslots": n_slots,
            "rdcc_w0": 1.0,  # what has been read to its end goes first
        }


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
    """

    facts: InputFacts
    datasets: Mapping[str, h5py.Dataset]
    values: Mapping[str, InputValues]

    def read_rows(self, name: str, begin: int, end: int, array: NDArray[Any]) -> None:
        """Read rows of an input into an array of shape ``(end - begin, *shape)``.

        Raises
        ------
        DataError
            They cannot be read, or hold a value that cannot be right.
        """
        dataset, values = self.datasets[name], self.values[name]
        with self.reading(name, f"rows {begin} to {end - 1}"):
            if values.has_to_be_exact:
                given = dataset[begin:end]
                values.check_exact(begin, given)
                array[...] = given
            else:
                read_rows(dataset, begin, end, array)
            values.check(begin, begin, array, lambda: dataset[begin:end])

    @contextmanager
    def reading(self, name: str, what: str) -> Iterator[None]:
        """Turn what h5py raises while it reads an input into DataError."""
        with as_data_errors(self.facts.file, self.facts.datasets[name].path, what):
            yield


@contextmanager
def open_data(
    facts: InputFacts,
    dtypes: Mapping[str, np.dtype[Any]],
    *,
    axis: int,
    cast: bool,
    finite: bool,
) -> Iterator[InputData]:
    """Open an input file to read its datasets.

    Parameters
    ----------
    facts
        What `inspect` found.
    dtypes
        What each input is read as.
    axis
        Along which axis they are read: 0 for rows, -1 for samples.
    cast
        Whether values may be rounded.
    finite
        Whether each has to be finite.

    Raises
    ------
    DataError
        It cannot be opened.
    """
    with open_input(facts.file) as opened, as_data_errors(facts.file):
        needs = {
            dataset.path: ChunkCache.of(find(opened["/"], dataset.path), axis)
            for dataset in facts.datasets.values()
        }
    for path, need in needs.items():
        if need.n_bytes > CACHE_BYTES:
            sizes = f"{need.n_bytes / 1e9:.3g} GB in {need.n_chunks} chunks belong to one row"
            advice = "repack it with chunks of few rows (h5repack -l CHUNK=…)"
            logger.warning(
                "%s, dataset %r: reading is slow: %s; %s", facts.file, path, sizes, advice
            )
    need = max(needs.values(), key=lambda need: need.n_bytes)
    with open_input(facts.file, **need.options()) as opened:
        with as_data_errors(facts.file):
            datasets = {name: find(opened["/"], facts.datasets[name].path) for name in dtypes}
            values = {
                name: InputValues(dataset=datasets[name], dtype=dtype, cast=cast, finite=finite)
                for name, dtype in dtypes.items()
            }
        yield InputData(facts=facts, datasets=datasets, values=values)


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


def _own_need(dataset: h5py.Dataset, axis: int) -> ChunkCache:
    if not dataset.chunks:
        return ChunkCache()
    lengths = list(zip(dataset.shape, dataset.chunks, strict=True))
    del lengths[axis if dataset.ndim > 1 or axis == 0 else 0]
    # One more: a read that ends in the next chunks begins with these.
    n_chunks = math.prod(-(-length // chunk) for length, chunk in lengths) + 1
    return ChunkCache(
        n_chunks=n_chunks,
        n_bytes=n_chunks * math.prod(dataset.chunks) * dataset.dtype.itemsize,
    )
