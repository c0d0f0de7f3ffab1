"""Outputs of varying length: what a row of one is, as the model announces it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.aeriel import client
from hermes.errors import ParameterError


@dataclass(frozen=True, kw_only=True)
class VaryingOutput:
    """What a row of an output of varying length is: any number of items, which are alike.

    Parameters
    ----------
    dtype
        The dtype of the items; ``object`` for strings.
    shape
        The shape of one item.
    n_leading
        How many lengths an answer has before the number of items. Each is 1, because a request is
        one row.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    n_leading: int

    def row_of(self, array: NDArray[Any]) -> NDArray[Any] | None:
        """Return the row in an answer, of shape ``(1, n, *shape)``; None where it has no such row.

        Parameters
        ----------
        array
            The output in the answer to a request of one row.
        """
        fits = (
            array.ndim == self.n_leading + 1 + len(self.shape)
            and array.shape[: self.n_leading] == (1,) * self.n_leading
            and array.shape[self.n_leading + 1 :] == self.shape
        )
        return array.reshape(1, array.shape[self.n_leading], *self.shape) if fits else None

    def __str__(self) -> str:
        return describe_shape(((1,) * self.n_leading) + (-1, *self.shape))


NONE_VARY: Mapping[str, VaryingOutput] = {}


def varying_outputs(
    model: client.ModelSpecification, names: Collection[str], *, kept: Collection[str] = ()
) -> dict[str, VaryingOutput]:
    """Return what the rows of outputs of varying length are, by name.

    The model's description decides it, so that a file has the same layout whatever the answers
    are.

    Parameters
    ----------
    model
        The model.
    names
        The outputs.
    kept
        The outputs that are kept; none are all.

    Raises
    ------
    ParameterError
        One is not an output that is kept, or the model does not announce just one free length in a
        row of it, with nothing but lengths of 1 before.
    """
    described = {}
    for name in sorted(set(names)):
        if name not in (kept or model.outputs):
            there = ", ".join(kept or model.outputs)
            which = "that are kept" if kept else f"of model {model.name!r}"
            raise ParameterError("varying", f"{name!r} is not one of the outputs {which}: {there}")
        described[name] = _described(model, model.outputs[name])
    return described


def takes_leading_rows(model: client.ModelSpecification) -> bool:
    """Tell whether a model without a batch dimension takes rows along a free leading length.

    It does where each input begins with one; any other such model takes a row a request.
    """
    return model.max_batch_size == 0 and all(
        tensor.shape[:1] == (-1,) for tensor in model.inputs.values()
    )


def how_to_vary(name: str) -> str:
    """Return what to do about an output with rows of different lengths, for a message."""
    return f"where its rows have different lengths, name it in varying (--varying {name})"


def describe_shape(shape: tuple[int, ...]) -> str:
    """Return a shape in a message, with a word for a free length."""
    lengths = ", ".join("any" if length == -1 else str(length) for length in shape)
    return f"({lengths}{',' if len(shape) == 1 else ''})"


def _described(
    model: client.ModelSpecification, tensor: client.TensorSpecification
) -> VaryingOutput:
    shape = tensor.shape
    # The rows of a request, of which there is one. An output with no other free length is not
    # about rows: [-1, 6] are the boxes in one image.
    has_rows = takes_leading_rows(model) and shape[:1] == (-1,) and -1 in shape[1:]
    if has_rows:
        shape = (1, *shape[1:])
    announced = f"output {tensor.name!r} of model {model.name!r} is {describe_shape(tensor.shape)}"
    if shape.count(-1) != 1:
        advice = "write -1 for the one length that varies into its config.pbtxt"
        raise ParameterError(
            "varying", f"{announced}, with {shape.count(-1)} free lengths in a row; {advice}"
        )
    free = shape.index(-1)
    if set(shape[:free]) - {1}:
        advice = "the length that varies has to come first in a row"
        raise ParameterError("varying", f"{announced}; {advice}, or after lengths of 1")
    return VaryingOutput(
        # BF16 arrives as float32.
        dtype=np.dtype(np.float32) if tensor.datatype == "BF16" else tensor.dtype,
        shape=shape[free + 1 :],
        n_leading=free + (model.max_batch_size > 0),
    )
