"""What a configuration says of an ONNX model, and what its backend makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper

from tests.runtime.onnx_models import write_double, write_identity, write_model

Infer = Callable[..., dict[str, Any]]
Reason = Callable[[Any, str], str]

# In an order that is neither that of the model nor that of the alphabet.
NAMES = ("m", "z", "a", "q", "c", "y", "k")

KINDS: dict[str, int] = {"TYPE_STRING": TensorProto.STRING, "TYPE_FP32": TensorProto.FLOAT}

STATE = """
backend: "onnxruntime"
max_batch_size: 4
input [{{ name: "x" data_type: {kind} dims: [1] }}]
output [{outputs}]
sequence_batching {{
  direct {{}}
  state [{{
    input_name: "before" output_name: "after" data_type: {kind} dims: [1]
    initial_state {{ name: "none" data_type: {kind} dims: [1] zero_data: true }}
  }}]
}}
"""


def listed(*names: str, kind: str = "TYPE_FP32", dims: str = "[-1]") -> str:
    return ", ".join(f'{{ name: "{name}" data_type: {kind} dims: {dims} }}' for name in names)


def write_many(repository: Path, name: str) -> None:
    """Write seven outputs, each x, that the configuration lists in an order of its own."""
    nodes = [helper.make_node("Identity", ["x"], [output]) for output in sorted(NAMES)]
    outputs = [(output, TensorProto.FLOAT, ["n", 1]) for output in sorted(NAMES)]
    config = f"""
        backend: "onnxruntime" max_batch_size: 4
        input [{listed("x")}] output [{listed(*NAMES)}]"""
    write_model(
        repository, name, nodes, [("x", TensorProto.FLOAT, ["n", 1])], outputs, config=config
    )


def write_memory(repository: Path, name: str, operator: str, kind: str, *outputs: str) -> None:
    """Write y = before (+) x, which is the next state too."""
    nodes = [
        helper.make_node(operator, ["before", "x"], ["y"]),
        helper.make_node("Identity", ["y"], ["after"]),
    ]
    ins, outs = (
        [(tensor, KINDS[kind], ["n", 1]) for tensor in names]
        for names in (("x", "before"), ("y", "after"))
    )
    config = STATE.format(kind=kind, outputs=listed(*outputs, kind=kind, dims="[1]"))
    write_model(repository, name, nodes, ins, outs, config=config, opset=20)


def write_classifier(repository: Path, name: str, config: str | None = None) -> None:
    """Write what converters make of a classifier: labels, and a dictionary for each row."""
    nodes = [
        helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
        helper.make_node(
            "ZipMap", ["x"], ["scores"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]
        ),
    ]
    value = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    scores = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, value))
    outputs = [("label", TensorProto.INT64, ["n"]), helper.make_value_info("scores", scores)]
    inputs = [("x", TensorProto.FLOAT, ["n", 2])]
    write_model(repository, name, nodes, inputs, outputs, config=config)


def write_rank(repository: Path, name: str, kind: int) -> None:
    """Write y = the number of dimensions that the model sees of a scalar x."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Size", ["shape"], ["y"]),
    ]
    write_model(repository, name, nodes, [("x", kind, [])], [("y", TensorProto.INT64, [])])


SCALAR = f"""
backend: "onnxruntime"
input [{listed("x", dims="[1, 1]")}]
output [{listed("y", dims="[1, 1]")}]
"""
LABEL_ALONE = """
backend: "onnxruntime"
max_batch_size: 4
output [{ name: "label" data_type: TYPE_INT64 dims: [1] reshape: { shape: [] } }]
"""


