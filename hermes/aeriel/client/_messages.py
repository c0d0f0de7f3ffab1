"""Inference requests and answers on the wire.

A request is put together as bytes: the small part is serialized by protobuf, the tensors are
joined to it straight from their arrays. tritonclient's own request objects copy each tensor four
times on the way; this copies it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype

from hermes.aeriel.client._specification import Arrays, ModelSpecification

# ModelInferRequest.raw_input_contents is field 7, of wire type 2 (length-delimited):
# https://protobuf.dev/programming-guides/encoding
_RAW_INPUT_CONTENTS = bytes([7 << 3 | 2])


def encode_request(
    specification: ModelSpecification,
    model_version: str,
    arrays: Arrays,
    outputs: Sequence[str],
) -> bytes:
    """Return a serialized ``ModelInferRequest`` that carries its tensors."""
    request: Any = service_pb2.ModelInferRequest(
        model_name=specification.name, model_version=model_version
    )
    for name, array in arrays.items():
        datatype = specification.inputs[name].datatype
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
    for name in outputs:
        request.outputs.add(name=name)
    parts: list[bytes | memoryview] = [request.SerializeToString()]
    for array in arrays.values():
        content = _content(array)
        parts += [_RAW_INPUT_CONTENTS, _varint(len(content)), content]
    return b"".join(parts)


def decode_response(response: Any) -> dict[str, NDArray[Any]]:
    """Return the outputs of a ``ModelInferResponse`` by name; the arrays are read-only."""
    return {
        tensor.name: _array(tensor, content)
        for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def _content(array: NDArray[Any]) -> bytes | memoryview:
    """Return the elements in row-major order, as Triton's binary representation has them."""
    if array.dtype.kind in "OSU":
        # It takes bytes and objects, but no numpy strings.
        serialized = serialize_byte_tensor(array.astype(object))
        return bytes(serialized.item()) if serialized.size else b""
    # Viewed as bytes: not every dtype (bfloat16) can be cast by a memoryview.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _array(tensor: Any, content: bytes) -> NDArray[Any]:
    if tensor.datatype == "BYTES":
        return np.asarray(deserialize_bytes_tensor(content)).reshape(tensor.shape)
    return np.frombuffer(content, dtype=triton_to_np_dtype(tensor.datatype)).reshape(tensor.shape)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
