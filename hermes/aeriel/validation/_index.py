"""The index of a merged file: where each of its rows came from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.files import OutputFile, parts_of
from hermes.errors import DataError

BLOCK_BYTES = 16 << 20
INDEX = "index"
START_TIME = "start_time"
SAMPLE_RATE = "sample_rate"
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
    shifts, shifts_s
        By how many samples, and seconds where that is known, each channel is later; empty where
        none is. Parts with the same shifts are of one time slide.
    live_time_s
        For how many seconds the rows look at the input; None where times are not known.
    """

    input_files: tuple[Path, ...]
    predictions: Path
    rows: int
    rows_kept: int | None = None
    shifts: tuple[int, ...] = ()
    shifts_s: tuple[float, ...] = ()
    live_time_s: float | None = None

    @property
    def stored(self) -> int:
        """How many rows the predictions have."""
        return self.rows if self.rows_kept is None else self.rows_kept


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
        # The slides by their shifts.
        self._slides = {s: n for n, s in enumerate(dict.fromkeys(part.shifts for part in parts))}
        # Rows in a second, of each input; NaN where that is not known.
        self.rates = np.full(len(parts), np.nan)
        merged.reserve(0, INDEX)
        merged.hdf5.create_group(INDEX)
        self._create(ROW, np.int64)
        self._create("file", np.int32)

    @property
    def n_slides(self) -> int:
        """How many time slides there are."""
        return len(self._slides)

    def set_times(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Note what the attributes of a part's outputs say of the times of its rows.

        Raises
        ------
        DataError
            It has other rows in a second than those before.
        """
        self.start_times[number] = attributes.get(START_TIME, self.start_times[number])
        rate = attributes.get(SAMPLE_RATE)
        if rate is None:
            return
        self.rates[number] = rate
        known = np.flatnonzero(~np.isnan(self.rates))
        before = self.rates[known[0]]
        if not math.isclose(rate, before, rel_tol=1e-9):
            part, first = self.parts[number], self.parts[known[0]]
            problem = f"has {rate:.10g} rows in a second, but {first.predictions} has {before:.10g}"
            raise DataError(file=str(part.predictions), problem=problem)

    def add(self, number: int, source: h5py.Group) -> None:
        """Add the rows that a part has, where some were left out: their numbers, and times."""
        start, end = map(int, self.offsets[number : number + 2])
        for begin, rows in parts_of(source[ROW], BLOCK_BYTES):
            self._write(ROW, start + begin, rows)
        self.set_times(number, source.attrs)
        if TIME in source:
            if TIME not in self._merged.hdf5[INDEX]:
                self._create(TIME, np.float64)
                self._write_no_times(0, start)
            for begin, times in parts_of(source[TIME], BLOCK_BYTES):
                self._write(TIME, start + begin, times)
        elif TIME in self._merged.hdf5[INDEX]:
            self._write_no_times(start, end)

    def finish(self) -> None:
        """Write what is of all parts."""
        numbers = {
            name: n for n, name in enumerate(dict.fromkeys(p.input_files for p in self.parts))
        }
        files = np.array([[str(file) for file in files] for files in numbers], object)
        self._put("files", files[:, 0] if files.shape[1] == 1 else files)
        self._put("offsets", self.offsets)
        is_timed = not np.isnan(self.start_times).all()
        if is_timed:
            self._put(START_TIME, self.start_times)
        has_times = is_timed and not self.is_selected
        if has_times:
            self._create(TIME, np.float64)
        has_slides = self.n_slides > 1
        if has_slides:
            self._create("slide", np.int32)
            self._finish_slides()
        file = np.array([numbers[part.input_files] for part in self.parts], np.int32)
        slide = np.array([self._slides[part.shifts] for part in self.parts], np.int32)
        for block in self._blocks(0, self.total):
            rows = np.arange(block.start, block.stop)
            part = np.searchsorted(self.offsets, rows, side="right") - 1
            self._write("file", block.start, file[part])
            if has_slides:
                self._write("slide", block.start, slide[part])
            if not self.is_selected:
                rows -= self.offsets[part]
                self._write(ROW, block.start, rows)
                if has_times:
                    times = self.start_times[part] + rows / self.rates[part]
                    self._write(TIME, block.start, times)
        live_times = [part.live_time_s for part in self.parts if part.live_time_s is not None]
        if len(live_times) == len(self.parts):
            self._merged.write_attributes(
                self._merged.hdf5, {"live_time_s": float(sum(live_times))}
            )
        if self.is_selected:
            rows = np.array([part.rows for part in self.parts], np.int64)
            self._put("rows", rows)
            counts = {"rows": int(rows.sum()), "rows_kept": self.total}
            self._merged.write_attributes(self._merged.hdf5, counts)

    def _finish_slides(self) -> None:
        """Write by how much each slide shifts the channels, and for how long it looks at them."""
        if any(part.live_time_s is None for part in self.parts):
            return
        live_times = dict.fromkeys(self._slides, 0.0)
        seconds = {part.shifts: part.shifts_s for part in self.parts}
        for part in self.parts:
            live_times[part.shifts] += part.live_time_s or 0.0
        none = (0.0,) * max(map(len, seconds.values()))
        self._put("live_time", np.array(list(live_times.values())))
        self._put("shifts", np.array([seconds[shifts] or none for shifts in self._slides]))

    def _write_no_times(self, begin: int, end: int) -> None:
        for block in self._blocks(begin, end):
            self._write(TIME, block.start, np.full(len(block), np.nan))

    def _write(self, name: str, begin: int, values: NDArray[np.generic]) -> None:
        self._merged.write(f"{INDEX}/{name}", begin, values)

    def _create(self, name: str, dtype: type) -> None:
        self._merged.create_dataset(f"{INDEX}/{name}", (self.total,), np.dtype(dtype))

    def _put(self, name: str, values: NDArray[np.generic]) -> None:
        dtype = h5py.string_dtype() if values.dtype.kind == "O" else values.dtype
        self._merged.create_dataset(f"{INDEX}/{name}", values.shape, dtype)
        self._write(name, 0, values)

    @staticmethod
    def _blocks(begin: int, end: int) -> Iterator[range]:
        step = BLOCK_BYTES // 8
        for first in range(begin, end, step):
            yield range(first, min(first + step, end))
