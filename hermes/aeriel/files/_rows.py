"""What of a model's inputs, and of its outputs, is one row of a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.client import InferenceClient, ModelSpecification, RowLayout
from hermes.aeriel.files._facts import InputFacts, RowInputs
from hermes.aeriel.files._reading import InputData
from hermes.aeriel.files._varying import (
    VaryingOutput,
    how_to_vary,
    takes_leading_rows,
    varying_outputs,
)
from hermes.errors import ParameterError, RequestError

REQUEST_BYTES = 16 << 20
READ_BYTES = 1 << 20

# What a model without a batch dimension is given at once along a free leading length.
MOST_LEADING_ROWS = 1 << 16

Arrays = dict[str, "NDArray[Any]"]

# As `InferenceClient.stream_rows` takes it.
ReadRows = Callable[[int, int, Mapping[str, "NDArray[Any]"]], None]


@dataclass(frozen=True, kw_only=True)
class RowPlan:
    """How rows of a file become requests of a model.

    Parameters
    ----------
    inputs
        The shape of a row (-1: any length) and the dtype of each input.
    rows_per_request
        The rows of one request.
    with_row_axis
        Whether a request has a leading axis of rows; else it is one row, and has none.
    varying
        The outputs of varying length. With any, a request is one row: the rows of one answer have
        one length.
    """

    # What a row is called in a message.
    unit: ClassVar = "rows"

    inputs: RowInputs
    rows_per_request: int
    with_row_axis: bool
    varying: Mapping[str, VaryingOutput] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: ModelSpecification,
        batch_size: int,
        *,
        varying: Collection[str] = (),
        kept: Collection[str] = (),
    ) -> RowPlan:
        """Return the plan for a model.

        Parameters
        ----------
        model
            The model.
        batch_size
            The rows of one request; 0 for what suits the model.
        varying
            The outputs of varying length.
        kept
            The outputs that are kept; none are all.

        Raises
        ------
        ParameterError
            The model does not take so many rows at once, or an output cannot be of varying length.
        """
        batched = model.max_batch_size > 0
        leading = takes_leading_rows(model)
        if batched:
            # Triton batches the updates of different sequences, and takes no batch in one.
            most = 1 if model.stateful else model.max_batch_size
        else:
            most = MOST_LEADING_ROWS if leading else 1
        if batch_size > most:
            problem = f"{batch_size} rows, but model {model.name!r} takes {most} at most"
            if batched and not model.stateful:
                advice = (
                    "max_batch_size of its config.pbtxt says how many (4 where that is left out)"
                )
                problem += f"; {advice}"
            raise ParameterError("batch_size", problem)
        described = varying_outputs(model, varying, kept=kept)
        if described and batch_size > 1:
            problem = f"{batch_size} rows, which have one length in an answer; outputs of varying"
            advice = f"length ({', '.join(described)}) want requests of one row"
            raise ParameterError("batch_size", f"{problem} {advice}")
        inputs = {
            name: (tensor.shape[1:] if leading else tensor.shape, tensor.dtype)
            for name, tensor in model.inputs.items()
        }
        n_bytes = sum(
            dtype.itemsize * int(np.prod([max(1, length) for length in shape]))
            for shape, dtype in inputs.values()
        )
        # How much of a series a model with a state sees at once is not ours to choose.
        suits = 1 if model.stateful or described else max(1, min(most, REQUEST_BYTES // n_bytes))
        return cls(
            inputs=inputs,
            rows_per_request=batch_size or suits,
            with_row_axis=batched or leading,
            varying=described,
        )

    def first(self, start: int) -> int:
        """Return the row that is sent first, to go on at `start`."""
        return start

    def stream(
        self, client: InferenceClient, data: InputData, start: int
    ) -> Iterator[tuple[range, Arrays]]:
        """Yield the rows of each request from `start` on, and the same rows of their outputs.

        An array is only good until the next one is asked for.
        """

        def read(begin: int, end: int, arrays: Mapping[str, NDArray[Any]]) -> None:
            for name, array in arrays.items():
                data.read_rows(name, begin, end, array)

        rows = range(start, data.facts.rows)
        return self.answered(client, read, rows, data.facts)

    def answered(
        self,
        client: InferenceClient,
        read: ReadRows,
        rows: range,
        facts: InputFacts,
        n_missing: int = 0,
    ) -> Iterator[tuple[range, Arrays]]:
        """Yield the rows of each request, and the same rows of its outputs.

        Parameters
        ----------
        client, read, rows
            As `InferenceClient.stream_rows` has them.
        facts
            What is known of the file.
        n_missing
            How many rows the last request is filled up with.
        """
        layout = RowLayout(
            shapes={name: dataset.shape[1:] for name, dataset in facts.datasets.items()},
            rows_per_request=self.rows_per_request,
            with_row_axis=self.with_row_axis,
        )
        sent = range(rows.start, rows.stop + n_missing)
        answers = client.stream_rows(read, sent, layout)
        for which, outputs in zip(split(rows, self.rows_per_request), answers, strict=True):
            yield which, self.rows_of(outputs, len(which), client)

    def updates(self, data: InputData, rows: range) -> Iterator[Arrays]:
        """Yield the inputs of the requests that rows make; they are read many at a time."""
        length = rows_within(READ_BYTES, row_bytes(self.inputs, data.facts), self.rows_per_request)
        for arrays in self.blocks(data, rows, length):
            yield from self.requests_of(arrays)

    def blocks(self, data: InputData, rows: range, length: int) -> Iterator[Arrays]:
        """Yield arrays of so many rows each, which are the caller's; the last may have fewer."""
        for block in split(rows, length):
            arrays = {
                name: np.empty((len(block), *stack.shape[1:]), self.inputs[name][1])
                for name, stack in data.stacks.items()
            }
            for name, array in arrays.items():
                data.read_rows(name, block.start, block.stop, array)
            yield arrays

    def requests_of(self, arrays: Mapping[str, NDArray[Any]]) -> Iterator[Arrays]:
        """Yield the inputs of the requests that rows make."""
        n_rows = len(next(iter(arrays.values())))
        for request in split(range(n_rows), self.rows_per_request):
            which = slice(request.start, request.stop) if self.with_row_axis else request.start
            yield {name: array[which] for name, array in arrays.items()}

    def rows_of(self, outputs: Arrays, expected: int, client: InferenceClient) -> Arrays:
        """Return the outputs of a request of so many rows, with an axis of rows in front.

        Raises
        ------
        RequestError
            An output does not have a row for each row of the request, or is not what was announced
            and is of varying length.
        """
        model = client.specification
        rows = {}
        for name, array in outputs.items():
            given = f"output {name!r} has shape {array.shape}"
            if name in self.varying:
                announced = self.varying[name]
                row = announced.row_of(array)
                if row is None:
                    raise _misfit(client, f"{given} for one row, and {announced} was announced")
            else:
                row = array if self.with_row_axis else array[np.newaxis]
                if row.ndim == 0 or len(row) != expected:
                    problem = f"{given} for {expected} {self.unit}; {how_to_vary(name)}"
                    raise _misfit(client, problem)
                # Another axis than that of rows may have as many, by chance.
                first = model.outputs[name].shape[:1]
                if expected > 1 and first == (expected,) and takes_leading_rows(model):
                    problem = f"{given}, which begins with {expected} for any number of {self.unit}"
                    advice = "if it has a row for each, let its dims in config.pbtxt begin with -1"
                    raise _misfit(client, f"{problem}, as the model says; {advice}")
            rows[name] = row
        return rows


def row_bytes(inputs: RowInputs, facts: InputFacts) -> int:
    """Return the bytes of a row, or window, of a file as it is read."""
    return sum(
        inputs[name][1].itemsize * math.prod(dataset.shape[1:])
        for name, dataset in facts.datasets.items()
    )


def rows_within(n_bytes: int, row_bytes: int, rows_per_request: int) -> int:
    """Return how many rows are about so many bytes: whole requests, and one at least."""
    return max(1, n_bytes // max(1, row_bytes * rows_per_request)) * rows_per_request


def split(rows: range, length: int) -> Iterator[range]:
    """Yield rows in runs of a length; the last one may be shorter."""
    for begin in range(rows.start, rows.stop, length):
        yield range(begin, min(begin + length, rows.stop))


def _misfit(client: InferenceClient, reason: str) -> RequestError:
    return RequestError(
        model=client.specification.name,
        address=client.address,
        status="INVALID_ARGUMENT",
        reason=reason,
    )