@pytest.fixture(scope="module")
def client(
    triton_home: Path, serve_models: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("configured") / "models"
    repository.mkdir()
    write_many(repository, "many")
    write_double(repository, "scalar", shape=[], config=SCALAR)
    write_double(repository, "plain")
    write_identity(repository, "bf16", TensorProto.BFLOAT16, ["n", 2])
    write_rank(repository, "rank", TensorProto.BFLOAT16)
    write_identity(repository, "nothing", TensorProto.FLOAT, [2, 0])
    write_memory(repository, "words", "StringConcat", "TYPE_STRING", "y")
    write_memory(repository, "sum", "Add", "TYPE_FP32", "y", "after")
    write_classifier(repository, "zipped")
    write_classifier(repository, "label_alone", LABEL_ALONE)
    option = "--backend-config=onnxruntime,default-max-batch-size=16"
    with serve_models(triton_home, repository, option) as client:
        yield client


def test_outputs_come_in_the_order_of_the_configuration(client: Any, infer: Infer) -> None:
    x = np.ones((1, 1), np.float32)

    assert tuple(infer(client, "many", x=x)) == NAMES
    assert list(infer(client, "many", ["c", "z", "a"], x=x)) == ["z", "a", "c"]


def test_scalar_has_the_rank_that_is_configured(client: Any, infer: Infer) -> None:
    y = infer(client, "scalar", x=np.full((1, 1), 3, np.float32))["y"]

    assert y.tolist() == [[6]]


def test_default_of_the_batch_size_is_the_servers(client: Any) -> None:
    config = client.get_model_config("plain", as_json=True)["config"]

    assert config["max_batch_size"] == 16


def test_bf16_travels(client: Any) -> None:
    # tritonclient 2.69 began to ask for another type of array: the bytes are what all agree in.
    bits = np.array([[0x3FC0, 0xC000], [0, 0x7F80]], np.uint16)
    tensor = triton.InferInput("x", bits.shape, "BF16")
    tensor._raw_content = bits.tobytes()

    answer = client.infer("bf16", [tensor]).get_response()

    assert answer.outputs[0].datatype == "BF16"
    assert list(answer.outputs[0].shape) == [2, 2]
    assert answer.raw_output_contents[0] == bits.tobytes()


def test_scalar_in_bf16_stays_a_scalar(client: Any) -> None:
    tensor = triton.InferInput("x", [1], "BF16")
    tensor._raw_content = np.array([0x3FC0], np.uint16).tobytes()

    assert client.infer("rank", [tensor]).as_numpy("y").tolist() == [0]


def test_dimension_of_zero_is_served(client: Any, infer: Infer) -> None:
    assert infer(client, "nothing", x=np.empty((2, 0), np.float32))["y"].shape == (2, 0)


def test_state_of_strings_is_kept(client: Any, infer_sequence: Any) -> None:
    words = [np.array([[word]], np.object_) for word in ("a", "größer", "c")]

    answers = infer_sequence(client, "words", 7, "x", words)

    said = [answer.as_numpy("y").item().decode() for answer in answers]
    assert said == ["a", "agrößer", "agrößerc"]


def test_states_of_sequences_that_take_turns_are_kept(client: Any) -> None:
    """The server fills the slots of those whose turn it is not."""
    totals = []
    for turn in range(3):
        for sequence in (11, 12, 13, 14):
            tensor = triton.InferInput("x", [1, 1], "FP32")
            tensor.set_data_from_numpy(np.full((1, 1), sequence, np.float32))
            options = {"sequence_start": turn == 0, "sequence_end": turn == 2}
            answer = client.infer("sum", [tensor], sequence_id=sequence, **options)
            totals.append(answer.as_numpy("y").item())

    assert totals == [turn * sequence for turn in (1, 2, 3) for sequence in (11, 12, 13, 14)]


def test_state_may_be_an_output_too(client: Any, infer_sequence: Any) -> None:
    answers = infer_sequence(client, "sum", 8, "x", [np.ones((1, 1), np.float32)] * 3)

    assert [answer.as_numpy("after").item() for answer in answers] == [1, 2, 3]
    assert [answer.as_numpy("y").item() for answer in answers] == [1, 2, 3]


def test_dictionaries_for_outputs_are_refused_with_what_to_do(client: Any, reason: Reason) -> None:
    assert "output 'scores' of model 'zipped'" in reason(client, "zipped")
    assert "'zipmap': False" in reason(client, "zipped")


def test_other_outputs_than_the_dictionaries_can_be_had(client: Any, infer: Infer) -> None:
    x = np.array([[0, 1], [1, 0]], np.float32)

    assert infer(client, "label_alone", x=x)["label"].ravel().tolist() == [1, 0]
