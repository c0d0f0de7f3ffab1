"""What is wrong with a model repository is found on disk, and said in one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hermes.aeriel.files._rows import RowPlan
from hermes.aeriel.repository import check_model, read_model
from hermes.aeriel.repository._onnx import DATATYPES, read_graph
from hermes.errors import HermesError, ModelLoadError, ParameterError

CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "image", data_type: TYPE_FP32, dims: [ 64 ] }]
output [{ name: "scores", data_type: TYPE_FP32, dims: [ 10 ] }]
"""


def write_onnx(file: Path, shape: list[int | str]) -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [*shape[:-1], 10])
    weights = numpy_helper.from_array(np.zeros((64, 10), np.float32), "weights")
    node = helper.make_node("MatMul", ["image", "weights"], ["scores"])
    graph = helper.make_graph([node], "digits", [image], [scores], [weights])
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph), file)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_onnx(tmp_path / "models" / "digits" / "1" / "model.onnx", ["n", 64])
    (tmp_path / "models" / "digits" / "config.pbtxt").write_text(CONFIG)
    return tmp_path / "models"


def rename(before: str, after: str) -> Callable[[Path], None]:
    def change(repository: Path) -> None:
        (repository / before).rename(repository / after)

    return change


def configure(before: str, after: str) -> Callable[[Path], None]:
    def change(repository: Path) -> None:
        assert before in CONFIG
        (repository / "digits" / "config.pbtxt").write_text(CONFIG.replace(before, after))

    return change


def without_configuration(repository: Path) -> None:
    (repository / "digits" / "config.pbtxt").unlink()
    rename("digits/1/model.onnx", "digits/1/digits.onnx")(repository)


def with_a_fixed_batch(repository: Path) -> None:
    write_onnx(repository / "digits" / "1" / "model.onnx", [1, 64])


def with_a_truncated_file(repository: Path) -> None:
    file = repository / "digits" / "1" / "model.onnx"
    file.write_bytes(file.read_bytes()[:-9])


MISTAKES = {
    "no version": (
        lambda repository: shutil.rmtree(repository / "digits" / "1"),
        "has no version directory, whose name is a number, such as 1; there is no directory in it",
    ),
    "v1": (
        rename("digits/1", "digits/v1"),
        "has no version directory, whose name is a number, such as 1; it has ['v1']",
    ),
    "file name": (
        rename("digits/1/model.onnx", "digits/1/digits.onnx"),
        "1 has no model.onnx, but ['digits.onnx']; rename the model's file to model.onnx, or name",
    ),
    "file name without configuration": (
        without_configuration,
        "has no config.pbtxt, and {repository}/digits/1 has no model.onnx, but ['digits.onnx']",
    ),
    "platform": (
        configure('backend: "onnxruntime"', 'platform: "onnx"'),
        "says platform: 'onnx', which Triton does not know; it may be 'onnxruntime_onnx'",
    ),
    "name": (
        configure("backend", 'name: "numbers"\nbackend'),
        "says name: 'numbers', but the directory of the model is called 'digits'",
    ),
    "input name": (
        configure('"image"', '"x"'),
        "has an input 'x', but the ONNX file has inputs ['image']",
    ),
    "output name": (
        configure('"scores"', '"y"'),
        "has an output 'y', but the ONNX file has outputs ['scores']",
    ),
    "dtype": (
        configure("TYPE_FP32, dims: [ 64 ]", "TYPE_FP64, dims: [ 64 ]"),
        "says that input 'image' is TYPE_FP64, but in the ONNX file it is TYPE_FP32",
    ),
    "dims with the batch": (
        configure("dims: [ 64 ]", "dims: [ -1, 64 ]"),
        "says dims: [-1, 64] for input 'image', but in the ONNX file it is [64] (without its first",
    ),
    "dims": (
        configure("dims: [ 64 ]", "dims: [ 8, 8 ]"),
        "says dims: [8, 8] for input 'image', but in the ONNX file it is [64] (without",
    ),
    "dims without a batch": (
        configure("max_batch_size: 8", "max_batch_size: 0"),
        "says dims: [64] for input 'image', but in the ONNX file it is [-1, 64]",
    ),
    "fixed batch": (
        with_a_fixed_batch,
        "says max_batch_size: 8, but the first dimension of input 'image' in the ONNX file is 1",
    ),
    "damaged": (
        with_a_truncated_file,
        "digits/1/model.onnx cannot be read as ONNX: it is not a message of protocol buffers",
    ),
}


