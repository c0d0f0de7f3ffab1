"""Datasets in chunks, read in blocks that end where chunks do, so that each chunk is read once."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.files._links import find
from hermes.aeriel.files._sources import sources_of

# How much of the inputs of one file is kept, so that no chunk is read and inflated twice.
BLOCKS_BYTES = 256 << 20
# What a block has at least, where chunks are small.
READ_BYTES = 1 << 20
# The same where channels are read one after the other, a request's worth or more of each at once.
SHIFTED_READ_BYTES = 16 << 20
# So many chunks of a virtual dataset are in a block: its borders are not those of its sources.
_CHUNKS_OF_SOURCES = 8


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """How a dataset is taken apart along the axis that it is read along.

    Parameters
    ----------
    length
        Of a block along that axis; 0: none, for what is read as well in any other way.
    chunk_length
        That of its chunks.
    n_kept
        How many blocks are kept.
    unit_bytes
        The bytes of a block for each index.
    channels
        How many channels a block has, where each is read by itself; 0: all.
    """

    length: int = 0
    chunk_length: int = 0
    n_kept: int = 1
    unit_bytes: int = 0
    channels: int = 0

    @classmethod
    def of(
        cls, dataset: h5py.Dataset, *, axis: int, n_readers: int = 1, shifts: Sequence[int] = (0,)
    ) -> Self:
        """Return the plan for a dataset.

        Parameters
        ----------
        dataset
            It is all there.
        axis
            Along which axis it is read: 0 for rows, -1 for samples.
        n_readers
            At how many places it is read at a time.
        shifts
            How far from each other the channels of a series are read.
        """
        chunks = _chunks(dataset, axis)
        if chunks is None or dataset.dtype.kind == "O" or 0 in dataset.shape:
            return cls()
        is_shifted = len(set(shifts)) > 1
        channels = min(chunks[0], dataset.shape[0]) if is_shifted else 0
        others = list(dataset.shape)
        n_all = others.pop(axis)
        chunk_length = min(chunks[axis], n_all)
        unit_bytes = dataset.dtype.itemsize * (channels or math.prod(others))
        n_bytes = SHIFTED_READ_BYTES if is_shifted else READ_BYTES
        at_least = max(1, n_bytes // (chunk_length * unit_bytes))
        if dataset.is_virtual:
            at_least = max(at_least, _CHUNKS_OF_SOURCES)
        length = min(chunk_length * at_least, n_all)
        n_wanted = n_readers
        n_groups = 1
        if is_shifted:
            groups = [shifts[i : i + channels] for i in range(0, len(shifts), channels)]
            n_groups = len(groups)
            spread = max(max(group) - min(group) for group in groups)
            n_wanted *= 2 + -(-spread // length)
        n_kept = n_groups * min(n_wanted, -(-n_all // length))
        return cls(
            length=length,
            chunk_length=chunk_length,
            n_kept=n_kept,
            unit_bytes=unit_bytes,
            channels=channels,
        )

    @property
    def n_bytes(self) -> int:
        """The bytes of all blocks that are kept."""
        return self.n_kept * self.length * self.unit_bytes

    @property
    def n_passes(self) -> int:
        """How often each chunk is read."""
        return -(-self.chunk_length // self.length) if self.length else 1

    def within(self, n_bytes: int) -> Self:
        """Return a plan that keeps no more than so many bytes, or one index of each block."""
        if self.n_bytes <= n_bytes:
            return self
        return replace(self, length=max(1, n_bytes // (self.n_kept * self.unit_bytes)))


def within_bounds(plans: Sequence[BlockPlan]) -> list[BlockPlan]:
    """Return the plans of one file, of which each gets its share of `BLOCKS_BYTES`."""
    total = sum(plan.n_bytes for plan in plans)
    if total <= BLOCKS_BYTES:
        return list(plans)
    return [plan.within(int(BLOCKS_BYTES * plan.n_bytes / total)) for plan in plans]


class Blocks:
    """A dataset, read in blocks; several threads may read it.

    Parameters
    ----------
    dataset, axis
        The dataset, and the axis that it is read along, which is its first or its last.
    plan
        How it is taken apart.
    """

    def __init__(self, dataset: h5py.Dataset, axis: int, plan: BlockPlan) -> None:
        self._dataset = dataset
        self._axis = axis
        self._plan = plan
        # By the group of channels and the number of the block; the one that was used last is last.
        self._blocks: OrderedDict[tuple[int, int], NDArray[Any]] = OrderedDict()
        self._finished: set[tuple[int, int]] = set()  # what was read to its end goes first
        self._lock = threading.Lock()

    def read(self, array: NDArray[Any], begin: int, end: int, channel: int | None = None) -> None:
        """Read a part, of all channels or of one, into an array of its shape and any dtype."""
        with self._lock:
            for number, there, here in self._parts(begin, end):
                target = array[self._along(here)]
                if channel is None and self._is_whole(number, there) and self._suits(target):
                    # Straight to where it is wanted, without a block between.
                    self._fetch(number, 0, target)
                else:
                    block = self._block(number, channel)
                    target[...] = block[self._along(there)]
                    if channel is None and there.stop == block.shape[self._axis]:
                        self._finished.add(next(reversed(self._blocks)))

    def read_windows(
        self, array: NDArray[Any], windows: h5py.MultiBlockSlice, channel: int | None = None
    ) -> None:
        """Read windows with gaps between them into an array in which they have none."""
        window, stride, count = windows.block, windows.stride, windows.count
        length = self._plan.length
        done = 0
        while done < count:
            first = windows.start + done * stride
            offset = first % length
            n_whole = min(count - done, (length - offset - window) // stride + 1)
            if n_whole < 1:
                columns = slice(done * window, (done + 1) * window)
                self.read(array[..., columns], first, first + window, channel)
                done += 1
                continue
            with self._lock:
                block = self._block(first // length, channel)
                samples = block[..., offset : offset + (n_whole - 1) * stride + window]
                views = np.lib.stride_tricks.sliding_window_view(samples, window, axis=-1)
                columns = slice(done * window, (done + n_whole) * window)
                there = array[..., columns]
                there.reshape(*there.shape[:-1], n_whole, window)[...] = views[..., ::stride, :]
            done += n_whole

    def _parts(self, begin: int, end: int) -> Iterator[tuple[int, slice, slice]]:
        """Yield the number of each block, what is wanted of it, and where that goes."""
        length = self._plan.length
        for number in range(begin // length, -(-end // length)):
            first, last = max(begin, number * length), min(end, (number + 1) * length)
            there = slice(first - number * length, last - number * length)
            yield number, there, slice(first - begin, last - begin)

    def _is_whole(self, number: int, there: slice) -> bool:
        rest = self._dataset.shape[self._axis] - number * self._plan.length
        is_kept = (0, number) in self._blocks
        return not is_kept and there == slice(0, min(self._plan.length, rest))

    def _suits(self, array: NDArray[Any]) -> bool:
        is_same: bool = array.dtype == self._dataset.dtype
        return is_same and array.flags.c_contiguous

    def _along(self, part: slice) -> tuple[Any, ...]:
        return (part,) if self._axis == 0 else (..., part)

    def _block(self, number: int, channel: int | None) -> NDArray[Any]:
        """Return a block, or what it has of a channel, which is good until the next is asked."""
        n_channels = self._plan.channels
        group = 0 if channel is None else channel // n_channels
        key = (group, number)
        self._finished.discard(key)
        if key in self._blocks:
            self._blocks.move_to_end(key)
        else:
            self._load(key)
        rest = self._dataset.shape[self._axis] - number * self._plan.length
        part = self._along(slice(0, min(self._plan.length, rest)))
        block: NDArray[Any] = self._blocks[key][part]
        if channel is not None:
            block = block[channel % n_channels]
        return block

    def _load(self, key: tuple[int, int]) -> None:
        group, number = key
        if len(self._blocks) < self._plan.n_kept:
            shape = list(self._dataset.shape)
            if self._plan.channels:
                shape[0] = self._plan.channels
            shape[self._axis] = min(self._plan.length, shape[self._axis])
            memory = np.empty(shape, self._dataset.dtype)
        else:
            oldest = next(iter(self._blocks))
            done = next((key for key in self._blocks if key in self._finished), oldest)
            self._finished.discard(done)
            memory = self._blocks.pop(done)  # used again: fresh memory is slow
        self._fetch(number, group, memory)
        self._blocks[key] = memory

    def _fetch(self, number: int, group: int, array: NDArray[Any]) -> None:
        """Read a block into an array, which may be larger."""
        length, n_channels = self._plan.length, self._plan.channels
        begin = [0] * array.ndim
        begin[self._axis] = number * length
        if n_channels:
            begin[0] = group * n_channels
        end = [
            min(first + size, most)
            for first, size, most in zip(begin, array.shape, self._dataset.shape, strict=True)
        ]
        there = tuple(slice(*pair) for pair in zip(begin, end, strict=True))
        here = tuple(slice(last - first) for first, last in zip(begin, end, strict=True))
        self._dataset.read_direct(array, there, here)


def _chunks(dataset: h5py.Dataset, axis: int) -> tuple[int, ...] | None:
    """Return the shape of a dataset's chunks; None where any read of it is as good as another."""
    if dataset.is_virtual:
        return _chunks_of_sources(dataset, axis)
    if dataset.chunks is None:
        return None
    is_filtered = dataset.id.get_create_plist().get_nfilters() > 0
    is_across = list(dataset.chunks)
    others = list(dataset.shape)
    del is_across[axis], others[axis]
    if not is_filtered and is_across == others:
        return None  # HDF5 reads a part of a chunk as it is
    return tuple(int(length) for length in dataset.chunks)


def _chunks_of_sources(dataset: h5py.Dataset, axis: int) -> tuple[int, ...] | None:
    """Return a shape with the length of the longest chunks of the sources of a dataset."""
    found = []
    for source in sources_of(dataset):
        if source.file is not None and source.path is not None:
            with h5py.File(source.file, "r") as opened:
                chunks = _chunks(find(opened, source.path), axis)
            if chunks is not None:
                found.append(chunks[axis])
    if not found:
        return None
    shape = [int(length) for length in dataset.shape]
    shape[axis] = max(found)
    return tuple(shape)
