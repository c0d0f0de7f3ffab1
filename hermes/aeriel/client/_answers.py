"""Whether an answer is what the server announced, and what its outputs are as arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from numpy.typing import NDArray

from hermes.aeriel.client._messages import Answer, OutputTensor, as_array, size_of
from hermes.aeriel.client._specification import ModelSpecification

NOWHERE: Mapping[str, tuple[int, int]] = {}


def misfit_of(
    answer: Answer, specification: ModelSpecification, outputs: Collection[str], rows: int
) -> str | None:
    """Return in what way an answer differs from what was announced and asked for, if it does.

    The lengths beyond the rows are the model's own affair: a configuration may have them wrong.

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
    answer: Answer, memory: Any = None, placed: Mapping[str, tuple[int, int]] = NOWHERE
) -> dict[str, NDArray[Any]]:
    """Return the outputs as the answer describes them.

    Parameters
    ----------
    answer
        The answer.
    memory, placed
        The shared memory of outputs, and the offset and size of each in it.

    Raises
    ------
    ValueError
        The size of an output in bytes does not match its shape.
    """
    return {
        name: _placed(name, tensor, memory, *placed[name])
        if name in placed
        else _inline(name, tensor)
        for name, tensor in answer.items()
    }


def _placed(name: str, tensor: OutputTensor, memory: Any, offset: int, size: int) -> NDArray[Any]:
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
    return f"{what} takes {needed} bytes, and {there} are there"
