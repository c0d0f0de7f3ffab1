"""An answer is read as it describes itself; one that is not as was announced is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hermes.aeriel.client import Endpoint, InferenceClient, RowLayout
from hermes.aeriel.client._answers import arrays_of
from hermes.aeriel.client._messages import OutputTensor
from hermes.aeriel.serve import serve
from hermes.errors import RequestError
from tests.helpers import write_model

TRANSPORTS = ["shm", "http", "grpc"]

ANOTHER_DTYPE = """
    def answer(self, request):
        return response(y=(array(request, "x")).astype(np.{dtype}))
"""
ONE_ROW = """
    def answer(self, request):
        return response(y=array(request, "x")[:1])
"""
NO_ROWS = """
    def answer(self, request):
        return response(y=array(request, "x").ravel()[:0].reshape(0, 4))
"""
# The second output is there for even numbers alone.
SOMETIMES = """
    def answer(self, request):
        x = array(request, "x")
        return response(y=x, z=x + 1) if x[0, 0] % 2 == 0 else response(y=x)
"""
NARROWED = """
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "x", data_type: TYPE_FP32, dims: [4] }]
output [{ name: "y", data_type: TYPE_BF16, dims: [4] }]
"""


def write_narrowed(repository: Path) -> None:
    """Write a model that gives its input as BF16."""
    version = repository / "bf16" / "1"
    version.mkdir(parents=True)
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.BFLOAT16, ["n", 4])
    graph = helper.make_graph([node], "narrowed", [x], [y])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), version / "model.onnx")
    (version.parent / "config.pbtxt").write_text(NARROWED)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, triton_home: Path) -> Iterator[Endpoint]:
    models = tmp_path_factory.mktemp("models")
    x = {"x": ("FP32", [4])}
    for dtype in ("int32", "float16", "int64", "float64"):
        write_model(models, dtype, ANOTHER_DTYPE.format(dtype=dtype), inputs=x)
    write_model(models, "one", ONE_ROW, inputs=x)
    write_model(models, "none", NO_ROWS, inputs=x)
    two = {"y": ("FP32", [4]), "z": ("FP32", [4])}
    write_model(models, "sometimes", SOMETIMES, inputs=x, outputs=two)
    write_narrowed(models)
    with serve(models, ports="auto", wait=True) as instance:
        yield instance.endpoint


def batch(value: float = 1, rows: int = 3) -> dict[str, NDArray[Any]]:
    return {"x": np.full((rows, 4), value, np.float32)}


def refused(client: InferenceClient, **options: Any) -> str:
    """Return what is said of a request by each of the ways to make one, which is the same."""

    def read(begin: int, end: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        arrays["x"][...] = 1

    layout = RowLayout(shapes={"x": (4,)}, rows_per_request=3)
    told = set()
    for ask in (
        lambda: client.infer(batch(**options)).result(),
        lambda: list(client.stream([batch(**options)])),
        lambda: list(client.stream_rows(read, range(3), layout)),
    ):
        with pytest.raises(RequestError) as error:
            ask()
        told.add(error.value.reason)
    [reason] = told
    return reason


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("model", "given"),
    [("int32", "INT32"), ("float16", "FP16"), ("int64", "INT64"), ("float64", "FP64")],
)
def test_another_dtype_than_was_announced_is_refused(
    model: str, given: str, transport: Any, endpoint: Endpoint
) -> None:
    with InferenceClient(endpoint, model, transport=transport) as client:
        assert refused(client) == (
            f"output 'y' of the answer is {given}, and the model's configuration says FP32: "
            "one of the two is wrong"
        )
        assert client.statistics.failures == 3


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("model", "shape"), [("one", "(1, 4)"), ("none", "(0, 4)")])
def test_rows_that_are_not_those_of_the_request_are_refused(
    model: str, shape: str, transport: Any, endpoint: Endpoint
) -> None:
    with InferenceClient(endpoint, model, transport=transport) as client:
        reason = refused(client)
        assert reason == f"output 'y' of the answer has shape {shape}, and the request has 3 rows"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_output_that_is_left_out_is_refused(transport: Any, endpoint: Endpoint) -> None:
    with InferenceClient(endpoint, "sometimes", transport=transport) as client:
        assert client.infer(batch(2)).result()["z"][0, 0] == 3
        assert "the answer has no output 'z', only ['y']" in refused(client)
        stream = client.stream(batch(n) for n in range(4))
        assert next(stream)["z"][0, 0] == 1
        with pytest.raises(RequestError, match="no output 'z'"):
            next(stream)
    with InferenceClient(endpoint, "sometimes", transport=transport, outputs=["y"]) as client:
        answers = list(client.stream(batch(n) for n in range(4)))
        assert [set(answer) for answer in answers] == [{"y"}] * 4


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_bf16_arrives_as_float32(transport: Any, endpoint: Endpoint) -> None:
    values = np.array([[1.5, -2.0, 0.0, np.inf], [2.0**-120, 3.0, 1e38, -0.0]], np.float32)
    wanted = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    with InferenceClient(endpoint, "bf16", transport=transport) as client:
        for answer in client.stream([{"x": values}] * 9):
            assert answer["y"].dtype == np.float32
            np.testing.assert_allclose(answer["y"], wanted, rtol=2.0**-7)
            np.testing.assert_array_equal(answer["y"][0], values[0])


@pytest.mark.parametrize(
    "tensor",
    [
        OutputTensor("FP32", (2, 4), b"\0" * 31),
        OutputTensor("FP32", (2, 4), b"\0" * 33),
        OutputTensor("BF16", (2, 4), b"\0" * 32),
        OutputTensor("FP32", (2, 4), None),
    ],
)
def test_content_of_another_size_than_it_says_is_refused(tensor: OutputTensor) -> None:
    with pytest.raises(ValueError, match=r"takes (32|16) bytes, but has (31|33|32|0)"):
        arrays_of({"y": tensor})


def test_place_that_is_smaller_than_the_output_is_not_read_beyond() -> None:
    memory = np.arange(64, dtype=np.uint8)
    tensor = OutputTensor("UINT8", (8,), None)
    assert arrays_of({"y": tensor}, memory, {"y": (8, 8)})["y"].tolist() == list(range(8, 16))
    with pytest.raises(ValueError, match="takes 8 bytes, but has 4"):
        arrays_of({"y": tensor}, memory, {"y": (8, 4)})
