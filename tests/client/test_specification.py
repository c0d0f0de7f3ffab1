from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from hermes.aeriel.client import ModelSpecification, TensorSpecification
from hermes.errors import InputError

X = TensorSpecification(name="x", datatype="FP32", shape=(2, -1))
TEXT = TensorSpecification(name="text", datatype="BYTES", shape=(1,), optional=True)


def specification(max_batch_size: int = 4) -> ModelSpecification:
    return ModelSpecification(
        name="model",
        version="1",
        platform="",
        inputs={"x": X, "text": TEXT},
        outputs={},
        max_batch_size=max_batch_size,
    )


def from_server(*, versions: tuple[str, ...] = ("1",), **config: Any) -> ModelSpecification:
    shape = [-1, 2] if config.get("max_batch_size") else [2]
    tensor = service_pb2.ModelMetadataResponse.TensorMetadata
    metadata = service_pb2.ModelMetadataResponse(
        name="model",
        versions=versions,
        platform="python",
        inputs=[tensor(name="x", datatype="FP32", shape=shape)],
        outputs=[tensor(name="y", datatype="INT64", shape=shape)],
    )
    return ModelSpecification.from_server(metadata, model_config_pb2.ModelConfig(**config))


def test_specification_is_what_the_server_says() -> None:
    assert from_server(max_batch_size=8) == ModelSpecification(
        name="model",
        version="1",
        platform="python",
        inputs={"x": TensorSpecification(name="x", datatype="FP32", shape=(2,))},
        outputs={"y": TensorSpecification(name="y", datatype="INT64", shape=(2,))},
        max_batch_size=8,
    )


def test_model_without_a_batch_dimension_keeps_its_whole_shape() -> None:
    assert from_server(max_batch_size=0).inputs["x"].shape == (2,)


def test_version_is_the_highest_number() -> None:
    assert from_server(versions=("9", "10", "2")).version == "10"


def test_optional_inputs_are_told_from_required_ones() -> None:
    optional = model_config_pb2.ModelInput(name="x", optional=True)
    assert from_server(input=[optional]).inputs["x"].optional


def test_sequence_batcher_makes_a_model_stateful() -> None:
    assert from_server(sequence_batching=model_config_pb2.ModelSequenceBatching()).stateful
    assert not from_server().stateful


@pytest.mark.parametrize(
    ("groups", "n_instances"),
    [
        ([], 1),
        ([{"count": 3, "kind": "KIND_CPU"}], 3),
        ([{"count": 2, "kind": "KIND_GPU", "gpus": [0, 1]}], 4),
        ([{"count": 1, "kind": "KIND_CPU"}, {"count": 2, "kind": "KIND_GPU"}], 3),
    ],
)
def test_instances_are_counted_over_groups_and_gpus(
    groups: list[dict[str, Any]], n_instances: int
) -> None:
    group = model_config_pb2.ModelInstanceGroup
    assert from_server(instance_group=[group(**g) for g in groups]).n_instances == n_instances


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [("BOOL", "bool"), ("UINT8", "uint8"), ("FP16", "float16"), ("FP64", "float64")],
)
def test_dtype_is_that_of_numpy(datatype: str, dtype: str) -> None:
    tensor = TensorSpecification(name="x", datatype=datatype, shape=())
    assert tensor.dtype == np.dtype(dtype)


def test_strings_are_objects() -> None:
    assert TEXT.dtype == np.dtype(object)


def test_rows_are_counted() -> None:
    assert specification().check({"x": np.zeros((3, 2, 7), np.float32)}) == 3


def test_request_without_a_batch_dimension_is_one_row() -> None:
    assert specification(0).check({"x": np.zeros((2, 7), np.float32)}) == 1


@pytest.mark.parametrize("dtype", [object, "S3", "U3"])
def test_strings_of_any_kind_fit_a_string_input(dtype: Any) -> None:
    arrays = {"x": np.zeros((1, 2, 1), np.float32), "text": np.array([["a"]], dtype)}
    assert specification().check(arrays) == 1


FITS = np.zeros((2, 2, 3), np.float32)
MISFITS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "missing input": ({}, "x", "nothing", "an array of FP32 with shape (2, any)"),
    "unknown input": ({"x": FITS, "z": FITS}, "z", "an array", "one of the inputs ['text', 'x']"),
    "other dtype": (
        {"x": FITS.astype(np.float64)},
        "x",
        "float64 of shape (2, 2, 3)",
        "dtype float32 (FP32)",
    ),
    "other byte order": ({"x": FITS.astype(">f4")}, "x", ">f4", "dtype float32 (FP32)"),
    "other shape": (
        {"x": np.zeros((2, 3, 2), np.float32)},
        "x",
        "float32 of shape (2, 3, 2)",
        "shape (rows, 2, any)",
    ),
    "no batch dimension": ({"x": FITS[0]}, "x", "shape (2, 3)", "shape (rows, 2, any)"),
    "a number": ({"x": np.array(1, np.float32)}, "x", "shape ()", "shape (rows, 2, any)"),
    "a list": ({"x": [[1.0]]}, "x", "list", "a numpy array"),
    "values that are masked": (
        {"x": np.ma.masked_less(FITS, 1.0)},
        "x",
        "a masked array with 12 values masked",
        "each value; fill those, or leave their rows out",
    ),
    "no rows": ({"x": FITS[:0]}, "x", "0 rows", "1 to 4 rows (max_batch_size)"),
    "too many rows": (
        {"x": np.zeros((5, 2, 3), np.float32)},
        "x",
        "5 rows",
        "1 to 4 rows (max_batch_size)",
    ),
    "rows that differ": (
        {"x": FITS, "text": np.array([["a"]], object)},
        "text",
        "1 rows",
        "2, as in the other inputs",
    ),
    "numbers for strings": (
        {"x": FITS, "text": np.zeros((2, 1))},
        "text",
        "float64",
        "dtype object (BYTES)",
    ),
}


def test_a_masked_array_of_which_nothing_is_masked_is_an_array() -> None:
    arrays = {"x": np.ma.array(FITS), "text": np.array([["a"], ["b"]], object)}
    assert specification().check(arrays) == 2


@pytest.mark.parametrize("misfit", MISFITS)
def test_misfit_says_which_input_what_was_given_and_what_is_wanted(misfit: str) -> None:
    arrays, tensor, given, wanted = MISFITS[misfit]
    with pytest.raises(InputError) as caught:
        specification().check(arrays)
    assert (caught.value.model, caught.value.tensor) == ("model", tensor)
    assert given in caught.value.given
    assert caught.value.wanted == wanted
