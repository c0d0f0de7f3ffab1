"""Train a classifier of handwritten digits, and lay out what `Validate` wants to see.

    python examples/digits.py demo

makes ``demo/models`` (a Triton model repository with the classifier as ONNX) and ``demo/data``
(HDF5 files of digits that it was not trained on, with their labels). The digits are the 1797
images of 8 x 8 pixels that come with scikit-learn.
"""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

MODEL = "digits"
N_FILES = 4
CONFIG = """\
platform: "onnxruntime_onnx"
max_batch_size: 256
input [{ name: "image", data_type: TYPE_FP32, dims: [ 64 ] }]
output [{ name: "probabilities", data_type: TYPE_FP32, dims: [ 10 ] }]
instance_group [{ kind: KIND_CPU }]
dynamic_batching {}
"""


def main(directory: Path) -> None:
    """Make the model repository and the HDF5 files in a directory."""
    images, labels = load_digits(return_X_y=True)
    images = images.astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=0.5, random_state=0, stratify=labels
    )
    classifier = make_pipeline(
        MinMaxScaler(), MLPClassifier((64,), max_iter=400, random_state=0)
    ).fit(train_x, train_y)

    model = directory / "models" / MODEL
    (model / "1").mkdir(parents=True, exist_ok=True)
    onnx = to_onnx(
        classifier,
        train_x[:1],
        options={"zipmap": False},
        target_opset=17,
    )
    onnx.graph.input[0].name = "image"
    for node in onnx.graph.node:
        node.input[:] = ["image" if name == "X" else name for name in node.input]
    (model / "1" / "model.onnx").write_bytes(onnx.SerializeToString())
    (model / "config.pbtxt").write_text(CONFIG)

    data = directory / "data"
    data.mkdir(exist_ok=True)
    for number, (x, y) in enumerate(
        zip(np.array_split(test_x, N_FILES), np.array_split(test_y, N_FILES), strict=True)
    ):
        with h5py.File(data / f"digits-{number}.h5", "w") as file:
            file["image"] = x
            file["label"] = y.astype(np.int64)
    print(f"{model}: trained on {len(train_x)} digits; {data}: {len(test_x)} others")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
