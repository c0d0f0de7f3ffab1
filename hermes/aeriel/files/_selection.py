"""What becomes of the outputs of a block before they are stored."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.client import ModelSpecification, Windows
from hermes.aeriel.files._checkpoint import INDEX, check_layout, layout_of
from hermes.aeriel.files._condition import Condition
from hermes.aeriel.files._hooks import Hooks, Postprocess, Rows, array_problem, call, problem_of
from hermes.aeriel.files._rows import Arrays
from hermes.errors import ParameterError

BLOCK_BYTES = 16 << 20
MOST_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a hook does to the outputs, and which rows are kept.

    Parameters
    ----------
    postprocess
        The hook, if there is one.
    keep
        The condition, if there is one.
    block_rows
        The rows of a block, from the beginning of a sequence on.
    rows_per_sequence
        The rows of a sequence; those of the file where there are none.
    """

    postprocess: Postprocess | None
    keep: Condition | None
    block_rows: int
    rows_per_sequence: int

    def stream(
        self,
        answers: Iterator[tuple[range, Arrays]],
        *,
        files: tuple[Path, ...],
        windows: Windows | None,
        n_rows: int,
        start: int,
    ) -> Iterator[tuple[range, Arrays, Rows | None]]:
        """Yield each block, what is to be written of it, and the rows of that, if they are stored.

        Parameters
        ----------
        answers
            The rows of each request, in order, and their outputs, with an axis of rows. They begin
            with a block.
        files, windows, n_rows
            The input files: how their series are cut, and their rows.
        start
            Where to go on: blocks that end there, or before, are left out.

        Raises
        ------
        HookError
            The hook failed, or returned what cannot be stored.
        OutputError
            The outputs of one block have different shapes.
        """
        gathered: list[Arrays] = []
        for which, outputs in answers:
            block = self._block_of(which.start, n_rows)
            # Copied: they are lent until the next answer.
            gathered.append({name: array.copy() for name, array in outputs.items()})
            check_layout(files[0], which.start, outputs, *map(layout_of, (outputs, gathered[0])))
            if which.stop < block.stop:
                continue
            joined = {name: np.concatenate([each[name] for each in gathered]) for name in outputs}
            gathered.clear()
            if block.stop > start:
                yield block, *self._selected(joined, Rows.of(files, block, windows))

    def _block_of(self, row: int, n_rows: int) -> range:
        first = row - row % self.rows_per_sequence
        begin = row - (row - first) % self.block_rows
        return range(begin, min(begin + self.block_rows, first + self.rows_per_sequence, n_rows))

    def _selected(self, outputs: Arrays, rows: Rows) -> tuple[Arrays, Rows | None]:
        """Return what is to be written, and its rows, if they are stored."""
        if self.postprocess is None:
            return outputs, rows
        returned = call("postprocess", self.postprocess, outputs, rows)
        kept: Any = rows
        is_selected = isinstance(returned, tuple) and len(returned) == 2
        if is_selected:
            returned, kept = returned
        problem = _problem_with(returned, kept, rows)
        if problem:
            raise problem_of("postprocess", rows, problem)
        return dict(returned), kept if is_selected or self.keep else None


def select(
    model: ModelSpecification,
    outputs: Collection[str],
    hooks: Hooks,
    keep: Condition | None,
    *,
    rows_per_request: int,
    rows_per_sequence: int,
) -> Selection | None:
    """Return what becomes of the outputs of a model; None where they are stored as they are.

    Parameters
    ----------
    model, outputs
        The model, and its outputs that are asked for; none are all.
    hooks, keep
        What is done to them.
    rows_per_request, rows_per_sequence
        How rows become requests; a block is whole requests.

    Raises
    ------
    ParameterError
        An output has a name that the file uses itself.
    """
    if hooks.postprocess is None and keep is None:
        return None
    if hooks.postprocess is None and not hooks.variants:
        for name in filter(_is_taken, outputs or model.outputs):
            problem = f"{name!r} has the name of the group with the numbers of the rows that keep"
            raise ParameterError("outputs", f"{problem} leaves; name the other outputs")
    asked = {name: model.outputs[name] for name in outputs or model.outputs}
    n_bytes = hooks.n_variants * sum(
        tensor.dtype.itemsize * math.prod(max(1, length) for length in tensor.shape)
        for tensor in asked.values()
    )
    suits = max(1, min(MOST_BLOCK_ROWS, BLOCK_BYTES // max(1, n_bytes)))
    n_requests = -(-(hooks.block_rows or suits) // rows_per_request)
    return Selection(
        postprocess=hooks.postprocess,
        keep=keep,
        block_rows=n_requests * rows_per_request,
        rows_per_sequence=rows_per_sequence,
    )


def _problem_with(returned: Any, kept: Any, rows: Rows) -> str:
    """Return what is wrong with what a hook returned, or nothing."""
    if not isinstance(returned, Mapping) or not returned:
        what = f"returned {type(returned).__name__}"
        return f"{what}; return a dict of arrays by output name, or that and its rows"
    if not isinstance(kept, Rows):
        return f"returned {type(kept).__name__} beside the outputs; return rows[which]"
    numbers = kept.numbers
    if not np.all(np.isin(numbers, rows.numbers)) or np.any(np.diff(numbers) <= 0):
        return "returned rows that are not rows of the block, in their order, each once"
    for name, array in returned.items():
        problem = array_problem(array, len(kept))
        if not problem and not _is_storable(array):
            problem = f"is {array.dtype}; return numbers, or bytes as objects"
        if not problem and not (isinstance(name, str) and _is_text(name)):
            problem = "has a name that is no text"
        if not problem and _is_taken(name):
            problem = "has a name that the file uses itself"
        if problem:
            return f"what it returned as {name!r} {problem}"
    return ""


def _is_text(name: str) -> bool:
    try:
        return bool(name.encode()) and "\0" not in name
    except UnicodeEncodeError:
        return False


def _is_taken(name: str) -> bool:
    """Tell whether a name is that of the group with the numbers of the rows, or in it."""
    return name.partition("/")[0] == INDEX


def _is_storable(array: NDArray[Any]) -> bool:
    if array.dtype.kind == "O":
        return all(isinstance(value, bytes) for value in array.flat)
    return array.dtype.kind in "biuf"
