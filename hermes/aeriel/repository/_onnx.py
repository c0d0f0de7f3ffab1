"""What an ONNX file says of its inputs and outputs, without the packages that run it.

The file is a message of protocol buffers (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
Only a few fields are read; nodes and weights, which may be gigabytes, are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

# Triton's names by TensorProto.DataType. FP8, INT4 and complex numbers have none.
DATATYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "STRING",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}

# Field numbers of onnx.proto, by message.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 5, 11, 12
_TENSOR_NAME = 8
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_TYPE_ELEMENT, _TENSOR_TYPE_SHAPE = 1, 2
_SHAPE_DIMENSION = 1
_DIMENSION_VALUE = 1

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, kw_only=True)
class OnnxTensor:
    """An input or output of a graph.

    Parameters
    ----------
    name
        Its name.
    datatype
        Triton's name of the element type, or None where Triton has none, and for what is no tensor.
    shape
        The shape with the batch dimension; -1 stands for any length. None where it is not said.
    """

    name: str
    datatype: str | None
    shape: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class OnnxGraph:
    """The inputs and outputs of a graph, by name; of the inputs those without a default."""

    inputs: Mapping[str, OnnxTensor]
    outputs: Mapping[str, OnnxTensor]


def read_graph(file: Path) -> OnnxGraph:
    """Return the inputs and outputs in an ONNX file.

    Raises
    ------
    ValueError
        It is no ONNX file.
    OSError
        It cannot be read.
    """
    with file.open("rb") as opened:
        size = file.stat().st_size
        for number, wire_type, length in _fields(opened, size):
            if number == _MODEL_GRAPH and wire_type == _LENGTH:
                return _graph(opened, opened.tell() + length)
    raise ValueError("it has no graph")


def _graph(opened: BinaryIO, end: int) -> OnnxGraph:
    tensors: dict[int, dict[str, OnnxTensor]] = {_GRAPH_INPUT: {}, _GRAPH_OUTPUT: {}}
    initialized: set[str] = set()
    for number, wire_type, length in _fields(opened, end):
        if wire_type == _LENGTH and number in tensors:
            tensor = _value(opened.read(length))
            tensors[number][tensor.name] = tensor
        elif wire_type == _LENGTH and number == _GRAPH_INITIALIZER:
            initialized.add(_initializer_name(opened, opened.tell() + length))
    inputs = {
        name: tensor for name, tensor in tensors[_GRAPH_INPUT].items() if name not in initialized
    }
    return OnnxGraph(inputs=inputs, outputs=tensors[_GRAPH_OUTPUT])


def _initializer_name(opened: BinaryIO, end: int) -> str:
    for number, wire_type, length in _fields(opened, end):
        if number == _TENSOR_NAME and wire_type == _LENGTH:
            return opened.read(length).decode()
    return ""


def _value(message: bytes) -> OnnxTensor:
    facts = _message(message)
    tensor_type = _message(_last(_message(_last(facts, _VALUE_TYPE)), _TYPE_TENSOR))
    element = tensor_type.get(_TENSOR_TYPE_ELEMENT, [0])[-1]
    shape = None
    if _TENSOR_TYPE_SHAPE in tensor_type:
        dimensions = _message(_last(tensor_type, _TENSOR_TYPE_SHAPE)).get(_SHAPE_DIMENSION, [])
        shape = tuple(_length(each) for each in dimensions if isinstance(each, bytes))
    return OnnxTensor(
        name=_last(facts, _VALUE_NAME).decode(),
        datatype=DATATYPES.get(element) if isinstance(element, int) else None,
        shape=shape,
    )


def _length(dimension: bytes) -> int:
    value = _message(dimension).get(_DIMENSION_VALUE, [0])[-1]
    # A dimension of 0 is any length to Triton.
    return value if isinstance(value, int) and 0 < value < 1 << 63 else -1


def _last(facts: Mapping[int, list[int | bytes]], number: int) -> bytes:
    value = facts.get(number, [b""])[-1]
    return value if isinstance(value, bytes) else b""


def _message(message: bytes) -> dict[int, list[int | bytes]]:
    """Return the numbers and the bytes in a small message, by the number of their field."""
    opened = BytesIO(message)
    found: dict[int, list[int | bytes]] = {}
    for number, wire_type, value in _fields(opened, len(message)):
        read: int | bytes = opened.read(value) if wire_type == _LENGTH else value
        found.setdefault(number, []).append(read)
    return found


def _fields(opened: BinaryIO, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the number, the wire type, and the value or length of each field up to a position.

    What a caller does not read of a field is skipped.
    """
    while (position := opened.tell()) < end:
        key = _varint(opened)
        number, wire_type = key >> 3, key & 7
        value = 0
        if wire_type in (_VARINT, _LENGTH):
            value = _varint(opened)
        after = opened.tell()
        after += {_VARINT: 0, _LENGTH: value, _FIXED64: 8, _FIXED32: 4}.get(wire_type, end)
        if number == 0 or after > end:
            raise ValueError(f"it is not a message of protocol buffers at byte {position}")
        yield number, wire_type, value
        opened.seek(after)


def _varint(opened: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = opened.read(1)
        if not byte:
            raise ValueError("it ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("it has a number of more than ten bytes")
