"""Rows that a hook changes before they are sent."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.files._facts import InputFacts, RowInputs, describe_dtype
from hermes.aeriel.files._hooks import Hooks, Rows, array_problem, call, problem_of, variant_name
from hermes.aeriel.files._reading import InputData
from hermes.aeriel.files._rows import Arrays, RowPlan, row_bytes, rows_within, split
from hermes.aeriel.files._varying import describe_shape

# A sequence waits for its hook, and the server does not wait long for a sequence.
BLOCK_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class PreprocessedPlan:
    """How rows become requests, by way of a hook.

    Parameters
    ----------
    requests
        How they are read, with the shapes and dtypes of the file, and become requests.
    facts
        What is known of the file.
    wanted
        The shape (-1: any length) and the dtype of each input of the model.
    optional
        Those of them that the model can do without.
    hooks
        What has the hook.
    """

    requests: RowPlan
    facts: InputFacts
    wanted: RowInputs
    optional: Collection[str]
    hooks: Hooks

    @functools.cached_property
    def block_rows(self) -> int:
        """The rows of a block."""
        size = row_bytes(self.requests.inputs, self.facts)
        return rows_within(BLOCK_BYTES, size, self.rows_per_request)

    @property
    def rows_per_request(self) -> int:
        """The rows of one request."""
        return self.requests.rows_per_request

    def first(self, start: int) -> int:
        """Return the row that is read first, to go on at `start`: that of its block."""
        return start - start % self.block_rows

    def stream(
        self, client: InferenceClient, data: InputData, start: int
    ) -> Iterator[tuple[range, Arrays]]:
        """Yield the rows of each request from `start` on, and the same rows of their outputs."""
        rows = range(start, data.facts.rows)
        inputs = self.updates(data, range(self.first(start), rows.stop), start)
        answers = client.stream(each for together in inputs for each in together)
        requests = split(rows, self.rows_per_request)
        for which, *outputs in zip(requests, *[answers] * self.hooks.n_variants, strict=True):
            yield which, self.rows_of(outputs, len(which), client)

    def updates(self, data: InputData, rows: range, start: int = 0) -> Iterator[tuple[Arrays, ...]]:
        """Yield the inputs of the requests that rows make, from `start` on, of each variant.

        A block begins with the first of the rows. The arrays stay as they are.
        """
        windows = data.windows
        blocks = self.requests.blocks(data, rows, self.block_rows)
        for block, arrays in zip(split(rows, self.block_rows), blocks, strict=True):
            n_done = max(0, start - block.start)
            requests = [
                self.requests.requests_of({name: array[n_done:] for name, array in inputs.items()})
                for inputs in self._inputs(arrays, Rows.of(data.facts.files, block, windows))
            ]
            yield from zip(*requests, strict=True)

    def rows_of(self, outputs: Sequence[Arrays], expected: int, client: InferenceClient) -> Arrays:
        """Return the outputs of the requests of all variants as those of one; see `RowPlan`."""
        rows = [self.requests.rows_of(each, expected, client) for each in outputs]
        names = self.hooks.variants
        if not names:
            return rows[0]
        return {
            variant_name(variant, name): array
            for variant, arrays in zip(names, rows, strict=True)
            for name, array in arrays.items()
        }

    def _inputs(self, arrays: Arrays, rows: Rows) -> list[Arrays]:
        """Return what is sent for a block, of each variant."""
        returned = call("preprocess", self.hooks.preprocess, arrays, rows)
        names = self.hooks.variants
        if not names:
            return [self._checked(returned, rows)]
        if not isinstance(returned, Mapping) or returned.keys() != set(names):
            given = sorted(returned) if isinstance(returned, Mapping) else type(returned).__name__
            problem = f"returned {given}, not a dict of inputs for each of {list(names)}"
            raise problem_of("preprocess", rows, problem)
        return [self._checked(returned[name], rows) for name in names]

    def _checked(self, returned: Any, rows: Rows) -> dict[str, NDArray[Any]]:
        """Return what the hook did, where it is what the model takes."""
        if not isinstance(returned, Mapping):
            problem = f"returned {type(returned).__name__}, not a dict of arrays by input name"
            raise problem_of("preprocess", rows, problem)
        required = self.wanted.keys() - set(self.optional)
        if not required <= returned.keys() <= self.wanted.keys():
            problem = f"returned {sorted(returned)}; the model takes {sorted(self.wanted)}"
            raise problem_of("preprocess", rows, problem)
        for name, array in returned.items():
            shape, dtype = self.wanted[name]
            problem = array_problem(array, len(rows))
            if not problem and (array.dtype != dtype or not _fits(array.shape[1:], shape)):
                wanted = f"rows of {describe_dtype(dtype)} {describe_shape(shape)}"
                given = f"has rows of {describe_dtype(array.dtype)} {array.shape[1:]}"
                problem = f"{given}; the model's input wants {wanted}"
            if problem:
                raise problem_of("preprocess", rows, f"what it returned as {name!r} {problem}")
        return dict(returned)


def _fits(given: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(given) == len(wanted) and all(
        want in (-1, have) for want, have in zip(wanted, given, strict=True)
    )
