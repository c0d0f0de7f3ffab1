"""Strain, injections and a model as ml4gw's aframe has them, made up.

    python examples/aframe/synthetic.py aframe

makes ``background/background-GPS-SECONDS.hdf5`` (a dataset for each interferometer, with ``x0`` and
``dx``), ``injections.hdf5`` (``waveforms/h1``, ``parameters/injection_time`` and so on, as aframe's
ledger has them) and ``models``: a snapshotter, whose state is the last second of strain, and a
network on top of it, joined by the ensemble ``aframe-stream``. All numbers are small multiples of a
power of two, so that sums are exact in any order, and numpy can be compared to the bit.
"""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper, save

IFOS = ("H1", "L1")
SAMPLE_RATE = 1024
INFERENCE_RATE = 16
STRIDE = SAMPLE_RATE // INFERENCE_RATE
BATCH = 32  # windows of an update
STEP = BATCH * STRIDE
KERNEL = SAMPLE_RATE
STATE = KERNEL - STRIDE
SHIFTS_S = ((0, 0), (0, 1), (0, 2))
SEGMENTS = ((1_300_000_000, 96), (1_300_001_000, 128))
COALESCENCE_S = 0.5
CONFIGS = {
    "snapshotter": f"""\
platform: "onnxruntime_onnx"
max_batch_size: 1
input [{{ name: "stream", data_type: TYPE_FP32, dims: [ 2, {STEP} ] }}]
output [{{ name: "snapshot", data_type: TYPE_FP32, dims: [ 2, {STATE + STEP} ] }}]
sequence_batching {{
  direct {{}}
  state [{{
    input_name: "before" output_name: "after" data_type: TYPE_FP32 dims: [ 2, {STATE} ]
    initial_state {{ name: "none" data_type: TYPE_FP32 dims: [ 2, {STATE} ] zero_data: true }}
  }}]
}}
instance_group [{{ kind: KIND_CPU, count: 2 }}]
""",
    "network": f"""\
platform: "onnxruntime_onnx"
max_batch_size: 1
input [{{ name: "snapshot", data_type: TYPE_FP32, dims: [ 2, {STATE + STEP} ] }}]
output [{{ name: "score", data_type: TYPE_FP32, dims: [ {BATCH} ] }}]
instance_group [{{ kind: KIND_CPU }}]
""",
    "aframe-stream": f"""\
platform: "ensemble"
max_batch_size: 1
input [{{ name: "stream", data_type: TYPE_FP32, dims: [ 2, {STEP} ] }}]
output [{{ name: "score", data_type: TYPE_FP32, dims: [ {BATCH} ] }}]
ensemble_scheduling {{
  step [
    {{ model_name: "snapshotter" model_version: -1
       input_map {{ key: "stream" value: "stream" }}
       output_map {{ key: "snapshot" value: "snapshot" }} }},
    {{ model_name: "network" model_version: -1
       input_map {{ key: "snapshot" value: "snapshot" }}
       output_map {{ key: "score" value: "score" }} }}
  ]
}}
""",
}


def signal() -> np.ndarray:
    """Return the waveform that is injected and that the network looks for, of one second."""
    time_s = np.arange(KERNEL) / SAMPLE_RATE
    return np.round(2 * np.sin(2 * np.pi * (20 + 40 * time_s) * time_s)).astype(np.float32)


def write_background(directory: Path, random: np.random.Generator) -> None:
    """Write a file for each segment."""
    directory.mkdir(parents=True, exist_ok=True)
    for start, seconds in SEGMENTS:
        with h5py.File(directory / f"background-{start}-{seconds}.hdf5", "w") as hdf5:
            for ifo in IFOS:
                strain = random.integers(-16, 17, seconds * SAMPLE_RATE) / 8
                hdf5.create_dataset(ifo, data=strain)
                hdf5[ifo].attrs.update(x0=float(start), dx=1 / SAMPLE_RATE)


def write_injections(file: Path, random: np.random.Generator) -> None:
    """Write the injections of every shift: one each 8 s, each in another strength."""
    times, shifts = [], []
    for shift in SHIFTS_S:
        for start, seconds in SEGMENTS:
            times += [start + second + 0.25 for second in range(6, seconds - 4, 8)]
            shifts += [shift] * len(range(6, seconds - 4, 8))
    strengths = random.integers(1, 5, len(times)) / 4
    with h5py.File(file, "w") as hdf5:
        hdf5.attrs.update(
            sample_rate=float(SAMPLE_RATE),
            duration=1.0,
            coalescence_time=COALESCENCE_S,
            num_injections=len(times),
            length=len(times),
        )
        for ifo in IFOS:
            hdf5[f"waveforms/{ifo.lower()}"] = strengths[:, None] * signal()
        hdf5["parameters/injection_time"] = times
        hdf5["parameters/shift"] = np.array(shifts, float)
        hdf5["parameters/snr"] = 20 * strengths


def write_models(repository: Path) -> None:
    """Write the snapshotter, the network and their ensemble."""
    node, size = helper.make_node, STATE + STEP

    def tensor(name: str, *shape: int) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", *shape])

    graphs = {
        "snapshotter": (
            [
                node("Concat", ["before", "stream"], ["snapshot"], axis=2),
                node("Slice", ["snapshot", "from", "to", "axis"], ["after"]),
            ],
            [tensor("stream", 2, STEP), tensor("before", 2, STATE)],
            [tensor("snapshot", 2, size), tensor("after", 2, STATE)],
            {"from": np.array([STEP]), "to": np.array([size]), "axis": np.array([2])},
        ),
        "network": (
            [
                node("Conv", ["snapshot", "filter"], ["scores"], strides=[STRIDE]),
                node("Squeeze", ["scores", "channel"], ["score"]),
            ],
            [tensor("snapshot", 2, size)],
            [tensor("score", BATCH)],
            {"filter": np.stack([signal(), signal()])[None] / 64, "channel": np.array([1])},
        ),
    }  # fmt: skip
    for name, config in CONFIGS.items():
        (repository / name / "1").mkdir(parents=True, exist_ok=True)
        (repository / name / "config.pbtxt").write_text(config)
        if name in graphs:
            nodes, inputs, outputs, constants = graphs[name]
            initializers = [numpy_helper.from_array(value, key) for key, value in constants.items()]
            graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
            opset = [helper.make_opsetid("", 18)]
            model = helper.make_model(graph, opset_imports=opset, ir_version=8)
            save(model, repository / name / "1" / "model.onnx")


def main(directory: Path) -> None:
    """Make everything in a directory."""
    random = np.random.default_rng(0)
    write_background(directory / "background", random)
    write_injections(directory / "injections.hdf5", random)
    write_models(directory / "models")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