@pytest.mark.parametrize(("change", "problem"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_sentence(
    repository: Path, change: Callable[[Path], None], problem: str
) -> None:
    change(repository)
    with pytest.raises(ModelLoadError) as caught:
        check_model(str(repository), "digits")
    said = str(caught.value)
    assert problem.format(repository=repository) in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "change",
    [
        lambda _: None,
        lambda repository: (repository / "digits" / "config.pbtxt").unlink(),
        configure("dims: [ 64 ]", "dims: [ 8, 8 ], reshape { shape: [ 64 ] }"),
        configure("dims: [ 64 ]", "dims: [ -1 ]"),
        configure('backend: "onnxruntime"', 'platform: "onnxruntime_onnx"\nname: "digits"'),
        configure('backend: "onnxruntime"', 'backend: "my_own"'),
    ],
    ids=["right", "no configuration", "reshape", "free length", "platform", "own backend"],
)
def test_what_triton_takes_is_not_refused(repository: Path, change: Callable[[Path], None]) -> None:
    change(repository)
    check_model(str(repository), "digits")


def test_a_step_that_is_not_there_is_named(repository: Path) -> None:
    (repository / "whole" / "1").mkdir(parents=True)
    step = 'step [{ model_name: "numbers" model_version: -1 }]'
    config = f'platform: "ensemble"\nensemble_scheduling {{ {step} }}\n'
    (repository / "whole" / "config.pbtxt").write_text(config)
    with pytest.raises(ModelLoadError, match="names 'numbers' as a step, and there is no such"):
        check_model(str(repository), "whole")


def test_only_models_are_listed_and_a_model_is_no_repository(repository: Path) -> None:
    (repository / "notebooks").mkdir()
    with pytest.raises(HermesError, match=r"has no model 'nope'; models there: digits$"):
        check_model(str(repository), "nope")
    with pytest.raises(HermesError, match=r"digits looks like a model; give its parent, .*models$"):
        check_model(str(repository / "digits"), "digits")


CASES = sorted((Path(onnx.__file__).parent / "backend/test/data").rglob("model.onnx"))


def test_graphs_are_read_as_the_onnx_package_does() -> None:
    assert len(CASES) > 100
    for file in CASES:
        graph = onnx.load(file, load_external_data=False).graph
        found = read_graph(file)
        initialized = {each.name for each in graph.initializer}
        inputs = [each for each in graph.input if each.name not in initialized]
        assert [*found.inputs] == [each.name for each in inputs], file
        assert [*found.outputs] == [each.name for each in graph.output], file
        for value in [*inputs, *graph.output]:
            tensor = {**found.inputs, **found.outputs}[value.name]
            if value.type.HasField("tensor_type"):
                kind = value.type.tensor_type
                assert tensor.datatype == DATATYPES.get(kind.elem_type), file
                if kind.HasField("shape"):
                    lengths = [each.dim_value for each in kind.shape.dim]
                    assert tensor.shape == tuple(length or -1 for length in lengths), file


@pytest.mark.parametrize(
    ("shape", "config", "rows", "max_batch_size"),
    [
        (["n", 64], None, (64,), 4),
        ([2, 64], None, (2, 64), 0),
        (["n", "m", 64], 'backend: "onnxruntime"', (-1, 64), 4),
        (["n", 64], "max_batch_size: 8", (64,), 8),
    ],
)
def test_an_onnx_file_says_what_a_configuration_leaves_out(
    tmp_path: Path,
    shape: list[int | str],
    config: str | None,
    rows: tuple[int, ...],
    max_batch_size: int,
) -> None:
    write_onnx(tmp_path / "digits" / "1" / "model.onnx", shape)
    if config is not None:
        (tmp_path / "digits" / "config.pbtxt").write_text(config)
    model = read_model(str(tmp_path), "digits").specification
    assert model is not None
    assert model.inputs["image"].shape == rows
    assert model.inputs["image"].dtype == np.dtype(np.float32)
    assert model.outputs["scores"].shape == (*rows[:-1], 10)
    assert model.max_batch_size == max_batch_size


@pytest.mark.parametrize(
    "config", ['backend: "python"', "sequence_batching { direct {} }", 'platform: "ensemble"']
)
def test_what_an_onnx_file_does_not_say_is_left_to_the_server(tmp_path: Path, config: str) -> None:
    write_onnx(tmp_path / "digits" / "1" / "model.onnx", ["n", 64])
    (tmp_path / "digits" / "config.pbtxt").write_text(config)
    assert read_model(str(tmp_path), "digits").specification is None


@pytest.mark.parametrize(
    ("server_args", "max_batch_size"),
    [
        ((), 4),
        (("--backend-config=onnxruntime,default-max-batch-size=64", "--log-info=true"), 64),
        (("--backend-config", "default-max-batch-size=32"), 32),
        (("--backend-config=onnxruntime,default-max-batch-size=8", "--backend-config=x,y=1"), 8),
        (("--backend-config=default-max-batch-size=0",), 0),
    ],
)
def test_the_server_says_how_many_rows_a_model_without_a_configuration_takes(
    tmp_path: Path, server_args: tuple[str, ...], max_batch_size: int
) -> None:
    write_onnx(tmp_path / "digits" / "1" / "model.onnx", ["n", 64])
    model = read_model(str(tmp_path), "digits", server_args=server_args).specification
    assert model is not None
    assert model.max_batch_size == max_batch_size
    most = max_batch_size or 1 << 16  # without a batch dimension, along the free first one
    assert RowPlan.of(model, most).rows_per_request == most
    with pytest.raises(ParameterError, match=f"takes {most} at most") as refused:
        RowPlan.of(model, most + 1)
    assert ("max_batch_size of its config.pbtxt" in str(refused.value)) == bool(max_batch_size)
