"""A repository as quiver exports it: a snapshotter with a state, and a network, as an ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.files import Hooks
from hermes.aeriel.serve import TritonInstance, serve
from hermes.errors import RequestError
from tests.files.runs import infer

CHANNELS, SNAPSHOT, STRIDE = 2, 8, 3

# The texts of quiver's protobuf messages: no max_batch_size, a batch in dims, and KIND_GPU.
SNAPSHOTTER = """\
name: "{name}"
platform: "onnxruntime_onnx"
input {{ name: "snapshot_update" data_type: TYPE_FP32 dims: 1 dims: 2 dims: {update} }}
output {{ name: "network.x_snapshot" data_type: TYPE_FP32 dims: {batch} dims: 2 dims: 8 }}
instance_group {{ count: 2 kind: KIND_GPU }}
sequence_batching {{
  max_sequence_idle_microseconds: 10000000
  direct {{ }}
  state {{
    input_name: "input_snapshot" output_name: "output_snapshot"
    data_type: TYPE_FP32 dims: 1 dims: 2 dims: 8
    initial_state {{
      data_type: TYPE_FP32 dims: 1 dims: 2 dims: 8 zero_data: true name: "snapshot"
    }}
  }}
}}
"""
NETWORK = """\
name: "network"
platform: "onnxruntime_onnx"
input { name: "x" data_type: TYPE_FP32 dims: -1 dims: 2 dims: 8 }
output { name: "y" data_type: TYPE_FP32 dims: -1 dims: 1 }
instance_group { count: 1 kind: KIND_GPU }
"""
ENSEMBLE = """\
name: "{name}"
platform: "ensemble"
input {{ name: "snapshot_update" data_type: TYPE_FP32 dims: 1 dims: 2 dims: {update} }}
output {{ name: "network.y" data_type: TYPE_FP32 dims: {rows} dims: 1 }}
ensemble_scheduling {{
  step {{
    model_name: "{snapshotter}" model_version: -1
    input_map {{ key: "snapshot_update" value: "snapshot_update" }}
    output_map {{ key: "network.x_snapshot" value: "network.x_snapshot" }}
  }}
  step {{
    model_name: "network" model_version: -1
    input_map {{ key: "x" value: "network.x_snapshot" }}
    output_map {{ key: "y" value: "network.y" }}
  }}
}}
"""
WEIGHTS = np.arange(CHANNELS * SNAPSHOT, dtype=np.float32).reshape(CHANNELS, SNAPSHOT)


def save(
    directory: Path,
    nodes: Sequence[Any],
    tensors: tuple[dict[str, Any], dict[str, Any]],
    constants: dict[str, Any],
) -> None:
    inputs, outputs = (
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in some.items()
        ]
        for some in tensors
    )
    known = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "exported", inputs, outputs, known)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (directory / "1").mkdir(parents=True)
    onnx.save(model, directory / "1" / "model.onnx")


def write_network(repository: Path) -> None:
    """Write a network that weighs the samples of each snapshot."""
    nodes = [
        helper.make_node("Mul", ["x", "weights"], ["weighed"]),
        helper.make_node("ReduceSum", ["weighed", "axes"], ["summed"], keepdims=0),
        helper.make_node("Unsqueeze", ["summed", "last"], ["y"]),
    ]
    constants = {"weights": WEIGHTS, "axes": np.array([1, 2]), "last": np.array([1])}
    tensors = ({"x": ["n", CHANNELS, SNAPSHOT]}, {"y": ["n", 1]})
    save(repository / "network", nodes, tensors, constants)
    (repository / "network" / "config.pbtxt").write_text(NETWORK)


def write_stream(repository: Path, name: str, batch: int, *, rows: int) -> None:
    """Write a snapshotter that makes `batch` snapshots of an update, and its ensemble."""
    snapshotter, update = f"{name}-snapshotter", batch * STRIDE
    # The snapshot without its oldest stride, and the update: as many snapshots, a stride apart.
    nodes = [
        helper.make_node("Slice", ["input_snapshot", "stride", "end", "axis"], ["kept"]),
        helper.make_node("Concat", ["kept", "snapshot_update"], ["samples"], axis=2),
        helper.make_node("Slice", ["samples", "oldest", "end", "axis"], ["output_snapshot"]),
    ]
    constants = {
        "stride": np.array([STRIDE]),
        "end": np.array([2**31]),
        "axis": np.array([2]),
        "oldest": np.array([-SNAPSHOT]),
    }
    for number in range(batch):
        first = f"from-{number}", f"to-{number}"
        constants |= dict(zip(first, np.array([[0], [SNAPSHOT]]) + number * STRIDE, strict=True))
        nodes.append(helper.make_node("Slice", ["samples", *first, "axis"], [f"part-{number}"]))
    parts = [f"part-{number}" for number in range(batch)]
    nodes.append(helper.make_node("Concat", parts, ["network.x_snapshot"], axis=0))
    state = [1, CHANNELS, SNAPSHOT]
    inputs = {"snapshot_update": [1, CHANNELS, update], "input_snapshot": state}
    outputs = {"network.x_snapshot": [batch, CHANNELS, SNAPSHOT], "output_snapshot": state}
    save(repository / snapshotter, nodes, (inputs, outputs), constants)
    config = SNAPSHOTTER.format(name=snapshotter, update=update, batch=batch)
    (repository / snapshotter / "config.pbtxt").write_text(config)
    (repository / name / "1").mkdir(parents=True)
    config = ENSEMBLE.format(name=name, update=update, rows=rows, snapshotter=snapshotter)
    (repository / name / "config.pbtxt").write_text(config)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, triton_home: Path) -> Iterator[TritonInstance]:
    models = tmp_path_factory.mktemp("exported")
    write_network(models)
    write_stream(models, "one", 1, rows=1)
    write_stream(models, "four", 4, rows=4)
    write_stream(models, "any", 4, rows=-1)
    with serve(models, cpu=True, ports="auto", wait=True, timeout_s=120) as instance:
        yield instance


@pytest.fixture
def series() -> NDArray[np.float32]:
    return np.random.default_rng(7).integers(-50, 50, (CHANNELS, 120)).astype(np.float32)


@pytest.fixture
def file(tmp_path: Path, series: NDArray[np.float32]) -> Path:
    with h5py.File(tmp_path / "strain.h5", "w") as opened:
        opened["strain"] = series
    return tmp_path / "strain.h5"


def scores(series: NDArray[np.float32], batch: int) -> NDArray[np.float32]:
    """Return what the network says of the snapshots that end with each stride of the series."""
    # The first update finds a snapshot of zeros, of which it drops one stride alone.
    state, update = np.zeros((CHANNELS, SNAPSHOT), np.float32), batch * STRIDE
    found = []
    for first in range(0, series.shape[1], update):
        samples = np.concatenate([state[:, STRIDE:], series[:, first : first + update]], axis=1)
        parts = [samples[:, n * STRIDE : n * STRIDE + SNAPSHOT] for n in range(batch)]
        found += [float((part * WEIGHTS).sum()) for part in parts]
        state = samples[:, -SNAPSHOT:]
    return np.array(found, np.float32)


@pytest.mark.parametrize(("model", "batch"), [("one", 1), ("four", 4), ("any", 4)])
def test_a_stream_of_updates(
    server: TritonInstance, series: NDArray[np.float32], model: str, batch: int
) -> None:
    updates = [part[None] for part in np.split(series, series.shape[1] // (batch * STRIDE), axis=1)]
    with InferenceClient(server.endpoint, model) as client, client.sequence() as sequence:
        results = [result["network.y"] for result in sequence.stream(updates)]
    assert np.array_equal(np.concatenate(results)[:, 0], scores(series, batch))


def test_a_file_is_a_sequence_of_updates(
    server: TritonInstance, file: Path, series: NDArray[np.float32]
) -> None:
    output = infer(server, file, Hooks(), model_name="one", window="3", stride="3")
    with h5py.File(output) as opened:
        assert np.array_equal(opened["network.y"][:, 0], scores(series, 1))


def test_several_snapshots_of_an_update_are_an_output_of_varying_length(
    server: TritonInstance, file: Path, series: NDArray[np.float32]
) -> None:
    options: Any = {"window": "12", "stride": "12", "varying": ("network.y",)}
    output = infer(server, file, Hooks(), model_name="any", **options)
    with h5py.File(output) as opened:
        assert opened["network.y/offsets"][:].tolist() == list(range(0, 41, 4))
        assert np.array_equal(opened["network.y/values"][:, 0], scores(series, 4))


def test_an_output_of_another_length_than_the_update_is_refused(
    server: TritonInstance, file: Path
) -> None:
    with pytest.raises(RequestError, match=r"'network.y' has shape \(4, 1\) for 1 windows"):
        infer(server, file, Hooks(), model_name="four", window="12", stride="12")
