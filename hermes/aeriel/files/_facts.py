"""What is known of inputs without reading their data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

# The shape (-1: any length) and the dtype of each input.
RowInputs = Mapping[str, tuple[tuple[int, ...], "np.dtype[Any]"]]


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where a dataset is: a file, and a path in it."""

    file: Path
    path: str


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What is known of a dataset, or of several that are the channels of one series.

    Parameters
    ----------
    locations
        Where it is; or where each of the channels is.
    shape, dtype
        Those of its rows, or of its windows.
    sample_rate
        Samples per second, where the file says so.
    units
        The units of its values; empty where the file does not say.
    """

    locations: tuple[Location, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sample_rate: float | None = None
    units: str = ""

    @property
    def file(self) -> Path:
        """The file that it is in; of several, the first."""
        return self.locations[0].file

    @property
    def path(self) -> str:
        """Its path in a message."""
        return ", ".join(dict.fromkeys(location.path for location in self.locations))

    @property
    def paths(self) -> str | tuple[str, ...]:
        """Its path, or those of the channels, as `input_map` has them."""
        paths = tuple(location.path for location in self.locations)
        return paths if len(paths) > 1 else paths[0]

    def __str__(self) -> str:
        return f"{describe_dtype(self.dtype)} of shape {self.shape}"


@dataclass(frozen=True, kw_only=True)
class InputFacts:
    """What is known of an input without reading its data.

    Parameters
    ----------
    files
        The file; or several that are read side by side, each with a channel of every series.
    rows
        The length of the leading axis, which its datasets share.
    datasets
        Each dataset by the name of the model input that it is for.
    target
        The dataset with the targets, where there is one.
    """

    files: tuple[Path, ...]
    rows: int
    datasets: Mapping[str, DatasetFacts]
    target: DatasetFacts | None = None

    @property
    def file(self) -> Path:
        """The file; of several, the first."""
        return self.files[0]


def describe_dtype(dtype: np.dtype[Any]) -> str:
    """Return a dtype's name in a message."""
    if h5py.check_string_dtype(dtype) is not None:
        return "string"
    elements = h5py.check_vlen_dtype(dtype)
    return str(dtype) if elements is None else f"varying numbers of {elements}"


def listed(items: Sequence[object], most: int) -> str:
    """Return the first of some items in a message, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more
