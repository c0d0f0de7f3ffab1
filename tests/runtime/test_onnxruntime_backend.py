from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from tests.runtime.onnx_models import write_double, write_identity, write_model

Infer = Callable[..., dict[str, Any]]
InferAtOnce = Callable[..., list[Any]]


def write_two(repository: Path, name: str, config: str | None) -> None:
    """Write sum = a + b, difference = a - b."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Sub", ["a", "b"], ["difference"]),
    ]
    kind = TensorProto.FLOAT
    shape = ["n", "m"]
    inputs = [("a", kind, shape), ("b", kind, shape)]
    outputs = [("sum", kind, shape), ("difference", kind, shape)]
    write_model(repository, name, nodes, inputs, outputs, config=config)


BATCHER = """
backend: "onnxruntime"
max_batch_size: 64
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching { max_queue_delay_microseconds: 300000 preferred_batch_size: [64] }
parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
"""


def write_counter(repository: Path, name: str) -> None:
    """Write rows = the number of rows of the batch that a row was in, once per row."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], end=1),
        helper.make_node("Cast", ["shape"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "count"], ["rows"]),
    ]
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    shape = ["n", 1]
    write_model(
        repository,
        name,
        nodes,
        [("x", TensorProto.FLOAT, shape)],
        [("rows", TensorProto.FLOAT, shape)],
        config=BATCHER,
        constants=[zero],
    )


