"""What of a model's inputs is one row of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hermes.errors import ParameterError

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
