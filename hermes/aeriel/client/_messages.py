"""Inference requests and answers as gRPC and HTTP messages.

A gRPC request is built as bytes: protobuf serializes the small part, and the tensors are appended
directly from their arrays. tritonclient's request objects copy each tensor four times; this copies
it once. For a tensor in shared memory the request has only its region and offset.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype

# ModelInferRequest.raw_input_contents is field 7, of wire type 2 (length-delimited):
# https://protobuf.dev/programming-guides/encoding
_RAW_INPUT_CONTENTS = bytes([7 << 3 | 2])


@dataclass(frozen=True)
class Span:
    """A part of a shared-memory region: the region's name, and an offset and size in bytes."""

    region: str
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True)
class InputTensor:
    """One input of a request: its content, or its span of a region."""

    name: str
    datatype: str
    shape: Sequence[int]
    content: bytes | memoryview | Span


@dataclass(frozen=True, kw_only=True)
class Message:
    """One request.

    Parameters
    ----------
    model_name, model_version
        The model; an empty version lets the server choose.
    inputs
        Its inputs.
    outputs
        The span for each output; None for an output in the answer. Empty: all outputs, in the
        answer.
    parameters
        Further parameters of the request, such as ``sequence_id``.
    """

    model_name: str
    model_version: str
    inputs: Sequence[InputTensor]
    outputs: Mapping[str, Span | None]
    parameters: Mapping[str, int | bool]


@dataclass(frozen=True)
class OutputTensor:
    """One output of an answer; its content is None if it is in shared memory."""

    datatype: str
    shape: Sequence[int]
    content: bytes | memoryview | None


Answer = dict[str, OutputTensor]


def content_of(array: NDArray[Any]) -> bytes | memoryview:
    """Return the elements in Triton's binary representation, in row-major order."""
    if array.dtype.kind in "OSU":
        # serialize_byte_tensor does not accept numpy strings.
        serialized = serialize_byte_tensor(array.astype(object))
        return bytes(serialized.item()) if serialized.size else b""
    # Viewed as bytes: not every dtype (bfloat16) can be cast by a memoryview.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def as_array(datatype: str, shape: Sequence[int], content: Any, offset: int = 0) -> NDArray[Any]:
    """Return elements in Triton's binary representation as an array, a view if possible.

    BF16, which numpy lacks, is widened to float32 without loss.
    """
    if datatype == "BYTES":
        return np.asarray(deserialize_bytes_tensor(content)).reshape(shape)
    if datatype == "BF16":
        bits = np.ndarray(tuple(shape), np.uint16, content, offset)
        widened = (bits.astype(np.uint32) << 16).view(np.float32)
        widened.flags.writeable = False
        return widened
    return np.ndarray(tuple(shape), triton_to_np_dtype(datatype), content, offset)


def size_of(datatype: str, shape: Sequence[int]) -> int:
    """Return the size of a tensor of fixed-size elements in bytes."""
    item = 2 if datatype == "BF16" else np.dtype(triton_to_np_dtype(datatype)).itemsize
    return int(item * math.prod(shape))


def encode_grpc(message: Message) -> bytes:
    """Return a serialized ``ModelInferRequest``."""
    request: Any = service_pb2.ModelInferRequest(
        model_name=message.model_name, model_version=message.model_version
    )
    contents = []
    for tensor in message.inputs:
        added = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if isinstance(tensor.content, Span):
            _set_span(added, tensor.content)
        else:
            contents.append(tensor.content)
    for name, span in message.outputs.items():
        added = request.outputs.add(name=name)
        if span is not None:
            _set_span(added, span)
    for name, value in message.parameters.items():
        if isinstance(value, bool):
            request.parameters[name].bool_param = value
        else:
            request.parameters[name].int64_param = value
    parts: list[bytes | memoryview] = [request.SerializeToString()]
    for content in contents:
        parts += [_RAW_INPUT_CONTENTS, _varint(len(content)), content]
    return b"".join(parts)


def decode_grpc(response: Any) -> Answer:
    """Return the outputs of a ``ModelInferResponse`` by name."""
    contents = iter(response.raw_output_contents)
    answer = {}
    # For an output in shared memory Triton sends an empty content; at the end of the list, none.
    for tensor in response.outputs:
        content = next(contents, None)
        answer[tensor.name] = OutputTensor(tensor.datatype, tensor.shape, content)
    return answer


def encode_http(message: Message, host: str) -> bytes:
    """Return an HTTP request of KServe's v2 protocol with Triton's binary extension."""
    contents: list[bytes | memoryview] = []
    inputs = []
    for tensor in message.inputs:
        if isinstance(tensor.content, Span):
            parameters: dict[str, Any] = _span_parameters(tensor.content)
        else:
            contents.append(tensor.content)
            parameters = {"binary_data_size": len(tensor.content)}
        inputs.append(
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
                "parameters": parameters,
            }
        )
    described: dict[str, Any] = {
        "inputs": inputs,
        "parameters": {**message.parameters, "binary_data_output": True},
    }
    if message.outputs:
        described["outputs"] = [
            {
                "name": name,
                "parameters": {"binary_data": True} if span is None else _span_parameters(span),
            }
            for name, span in message.outputs.items()
        ]
    text = json.dumps(described).encode()
    version = f"/versions/{message.model_version}" if message.model_version else ""
    head = (
        f"POST /v2/models/{quote(message.model_name, safe='')}{version}/infer HTTP/1.1\r\n"
        f"Host: {host}\r\n"
        f"Inference-Header-Content-Length: {len(text)}\r\n"
        f"Content-Length: {len(text) + sum(map(len, contents))}\r\n\r\n"
    )
    return b"".join([head.encode(), text, *contents])


def decode_http(body: memoryview, header_length: int | None) -> Answer:
    """Return the outputs in the body of an HTTP answer by name.

    Parameters
    ----------
    body
        A JSON object, followed by the binary contents.
    header_length
        The length of the JSON object; None if the body is the object alone.
    """
    offset = len(body) if header_length is None else header_length
    answer = {}
    for tensor in json.loads(bytes(body[:offset])).get("outputs", ()):
        size = tensor.get("parameters", {}).get("binary_data_size")
        content = None if size is None else body[offset : offset + size]
        offset += size or 0
        answer[tensor["name"]] = OutputTensor(tensor["datatype"], tensor["shape"], content)
    return answer


def _set_span(tensor: Any, span: Span) -> None:
    tensor.parameters["shared_memory_region"].string_param = span.region
    tensor.parameters["shared_memory_offset"].int64_param = span.offset
    tensor.parameters["shared_memory_byte_size"].int64_param = span.size


def _span_parameters(span: Span) -> dict[str, Any]:
    return {
        "shared_memory_region": span.region,
        "shared_memory_offset": span.offset,
        "shared_memory_byte_size": span.size,
    }


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
