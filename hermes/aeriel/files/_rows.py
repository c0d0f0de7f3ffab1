"""What of a model's inputs, and of its outputs, is one row of a file."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.client import InferenceClient, ModelSpecification, RowLayout
from hermes.aeriel.files._facts import InputFacts
from hermes.aeriel.files._reading import InputData
from hermes.aeriel.files._varying import (
    NONE_VARY,
    VaryingOutput,
    how_to_vary,
    varying_outputs,
)
from hermes.errors import ParameterError, RequestError

REQUEST_BYTES = 16 << 20
READ_BYTES = 1 << 20

# What a model without a batch dimension is given at once along a free leading length.
MOST_LEADING_ROWS = 1 << 16

# The shape (-1: any length) and the dtype of each input.
RowInputs = Mapping[str, tuple[tuple[int, ...], "np.dtype[Any]"]]

Arrays = dict[str, "NDArray[Any]"]


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
        tensors = {name: (tensor.shape, tensor.dtype) for name, tensor in model.inputs.items()}
        batched = model.max_batch_size > 0
        leading = not batched and takes_leading_rows(tensors)
        most = most_rows(tensors, model.max_batch_size, stateful=model.stateful)
        check_batch_size(batch_size, model, most)
        described = varying_outputs(model, varying, kept=kept, takes_leading_rows=leading)
        if described and batch_size > 1:
            problem = f"{batch_size} rows, which have one length in an answer; outputs of varying"
            advice = f"length ({', '.join(described)}) want requests of one row"
            raise ParameterError("batch_size", f"{problem} {advice}")
        inputs = row_inputs(tensors, batched=batched)
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
        """Yield the rows of each request from `start` on, and their outputs.

        An array is only good until the next one is asked for.
        """

        def read(begin: int, end: int, arrays: Mapping[str, NDArray[Any]]) -> None:
            for name, array in arrays.items():
                data.read_rows(name, begin, end, array)

        layout = RowLayout(
            shapes={name: stack.shape[1:] for name, stack in data.stacks.items()},
            rows_per_request=self.rows_per_request,
            with_row_axis=self.with_row_axis,
        )
        rows = range(start, data.facts.rows)
        answers = client.stream_rows(read, rows, layout)
        return zip(split(rows, self.rows_per_request), answers, strict=True)

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
        """Return the outputs with an axis of rows in front.

        Raises
        ------
        RequestError
            An output does not have a row for each row of the request.
        """
        return rows_of_outputs(
            outputs,
            expected,
            client,
            with_row_axis=self.with_row_axis,
            unit="rows",
            varying=self.varying,
        )


def check_batch_size(batch_size: int, model: ModelSpecification, most: int) -> None:
    """Raise ParameterError where a model does not take so many rows at once."""
    if batch_size > most:
        problem = f"{batch_size} rows, but model {model.name!r} takes {most} at most"
        if most == model.max_batch_size and not model.stateful:
            problem += (
                "; max_batch_size of its config.pbtxt says how many (4 where that is left out)"
            )
        raise ParameterError("batch_size", problem)


def most_rows(inputs: RowInputs, max_batch_size: int, *, stateful: bool) -> int:
    """Return the most rows that one request of a model can have."""
    if max_batch_size > 0:
        # Triton batches the updates of different sequences, and takes no batch in one.
        return 1 if stateful else max_batch_size
    return MOST_LEADING_ROWS if takes_leading_rows(inputs) else 1


def row_inputs(
    inputs: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], *, batched: bool
) -> RowInputs:
    """Return the shape of one row of each input.

    A model without a batch dimension whose inputs all begin with a free length takes rows along
    it; any other one takes a row a request.
    """
    if not batched and takes_leading_rows(inputs):
        return {name: (shape[1:], dtype) for name, (shape, dtype) in inputs.items()}
    return inputs


def takes_leading_rows(inputs: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> bool:
    """Tell whether each input of a model without a batch dimension begins with a free length."""
    return all(shape[:1] == (-1,) for shape, _ in inputs.values())


def row_bytes(inputs: RowInputs, facts: InputFacts) -> int:
    """Return the bytes of a row, or window, of a file as it is read."""
    return sum(
        inputs[name][1].itemsize * math.prod(dataset.shape[1:])
        for name, dataset in facts.datasets.items()
    )


def rows_within(n_bytes: int, row_bytes: int, rows_per_request: int) -> int:
    """Return how many rows are about so many bytes: whole requests, and one at least."""
    return max(1, n_bytes // max(1, row_bytes * rows_per_request)) * rows_per_request


def rows_of_outputs(
    outputs: Mapping[str, NDArray[Any]],
    expected: int,
    client: InferenceClient,
    *,
    with_row_axis: bool,
    unit: str,
    varying: Mapping[str, VaryingOutput] = NONE_VARY,
) -> dict[str, NDArray[Any]]:
    """Return the outputs of one request with an axis of rows in front.

    Parameters
    ----------
    outputs
        What the model gave.
    expected
        The rows of the request.
    client
        The client that sent it.
    with_row_axis
        Whether the outputs have that axis; else the request was one row.
    unit
        What a row is called in a message.
    varying
        The outputs of varying length.

    Raises
    ------
    RequestError
        An output does not have a row for each row of the request, or is not what was announced
        and is of varying length.
    """
    rows = {}
    for name, array in outputs.items():
        given = f"output {name!r} has shape {array.shape}"
        if name in varying:
            row = varying[name].row_of(array)
            if row is None:
                raise _misfit(client, f"{given} for one row, and {varying[name]} was announced")
        else:
            row = array if with_row_axis else array[np.newaxis]
            if row.ndim == 0 or len(row) != expected:
                raise _misfit(client, f"{given} for {expected} {unit}; {how_to_vary(name)}")
            # Without a batch dimension another axis may have as many as there are rows, by chance.
            first = client.specification.outputs[name].shape[:1]
            if expected > 1 and first == (expected,) and _takes_any_rows(client.specification):
                problem = f"{given}, which begins with {expected} for any number of {unit}"
                advice = "if it has a row for each, let its dims in config.pbtxt begin with -1"
                raise _misfit(client, f"{problem}, as the model says; {advice}")
        rows[name] = row
    return rows


def _takes_any_rows(model: ModelSpecification) -> bool:
    inputs = {name: (tensor.shape, tensor.dtype) for name, tensor in model.inputs.items()}
    return model.max_batch_size == 0 and takes_leading_rows(inputs)


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