def write_table(repository: Path, name: str) -> None:
    """Write y = the x-th of four numbers; any other x is an error while it runs."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [4], [10.0, 11.0, 12.0, 13.0])
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
    shape = ["n", 1]
    write_model(
        repository,
        name,
        nodes,
        [("x", TensorProto.INT64, shape)],
        [("y", TensorProto.FLOAT, shape)],
        config=BATCHER,
        constants=[table],
    )


TWO = """
platform: "onnxruntime_onnx"
max_batch_size: 16
input [
  { name: "a" data_type: TYPE_FP32 dims: [-1] },
  { name: "b" data_type: TYPE_FP32 dims: [-1] }
]
"""
BOTH = """output [
  { name: "sum" data_type: TYPE_FP32 dims: [-1] },
  { name: "difference" data_type: TYPE_FP32 dims: [-1] }
]"""
ONE = """output [{ name: "difference" data_type: TYPE_FP32 dims: [-1] }]"""
ENSEMBLE = """
platform: "ensemble"
max_batch_size: 4
input [{ name: "in" data_type: TYPE_FP32 dims: [3] }]
output [{ name: "out" data_type: TYPE_FP32 dims: [3] }]
ensemble_scheduling { step [
  { model_name: "plain" model_version: -1
    input_map { key: "x" value: "in" } output_map { key: "y" value: "between" } },
  { model_name: "plain" model_version: -1
    input_map { key: "x" value: "between" } output_map { key: "y" value: "out" } }
] }
"""
WRONG = """
backend: "onnxruntime"
max_batch_size: 4
input [{ name: "X" data_type: TYPE_FP32 dims: [3] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [3] }]
"""


@pytest.fixture(scope="module")
def client(
    triton_home: Path, serve_models: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("onnx") / "models"
    repository.mkdir()
    write_double(repository, "plain")
    write_double(repository, "fixed", shape=[2, 3])
    write_double(repository, "scalar", shape=[])
    write_double(repository, "column", shape=["n"])
    write_double(repository, "open", shape=["n", "height", "width"])
    write_double(repository, "half", kind=TensorProto.FLOAT16)
    write_double(repository, "long", kind=TensorProto.INT64)
    write_identity(repository, "truth", TensorProto.BOOL, ["n", 2])
    write_identity(repository, "text", TensorProto.STRING, ["n", 2])
    write_double(
        repository,
        "renamed",
        file="net.onnx",
        config='backend: "onnxruntime"\ndefault_model_filename: "net.onnx"\n',
    )
    write_double(
        repository, "folder", file="model.onnx/model.onnx", config='platform: "onnxruntime_onnx"'
    )
    write_two(repository, "two", TWO + BOTH)
    write_two(repository, "one_of_two", TWO + ONE)
    write_counter(repository, "counter")
    write_table(repository, "table")
    (repository / "twice" / "1").mkdir(parents=True)
    (repository / "twice" / "config.pbtxt").write_text(ENSEMBLE)
    write_double(repository, "wrong_name", config=WRONG)
    write_double(repository, "wrong_type", config=WRONG.replace("X", "x").replace("FP32", "FP64"))
    write_double(repository, "wrong_shape", config=WRONG.replace("X", "x").replace("[3]", "[4]"))
    write_double(
        repository, "unbatchable", shape=[2, 3], config='backend: "onnxruntime" max_batch_size: 8'
    )
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "1" / "model.onnx").write_bytes(b"this is no ONNX")
    with serve_models(triton_home, repository) as client:
        yield client


def config_of(client: Any, model: str) -> Any:
    return client.get_model_config(model, as_json=True)["config"]


def executions(client: Any, model: str) -> tuple[int, int]:
    (statistics,) = client.get_inference_statistics(model).model_stats
    return statistics.execution_count, statistics.inference_stats.success.count


def test_repository_without_a_configuration_is_completed_as_triton_does(client: Any) -> None:
    config = config_of(client, "plain")

    assert config["backend"] == "onnxruntime"
    assert config["max_batch_size"] == 4
    assert "dynamic_batching" in config
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["3"]}]
    assert config["output"] == [{"name": "y", "data_type": "TYPE_FP32", "dims": ["3"]}]


def test_model_without_a_free_first_dimension_is_not_batched(client: Any) -> None:
    config = config_of(client, "fixed")

    assert config.get("max_batch_size", 0) == 0
    assert config["input"][0]["dims"] == ["2", "3"]


@pytest.mark.parametrize(
    ("model", "shape", "dtype"),
    [
        ("plain", (4, 3), np.float32),
        ("fixed", (2, 3), np.float32),
        ("scalar", (1,), np.float32),
        ("column", (3, 1), np.float32),
        ("open", (2, 5, 7), np.float32),
        ("open", (1, 1, 2), np.float32),
        ("half", (2, 3), np.float16),
        ("long", (2, 3), np.int64),
        ("renamed", (2, 3), np.float32),
        ("folder", (2, 3), np.float32),
    ],
)
def test_answers_are_right_for_every_shape_and_type(
    client: Any, infer: Infer, model: str, shape: tuple[int, ...], dtype: type
) -> None:
    x: Any = np.arange(np.prod(shape)).reshape(shape).astype(dtype)

    y = infer(client, model, x=x)["y"]

    assert y.dtype == dtype
    np.testing.assert_array_equal(y, x + x)


def test_truth_values_travel(client: Any, infer: Infer) -> None:
    x = np.array([[True, False], [False, False]])

    assert infer(client, "truth", x=x)["y"].tolist() == x.tolist()


def test_strings_travel(client: Any, infer: Infer) -> None:
    x = np.array([["a", "größer"], ["", "b'c'"]], dtype=np.object_)

    y = infer(client, "text", x=x)["y"]

    assert [[value.decode() for value in row] for row in y] == x.tolist()


def test_string_that_is_not_utf8_is_an_error(client: Any, infer: Infer) -> None:
    x = np.array([[b"\xff", b""]], dtype=np.object_)

    with pytest.raises(InferenceServerException, match=r"input 'x'.*UTF-8"):
        infer(client, "text", x=x)


def test_two_inputs_and_two_outputs(client: Any, infer: Infer) -> None:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)

    answer = infer(client, "two", b=np.ones_like(a), a=a)

    np.testing.assert_array_equal(answer["sum"], a + 1)
    np.testing.assert_array_equal(answer["difference"], a - 1)


def test_only_the_outputs_that_were_asked_for_come_back(client: Any, infer: Infer) -> None:
    a = np.zeros((1, 3), np.float32)

    assert set(infer(client, "two", ["sum"], a=a, b=a)) == {"sum"}


def test_configuration_may_list_fewer_outputs(client: Any, infer: Infer) -> None:
    a = np.zeros((1, 3), np.float32)

    assert set(infer(client, "one_of_two", a=a, b=a)) == {"difference"}


def test_ensemble_of_onnx_models(client: Any, infer: Infer) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)

    np.testing.assert_array_equal(infer(client, "twice", **{"in": x})["out"], 4 * x)


def test_requests_are_answered_by_one_run_of_the_model(
    client: Any, infer_at_once: InferAtOnce
) -> None:
    requests = [np.ones((1 + index % 2, 1), np.float32) for index in range(20)]
    before = executions(client, "counter")

    answers = infer_at_once(client, "counter", "x", requests)

    # A request is counted a moment after its answer is sent.
    deadline = time.monotonic() + 10
    runs, answered = np.subtract(executions(client, "counter"), before)
    while answered < 20 and time.monotonic() < deadline:
        time.sleep(0.05)
        runs, answered = np.subtract(executions(client, "counter"), before)
    assert answered == 20
    assert runs < 20
    rows = [answer.as_numpy("rows") for answer in answers]
    assert [array.shape for array in rows] == [x.shape for x in requests]
    # The model itself says that it saw them together.
    assert max(array.max() for array in rows) > 2


def test_request_that_fails_does_not_harm_those_of_its_batch(
    client: Any, infer_at_once: InferAtOnce
) -> None:
    before = executions(client, "table")
    requests = [np.full((1, 1), index, np.int64) for index in (0, 1, 99, 2, 3)]

    answers = infer_at_once(client, "table", "x", requests)

    assert isinstance(answers[2], InferenceServerException)
    assert "Gather" in str(answers[2])
    good = [answer.as_numpy("y").item() for i, answer in enumerate(answers) if i != 2]
    assert good == [10, 11, 12, 13]
    assert executions(client, "table")[0] - before[0] < 5


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("wrong_name", r"input 'X'.*the model has \['x'\]"),
        ("wrong_type", r"TYPE_FP64 is configured, the model has tensor\(float\)"),
        ("wrong_shape", r"\[-1, 4\] is configured, the model has \['n', 3\]"),
        ("unbatchable", "cannot have max_batch_size 8"),
        ("broken", "model.onnx"),
    ],
)
def test_model_that_does_not_load_says_why(client: Any, model: str, reason: str) -> None:
    index = client.get_model_repository_index(as_json=True)["models"]
    (entry,) = [entry for entry in index if entry["name"] == model]

    assert entry["state"] == "UNAVAILABLE"
    assert re.search(reason, entry["reason"]), entry["reason"]
