"""Checks answers against the model's specification, and reads their outputs as arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from numpy.typing import NDArray

from hermes.aeriel.client._messages import Answer, OutputTensor, as_array, size_of
from hermes.aeriel.client._specification import ModelSpecification

NO_SPANS: Mapping[str, tuple[int, int]] = {}


def misfit_of(
    answer: Answer, specification: ModelSpecification, outputs: Collection[str], rows: int
) -> str | None:
    """Return how an answer differs from the specification or the request; None if it does not.

    Only the number of rows of a shape is compared: the other lengths in a configuration may be
    wrong.

    Parameters
    ----------
    answer
        The answer.
    specification
        The model's, with the dtype of each output and whether outputs have rows.
    outputs
        The names that were asked for.
    rows
        The rows of the request.
    """
    for name in outputs:
        if name not in answer:
            return (
                f"the answer has no output {name!r}, only {sorted(answer)}; name those outputs "
                "that the model always gives"
            )
    for name, tensor in answer.items():
        if name not in outputs:
            return f"the answer has an output {name!r}, which was not asked for"
        announced = specification.outputs[name].datatype
        if tensor.datatype != announced:
            return (
                f"output {name!r} of the answer is {tensor.datatype}, and the model's "
                f"configuration says {announced}: one of the two is wrong"
            )
        if specification.max_batch_size and list(tensor.shape[:1]) != [rows]:
            return (
                f"output {name!r} of the answer has shape {tuple(tensor.shape)}, "
                f"and the request has {rows} rows"
            )
    return None


def arrays_of(
    answer: Answer, memory: Any = None, spans: Mapping[str, tuple[int, int]] = NO_SPANS
) -> dict[str, NDArray[Any]]:
    """Return the outputs of an answer as arrays.

    Parameters
    ----------
    answer
        The answer.
    memory, spans
        The shared memory with outputs, and the offset and size of each of them in it.

    Raises
    ------
    ValueError
        The size of an output in bytes does not match its shape.
    """
    return {
        name: _in_memory(name, tensor, memory, *spans[name])
        if name in spans
        else _inline(name, tensor)
        for name, tensor in answer.items()
    }


def _in_memory(
    name: str, tensor: OutputTensor, memory: Any, offset: int, size: int
) -> NDArray[Any]:
    if (needed := size_of(tensor.datatype, tensor.shape)) > size:
        raise ValueError(_misfit(name, tensor, needed, size))
    return as_array(tensor.datatype, tensor.shape, memory, offset)


def _inline(name: str, tensor: OutputTensor) -> NDArray[Any]:
    content = b"" if tensor.content is None else tensor.content
    if tensor.datatype != "BYTES":
        needed = size_of(tensor.datatype, tensor.shape)
        if needed != len(content):
            raise ValueError(_misfit(name, tensor, needed, len(content)))
    return as_array(tensor.datatype, tensor.shape, content)


def _misfit(name: str, tensor: OutputTensor, needed: int, there: int) -> str:
    what = f"output {name!r} of the answer, {tensor.datatype} of shape {tuple(tensor.shape)},"
    return f"{what} takes {needed} bytes, but has {there}"
