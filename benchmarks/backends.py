"""Models served by hermes' ONNX backend beside onnxruntime in this process.

    python benchmarks/backends.py

Both compute with the same number of threads, and take turns. For each model and number of rows in
a request: rows per second in process, with and without spinning threads; rows per second served
to one client over shared memory, three requests under way; rows per second of the backend alone,
from Triton's statistics (``compute_infer``, which includes handing the tensors to the process of
the model). Ratios are taken within a repetition: their median, least and most.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import tritonclient.grpc as triton
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingRegressor

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.serve import serve
from hermes.runtime._threads import fair_threads

CONFIG = """
backend: "onnxruntime"
max_batch_size: %d
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching {}
parameters { key: "intra_op_thread_count" value: { string_value: "%d" } }
"""
# Of a request: one, a batch, and a batch that takes milliseconds.
ROWS = {"small": (1, 64, 4096), "convolutional": (1, 64), "tree": (1, 64, 4096)}


def main() -> None:
    options = parse()
    ratios = defaultdict(list)
    rates = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="hermes-benchmark-") as scratch:
        models = {name: write(Path(scratch)) for name, write in MODELS.items()}
        for name in models:
            config = CONFIG % (max(ROWS[name]), options.threads)
            (Path(scratch) / name / "config.pbtxt").write_text(config)
        with serve(scratch, ports="auto", gpus=[], wait=True) as server:
            cases = [(name, rows) for name in models for rows in ROWS[name]]
            for name, rows in cases * (1 + options.repeat):
                numbers = measure(name, rows, models[name], server.endpoint, options)
                rates[name, rows].append(numbers)
                for other in ("served", "backend"):
                    ratios[name, rows, other].append(numbers[other] / numbers["in process"])
    for name, rows in cases:
        print(f"\n{name}, {rows} rows a request")
        for column in rates[name, rows][0]:
            median = statistics.median(numbers[column] for numbers in rates[name, rows][1:])
            print(f"  {column:<12}{median:12.0f} rows/s")
        for other in ("served", "backend"):
            values = ratios[name, rows, other][1:]  # the first repetition warms up
            print(f"  {other} / in process: {statistics.median(values):.2f} "
                  f"({min(values):.2f} to {max(values):.2f})")  # fmt: skip
    print(f"\n{options.threads} threads, onnxruntime {onnxruntime.__version__} in process, "
          f"load {os.getloadavg()[0]:.1f} at the end", file=sys.stderr)  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement")
    parser.add_argument("--threads", type=int, default=fair_threads({}))
    return parser.parse_args()


def measure(name, rows, model, endpoint, options) -> dict[str, float]:
    shape = [rows, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:])]
    batch = np.random.default_rng(0).standard_normal(shape, np.float32)
    numbers = {}
    for column, spinning in (("in process", "0"), ("spinning", "1")):
        session = open_session(model, options.threads, spinning)
        session.run(None, {"x": batch})
        began = time.perf_counter()
        runs = 0
        while (took := time.perf_counter() - began) < options.seconds:
            session.run(None, {"x": batch})
            runs += 1
        numbers[column] = runs * rows / took
    with (
        InferenceClient(endpoint, name, transport="shm") as client,
        triton.InferenceServerClient(endpoint.grpc) as server,
    ):
        list(client.stream({"x": batch} for _ in range(10)))
        before, began = computed(server, name), time.perf_counter()
        ends = began + options.seconds

        def batches():
            while time.perf_counter() < ends:
                yield {"x": batch}

        n_answers = sum(1 for _ in client.stream(batches()))
        numbers["served"] = n_answers * rows / (time.perf_counter() - began)
        time.sleep(0.1)  # a request is counted a moment after its answer
        n_rows, seconds = (a - b for a, b in zip(computed(server, name), before, strict=True))
        numbers["backend"] = n_rows / seconds
    return numbers


def open_session(model, threads, spinning):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def computed(server, name):
    """Return the rows that a model has computed, and the seconds that took."""
    (model,) = server.get_inference_statistics(name).model_stats
    seconds = sum(batch.compute_infer.ns for batch in model.batch_stats) / 1e9
    return model.inference_count, seconds


def write_small(repository: Path):
    """Write a perceptron with 64 inputs."""
    random = np.random.default_rng(0)
    nodes, constants, last = [], [], "x"
    for number, (n_in, n_out) in enumerate([(64, 64), (64, 10)]):
        weights = random.standard_normal((n_in, n_out), np.float32) / 8
        constants.append(numpy_helper.from_array(weights, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"m{number}"]))
        nodes.append(helper.make_node("Relu", [f"m{number}"], [f"h{number}"]))
        last = f"h{number}"
    return write(repository, "small", nodes, constants, last, [64])


def write_convolutional(repository: Path):
    """Write convolutions over a second of two detectors at 2048 Hz."""
    random = np.random.default_rng(0)
    nodes, constants, last = [], [], "x"
    for number, (n_in, n_out) in enumerate([(2, 16), (16, 32), (32, 64)]):
        kernel = random.standard_normal((n_out, n_in, 16), np.float32) / 16
        constants.append(numpy_helper.from_array(kernel, f"k{number}"))
        node = helper.make_node("Conv", [last, f"k{number}"], [f"c{number}"], strides=[2])
        nodes += [node, helper.make_node("Relu", [f"c{number}"], [f"h{number}"])]
        last = f"h{number}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["y"]))
    return write(repository, "convolutional", nodes, constants, "y", [2, 2048])


def write_tree(repository: Path):
    """Write 200 boosted trees over 20 features."""
    random = np.random.default_rng(0)
    x = random.standard_normal((2000, 20), np.float32)
    y = np.sin(x[:, 0]) + x[:, 1] * x[:, 2]
    trees = GradientBoostingRegressor(n_estimators=200, max_depth=4, random_state=0).fit(x, y)
    model = to_onnx(trees, x[:1], target_opset=17)
    model.graph.input[0].name = "x"
    for node in model.graph.node:
        node.input[:] = ["x" if name == "X" else name for name in node.input]
    return save(repository, "tree", model)


def write(repository, name, nodes, constants, last, row):
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *row])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        initializer=constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return save(repository, name, onnx.shape_inference.infer_shapes(model))


def save(repository, name, model):
    (repository / name / "1").mkdir(parents=True)
    onnx.save(model, repository / name / "1" / "model.onnx")
    return model


MODELS = {"small": write_small, "convolutional": write_convolutional, "tree": write_tree}

if __name__ == "__main__":
    main()
