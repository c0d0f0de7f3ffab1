"""A bank of matched filters as a Triton model: its weights are the templates.

    python examples/search/bank.py search

reads a file of ``noise/`` for the spectrum, and makes ``models/bank``. A convolution whitens a
window of strain, by a filter for each detector, and a second one correlates it with every template.
The ranking statistic is the root of the power in both detectors, the second within the time that
light takes from one to the other; it is 0 where one of the detectors sees nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper, save
from scipy.signal import welch
from simulate import DETECTORS, SAMPLE_RATE, chirp

WINDOW = 2048
N_WHITENING = 1025
N_TEMPLATE = 513
N_TIMES = WINDOW - N_WHITENING - N_TEMPLATE + 2
CHIRP_MASSES = np.geomspace(15, 40, 16)
LIGHT_TRAVEL = 10  # samples; 3000 km
LEAST_SNR = 3.5  # in each detector
SCALE = 1e21  # strain in FP32 would lose digits where it is squared
CONFIG = f"""\
platform: "onnxruntime_onnx"
max_batch_size: 64
input [{{ name: "strain", data_type: TYPE_FP32, dims: [ {len(DETECTORS)}, {WINDOW} ] }}]
output [
  {{ name: "snr", data_type: TYPE_FP32, dims: [ 1 ] }},
  {{ name: "delay", data_type: TYPE_FP32, dims: [ 1 ] }},
  {{ name: "template", data_type: TYPE_INT64, dims: [ 1 ] }}
]
instance_group [{{ kind: KIND_CPU }}]
"""

Array = NDArray[np.float64]


def whitening_filter(strain: Array) -> Array:
    """Return the taps that give scaled strain a flat spectrum and a variance of one."""
    frequency_hz, density = welch(strain * SCALE, SAMPLE_RATE, nperseg=SAMPLE_RATE)
    density[frequency_hz < 20] = np.inf
    taps = np.fft.irfft(np.sqrt(2 / (SAMPLE_RATE * density)))
    return np.roll(np.append(taps, 0.0), N_WHITENING // 2) * np.hanning(N_WHITENING)


def templates(taps: Array) -> Array:
    """Return the whitened chirps of unit length, in two phases: (phases, masses, samples)."""
    bank = np.empty((2, len(CHIRP_MASSES), N_TEMPLATE))
    for phase, index in np.ndindex(bank.shape[:2]):
        wave = chirp(float(CHIRP_MASSES[index]), phase * np.pi / 2, N_WHITENING + N_TEMPLATE)
        white = np.convolve(np.append(wave, np.zeros(N_WHITENING // 2)), taps, "valid")
        bank[phase, index] = white[-N_TEMPLATE:]
        if phase:
            bank[1, index] -= (bank[1, index] @ bank[0, index]) * bank[0, index]
        bank[phase, index] /= np.linalg.norm(bank[phase, index])
    return bank


def build(whitening: Array, bank: Array) -> ModelProto:
    """Return the ONNX model of whitening filters (detectors, taps) and templates."""
    n, n_masses = len(DETECTORS), len(CHIRP_MASSES)
    constants = {
        "scale": np.float32(SCALE),
        "whitening": whitening[:, None].astype(np.float32),
        "bank": np.tile(bank.reshape(1, -1, N_TEMPLATE), (n, 1, 1))
        .reshape(-1, 1, N_TEMPLATE)
        .astype(np.float32),
        "split": np.array([0, n, 2, n_masses, N_TIMES]),
        "phases": np.array([2]),
        "joined": np.array([0, n_masses * N_TIMES]),
        "last": np.array([1]),
        "least_power": np.float32(LEAST_SNR**2),
        "nothing": np.float32(0),
        "n_times": np.int64(N_TIMES),
        "first_end": np.float32((N_WHITENING // 2 + N_TEMPLATE) / SAMPLE_RATE),
        "sample_s": np.float32(1 / SAMPLE_RATE),
    }
    node = helper.make_node
    nodes = [
        node("Mul", ["strain", "scale"], ["scaled"]),
        node("Conv", ["scaled", "whitening"], ["white"], group=n),
        node("Conv", ["white", "bank"], ["filtered"], group=n),
        node("Reshape", ["filtered", "split"], ["quadratures"]),
        node("Mul", ["quadratures", "quadratures"], ["squared"]),
        node("ReduceSum", ["squared", "phases"], ["power"], keepdims=0),
        node("Split", ["power"], ["power_1", "power_2"], axis=1, num_outputs=n),
        node("Squeeze", ["power_1", "last"], ["first"]),
        node("Squeeze", ["power_2", "last"], ["second"]),
        node(
            "MaxPool",
            ["second"],
            ["nearby"],
            kernel_shape=[2 * LIGHT_TRAVEL + 1],
            pads=[LIGHT_TRAVEL] * 2,
        ),
        node("Add", ["first", "nearby"], ["sum"]),
        node("Min", ["first", "nearby"], ["least"]),
        node("Greater", ["least", "least_power"], ["is_seen"]),
        node("Where", ["is_seen", "sum", "nothing"], ["network"]),
        node("Reshape", ["network", "joined"], ["flat"]),
        node("ReduceMax", ["flat", "last"], ["most"], keepdims=1),
        node("Sqrt", ["most"], ["snr"]),
        node("ArgMax", ["flat"], ["where"], axis=1, keepdims=1),
        node("Div", ["where", "n_times"], ["template"]),
        node("Mod", ["where", "n_times"], ["sample"]),
        node("Cast", ["sample"], ["sample_float"], to=TensorProto.FLOAT),
        node("Mul", ["sample_float", "sample_s"], ["after_first"]),
        node("Add", ["after_first", "first_end"], ["delay"]),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "bank",
        [tensor("strain", TensorProto.FLOAT, ["rows", n, WINDOW])],
        [
            tensor("snr", TensorProto.FLOAT, ["rows", 1]),
            tensor("delay", TensorProto.FLOAT, ["rows", 1]),
            tensor("template", TensorProto.INT64, ["rows", 1]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def main(directory: Path) -> None:
    """Make the model repository in a directory."""
    with h5py.File(min((directory / "noise").glob("*.h5"))) as hdf5:
        whitening = np.stack(
            [whitening_filter(hdf5[f"{name}:SIM-STRAIN"][:]) for name in DETECTORS]
        )
    model = directory / "models" / "bank"
    (model / "1").mkdir(parents=True, exist_ok=True)
    save(build(whitening, templates(whitening.mean(axis=0))), model / "1" / "model.onnx")
    (model / "config.pbtxt").write_text(CONFIG)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
