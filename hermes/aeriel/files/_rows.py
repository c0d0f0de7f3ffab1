"""What of a model's inputs, and of its outputs, is one row of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.client import InferenceClient
from hermes.errors import ParameterError, RequestError

# What a model without a batch dimension is given at once along a free leading length.
MOST_LEADING_ROWS = 1 << 16

# The shape (-1: any length) and the dtype of each input.
RowInputs = Mapping[str, tuple[tuple[int, ...], "np.dtype[Any]"]]


def check_batch_size(batch_size: int, model_name: str, most: int) -> None:
    """Raise ParameterError where a model does not take so many rows at once."""
    if batch_size > most:
        problem = f"{batch_size} rows, but model {model_name!r} takes {most} at most"
        raise ParameterError("batch_size", problem)


def most_rows(inputs: RowInputs, max_batch_size: int) -> int:
    """Return the most rows that one request of a model can have."""
    if max_batch_size > 0:
        return max_batch_size
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


def rows_of_outputs(
    outputs: Mapping[str, NDArray[Any]],
    expected: int,
    client: InferenceClient,
    *,
    with_row_axis: bool,
    unit: str,
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

    Raises
    ------
    RequestError
        An output does not have a row for each row of the request.
    """
    if not with_row_axis:
        return {name: array[np.newaxis] for name, array in outputs.items()}
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != expected:
            raise RequestError(
                model=client.specification.name,
                address=client.address,
                status="INVALID_ARGUMENT",
                reason=f"output {name!r} has shape {array.shape} for {expected} {unit}",
            )
    return dict(outputs)
