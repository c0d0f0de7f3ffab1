"""What the outputs of a model look like where there are no targets to compare them with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from hermes.aeriel import files
from hermes.aeriel.files import flat_paths, parts_of
from hermes.aeriel.validation._index import BLOCK_BYTES, INDEX
from hermes.aeriel.validation._merge import TARGET

N_BINS = 50


@dataclass
class _Values:
    """Counts and sums over the values of an output."""

    n_values: int = 0
    n_nan: int = 0
    n_infinite: int = 0
    low: float = math.inf
    high: float = -math.inf
    mean: float = 0.0
    # The sum of squares of the distances from the mean.
    squares: float = 0.0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Add values of any shape."""
        finite = _finite(values)
        n_before = self.n_finite
        self.n_values += values.size
        if values.dtype.kind == "f":
            n_nan = int(np.count_nonzero(np.isnan(values)))
            self.n_nan += n_nan
            self.n_infinite += values.size - finite.size - n_nan
        if not finite.size:
            return
        self.low = min(self.low, float(finite.min()))
        self.high = max(self.high, float(finite.max()))
        # Chan, Golub & LeVeque (1979): the two sums together, without cancellation.
        mean, n = float(finite.mean(dtype=np.float64)), finite.size
        step, total = mean - self.mean, n_before + n
        distances = finite.astype(np.float64) - mean
        with np.errstate(over="ignore"):  # of float64 beyond 1e154 they are infinite
            self.squares += float(distances @ distances) + step * (step * n_before * n / total)
        self.mean += step * n / total

    @property
    def n_finite(self) -> int:
        """How many values are numbers."""
        return self.n_values - self.n_nan - self.n_infinite


def describe_outputs(merged_file: Path) -> list[dict[str, Any]]:
    """Return what the values of each output in a merged file are, after reading them twice.

    Returns
    -------
    list of dict
        ``output``, ``dtype``, ``shape`` (of a row; None where rows are of varying length),
        ``n_values``, ``n_nan``, ``n_infinite``; and, of the numbers among them, ``min``, ``max``,
        ``mean``, ``std`` and ``histogram`` with ``edges`` and ``counts``. An output of strings has
        no more than the first three.
    """
    with h5py.File(merged_file, "r") as merged:
        return [_describe(merged, name) for name in merged if name not in (INDEX, TARGET)]


def _describe(merged: h5py.File, name: str) -> dict[str, Any]:
    is_varying = isinstance(merged[name], h5py.Group)
    dataset: h5py.Dataset = merged[flat_paths(name)[1] if is_varying else name]
    facts: dict[str, Any] = {
        "output": files.output_name(name),
        "dtype": "string" if dataset.dtype.kind == "O" else str(dataset.dtype),
        "shape": None if is_varying else list(dataset.shape[1:]),
    }
    if dataset.dtype.kind not in "biuf":
        return facts
    found = _Values()
    for _, values in parts_of(dataset, BLOCK_BYTES):
        found.add(values)
    facts |= {
        "n_values": found.n_values,
        "n_nan": found.n_nan,
        "n_infinite": found.n_infinite,
    }
    if not found.n_finite:
        return facts
    edges = _edges(found, dataset.dtype)
    counts = np.zeros(len(edges) - 1, np.int64)
    for _, values in parts_of(dataset, BLOCK_BYTES):
        counts += np.histogram(_finite(values).astype(np.float64), edges)[0]
    return {
        **facts,
        "min": found.low,
        "max": found.high,
        "mean": found.mean,
        "std": math.sqrt(found.squares / found.n_finite),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _finite(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the numbers among values, shape (numbers,)."""
    flat = values.reshape(-1)
    return flat[np.isfinite(flat)] if flat.dtype.kind == "f" else flat


def _edges(found: _Values, dtype: np.dtype[Any]) -> npt.NDArray[np.float64]:
    """Return the edges of the bins: one for each whole number, where there are few."""
    low, high = found.low, found.high
    largest = max(abs(low), abs(high))
    # Larger ones have no float64 between them, where an edge would be.
    if dtype.kind != "f" and high - low < N_BINS and largest < 2**52:
        return np.arange(low - 0.5, high + 1)
    if high - low <= 1e-9 * largest:
        margin = 1e-6 * largest or 0.5
        low, high = low - margin, high + margin
    return np.linspace(low, high, N_BINS + 1)
