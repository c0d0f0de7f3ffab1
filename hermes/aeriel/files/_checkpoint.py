"""What a file of predictions that is not whole yet says of itself, and whether its rows agree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes._files import write_whole
from hermes.aeriel.files._varying import how_to_vary
from hermes.errors import OutputError

# The group with the number of each row that is stored, where not all are, and its time.
INDEX = "index"
# The dtype and shape of a row, or an item, of each output.
Layout = dict[str, tuple["np.dtype[Any]", tuple[int, ...]]]


class Checkpoint:
    """``NAME.partial.json``: how far the file NAME is, for the process that goes on with it.

    Parameters
    ----------
    file
        The file that is written.
    key
        What it depends on. A checkpoint with another key counts for nothing.
    """

    def __init__(self, file: Path, **key: str) -> None:
        self._path = file.with_name(file.name + ".partial.json")
        self._key = key
        self._may_be_there = True

    def read(self) -> dict[str, Any]:
        """Return what was written; nothing where there is no checkpoint with this key."""
        try:
            saved: dict[str, Any] = json.loads(self._path.read_text())
        except FileNotFoundError:
            self._may_be_there = False
            return {}
        except json.JSONDecodeError:
            return {}
        is_ours = {name: saved.get(name) for name in self._key} == self._key
        return saved if is_ours else {}

    def write(self, **facts: Any) -> None:
        """Write facts, after what they are about is safe.

        Raises
        ------
        OutputError
            They cannot be written.
        """
        self._may_be_there = True
        write_whole(self._path, json.dumps({**facts, **self._key}))

    def remove(self) -> None:
        """Remove it, if it is there."""
        if self._may_be_there:
            self._path.unlink(missing_ok=True)


def layout_of(outputs: Mapping[str, NDArray[Any]]) -> Layout:
    """Return what a row of each output is."""
    return {name: (array.dtype, array.shape[1:]) for name, array in outputs.items()}


def check_layout(
    file: Path, at: int, outputs: Mapping[str, NDArray[Any]], given: Layout, wanted: Layout
) -> None:
    """Raise OutputError where the outputs of rows from `at` on are not like those before."""
    if given.keys() != wanted.keys():
        problem = f"row {at} has the outputs {sorted(given)}; {sorted(wanted)} are wanted"
        raise OutputError(str(file), f"{problem}, as in the rows before")
    if given != wanted:
        name = next(name for name in given if given[name] != wanted[name])
        problem = f"output {name!r} is {_row(*given[name])} in row {at}"
        before = f"but {_row(*wanted[name])} in the rows before; they have to agree"
        advice = f"; {how_to_vary(name)}" if given[name][0] == wanted[name][0] else ""
        raise OutputError(str(file), f"{problem}, {before}{advice}")
    if len({len(array) for array in outputs.values()}) != 1:
        problem = f"has other numbers of rows than the other outputs from row {at} on"
        raise OutputError(str(file), f"one of {sorted(outputs)} {problem}")


def _row(dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    return f"{'string' if dtype.kind == 'O' else dtype} of shape {shape}"
