"""The index of a merged file: where each of its rows came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.files import OutputFile, parts_of

BLOCK_BYTES = 16 << 20
INDEX = "index"
START_TIME = "start_time"
TIME = "time"
ROW = "row"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file to merge.

    Parameters
    ----------
    input_files
        Where the rows came from: a file, or several, each with one channel of every series.
    predictions
        The file with its predictions.
    rows
        How many rows the input has.
    rows_kept
        How many of them the predictions have, where some were left out; None for all.
    """

    input_files: tuple[Path, ...]
    predictions: Path
    rows: int
    rows_kept: int | None = None

    @property
    def stored(self) -> int:
        """How many rows the predictions have."""
        return self.rows if self.rows_kept is None else self.rows_kept


def rows_kept(attributes: Mapping[str, Any]) -> int | None:
    """Return how many rows a file of predictions has, by its attributes; None for all."""
    found = attributes.get("rows_kept")
    return None if found is None else int(found)


class Index:
    """Writes the group ``index``.

    Parameters
    ----------
    merged
        The merged file.
    parts
        What is merged.
    """

    def __init__(self, merged: OutputFile, parts: Sequence[Part]) -> None:
        self.offsets = np.cumsum([0, *(part.stored for part in parts)], dtype=np.int64)
        self.total = int(self.offsets[-1])
        # Those of the first row of each input.
        self.start_times = np.full(len(parts), np.nan)
        self._merged = merged
        self.parts = parts
        self.is_selected = any(part.rows_kept is not None for part in parts)
        merged.reserve(0, INDEX)
        merged.hdf5.create_group(INDEX)
        self._create(ROW, np.int64)
        self._create("file", np.int32)

    def add(self, number: int, source: h5py.Group) -> None:
        """Add the rows that a part has, where some were left out: their numbers, and times."""
        start = int(self.offsets[number])
        for begin, rows in parts_of(source[ROW], BLOCK_BYTES):
            self._merged.write(f"{INDEX}/{ROW}", start + begin, rows)
        self.start_times[number] = source.attrs.get(START_TIME, np.nan)
        if TIME in source and TIME not in self._merged.hdf5[INDEX]:
            self._create(TIME, np.float64)
            for block in self._blocks(0, start):
                self._merged.write(f"{INDEX}/{TIME}", block.start, np.full(len(block), np.nan))
        if TIME in source:
            for begin, times in parts_of(source[TIME], BLOCK_BYTES):
                self._merged.write(f"{INDEX}/{TIME}", start + begin, times)
        elif TIME in self._merged.hdf5[INDEX]:
            for block in self._blocks(start, int(self.offsets[number + 1])):
                self._merged.write(f"{INDEX}/{TIME}", block.start, np.full(len(block), np.nan))

    def finish(self) -> None:
        """Write what is of all parts."""
        files = np.array([[str(file) for file in each.input_files] for each in self.parts], object)
        self._put("files", files[:, 0] if files.shape[1] == 1 else files)
        self._put("offsets", self.offsets)
        if not np.isnan(self.start_times).all():
            self._put(START_TIME, self.start_times)
        for block in self._blocks(0, self.total):
            rows = np.arange(block.start, block.stop)
            numbers = np.searchsorted(self.offsets, rows, side="right") - 1
            self._merged.write(f"{INDEX}/file", block.start, numbers)
            if not self.is_selected:
                self._merged.write(f"{INDEX}/{ROW}", block.start, rows - self.offsets[numbers])
        if self.is_selected:
            rows = np.array([part.rows for part in self.parts], np.int64)
            self._put("rows", rows)
            counts = {"rows": int(rows.sum()), "rows_kept": self.total}
            self._merged.write_attributes(self._merged.hdf5, counts)

    def _create(self, name: str, dtype: type) -> None:
        self._merged.create_dataset(f"{INDEX}/{name}", (self.total,), np.dtype(dtype))

    def _put(self, name: str, values: NDArray[np.generic]) -> None:
        dtype = h5py.string_dtype() if values.dtype.kind == "O" else values.dtype
        self._merged.create_dataset(f"{INDEX}/{name}", values.shape, dtype)
        self._merged.write(f"{INDEX}/{name}", 0, values)

    @staticmethod
    def _blocks(begin: int, end: int) -> Iterator[range]:
        step = BLOCK_BYTES // 8
        for first in range(begin, end, step):
            yield range(first, min(first + step, end))
