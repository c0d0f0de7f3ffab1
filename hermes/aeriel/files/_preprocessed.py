"""Rows that a hook changes before they are sent."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from hermes.aeriel.client import InferenceClient, Windows
from hermes.aeriel.files._facts import InputFacts, describe_dtype
from hermes.aeriel.files._hooks import Preprocess, Rows, array_problem, call, problem_of
from hermes.aeriel.files._reading import InputData
from hermes.aeriel.files._rows import Arrays, RowInputs, RowPlan, row_bytes, rows_within, split
from hermes.aeriel.files._series import SeriesPlan
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
    wanted
        The shape (-1: any length) and the dtype of each input of the model.
    optional
        Those of them that the model can do without.
    preprocess
        The hook.
    block_rows
        The rows of a block.
    """

    requests: RowPlan | SeriesPlan
    wanted: RowInputs
    optional: Collection[str]
    preprocess: Preprocess
    block_rows: int

    @classmethod
    def of(
        cls,
        requests: RowPlan | SeriesPlan,
        facts: InputFacts,
        *,
        wanted: RowInputs,
        optional: Collection[str],
        preprocess: Preprocess,
    ) -> PreprocessedPlan:
        """Return the plan for a file that is read as `requests` say."""
        size = row_bytes(requests.inputs, facts)
        return cls(
            requests=requests,
            wanted=wanted,
            optional=optional,
            preprocess=preprocess,
            block_rows=rows_within(BLOCK_BYTES, size, requests.rows_per_request),
        )

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
        """Yield the rows of each request from `start` on, and their outputs."""
        rows = range(start, data.facts.rows)
        answers = client.stream(self._updates(data, range(self.first(start), rows.stop), start))
        return zip(split(rows, self.rows_per_request), answers, strict=True)

    def updates(self, data: InputData, rows: range) -> Iterator[Arrays]:
        """Yield the inputs of the requests that rows make, of which a block begins with the first.

        They stay as they are.
        """
        return self._updates(data, rows, rows.start)

    def _updates(self, data: InputData, rows: range, start: int) -> Iterator[Arrays]:
        windows = windows_of(self.requests, data)
        blocks = self.requests.blocks(data, rows, self.block_rows)
        for block, arrays in zip(split(rows, self.block_rows), blocks, strict=True):
            which = Rows.of(data.facts.files, block, windows)
            inputs = self._checked(call("preprocess", self.preprocess, arrays, which), which)
            n_done = max(0, start - block.start)
            yield from self.requests.requests_of({n: a[n_done:] for n, a in inputs.items()})

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


def windows_of(requests: RowPlan | SeriesPlan, data: InputData) -> Windows | None:
    """Return how the series of the first input are cut; None where a file has rows."""
    if isinstance(requests, RowPlan):
        return None
    return requests.cut.windows(next(iter(data.stacks.values())))


def _fits(given: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(given) == len(wanted) and all(
        want in (-1, have) for want, have in zip(wanted, given, strict=True)
    )
