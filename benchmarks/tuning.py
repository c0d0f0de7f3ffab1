"""What `hermes tune` gains: rows/s of a model with its settings of before, and with those it chose.

    python benchmarks/tuning.py
    python benchmarks/tuning.py --seconds 20 --rounds 3 --models small

For a small, a convolutional and a tree model: the command `hermes tune`; then a server with the old
configuration and one with the new, measured in turns with the client's old and new options. Ratios
are taken within a round: their median, least and most. By default it takes under six minutes.
Nothing else may run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.files import InferenceOptions, examine, plan
from hermes.aeriel.serve import serve
from hermes.aeriel.tuning._measure import measure_rows
from hermes.aeriel.tuning._model import TunedModel
from hermes.aeriel.tuning._settings import Settings

CONFIG = """
backend: "onnxruntime"
max_batch_size: 256
input [{{ name: "x", data_type: TYPE_FP32, dims: {shape} }}]
output [{{ name: "{output}", data_type: TYPE_FP32, dims: {of_output} }}]
"""


def main() -> None:
    options = parse()
    begun = time.monotonic()
    results = {}
    with tempfile.TemporaryDirectory(prefix="hermes-benchmark-") as scratch:
        for name in options.models:
            results[name] = tune_and_measure(Path(scratch) / name, MODELS[name], options)
            print(line(name, results[name]), flush=True)
    heads = ["model", "batch x in flight", "old rows/s", "new rows/s", "new/old", "chosen"]
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, result in results.items():
        print(line(name, result))
    print(f"\n{time.monotonic() - begun:.0f} s in all")
    if options.output:
        options.output.write_text(json.dumps(results, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="for each hermes tune")
    parser.add_argument("--rounds", type=int, default=5, help="of old and new, in turns")
    parser.add_argument("--measure-s", type=float, default=2.0, help="of one measurement")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--output", type=Path, help="JSON file of all figures")
    return parser.parse_args()


def tune_and_measure(work: Path, make: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Return what the command chose for a model, and the rows/s of each round, old and new."""
    models, file = work / "models", work / "rows.h5"
    (models / "model" / "1").mkdir(parents=True)
    with h5py.File(file, "w") as data:
        data["x"] = make(models / "model")
    tuned = work / "tuned"
    command = [sys.executable, "-m", "hermes", "tune", models, "model", "--inputs", file]
    done = subprocess.run(
        [*command, f"--seconds={options.seconds}", f"--output-dir={tuned}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    print(done.stdout, flush=True)
    new_models = work / "new"
    shutil.copytree(models, new_models)
    config = tuned / "config.tuned.pbtxt"
    if config.exists():
        shutil.copy(config, new_models / "model" / "config.pbtxt")
    given = InferenceOptions(model_name="model", input_map={"x": "x"})
    settings = TunedModel.read(new_models, "model").settings
    with (
        serve(models, listen="unix", wait=True) as old_server,
        serve(new_models, listen="unix", wait=True) as new_server,
    ):
        with InferenceClient(old_server.endpoint, "model") as client:
            facts = examine(file, given, client.specification)
            requests = plan(facts, given, client.specification).requests
            before = (requests.rows_per_request, client.max_in_flight)
        found = re.search(r"with --batch-size (\d+) --max-in-flight (\d+)", done.stdout)
        after = (int(found[1]), int(found[2])) if found else before

        def rows_per_s(server: Any, of_client: tuple[int, int]) -> float:
            chosen = Settings(model=settings, batch_size=of_client[0], in_flight=of_client[1])
            return measure_rows(server.endpoint, [[file]], given, chosen, seconds=options.measure_s)

        pairs = []
        for number in range(options.rounds):
            # In turns the other way round: a machine that gets slower is fair to both.
            order = [("old", old_server, before), ("new", new_server, after)]
            speeds = {name: rows_per_s(*of) for name, *of in order[:: -1 if number % 2 else 1]}
            pairs.append((speeds["old"], speeds["new"]))
    return {"before": before, "after": after, "settings": str(settings), "pairs": pairs}


def line(name: str, result: dict[str, Any]) -> str:
    old, new = zip(*result["pairs"], strict=True)
    ratios = [after / before for before, after in result["pairs"]]
    of_client = " to ".join("{} x {}".format(*result[when]) for when in ("before", "after"))
    cells = [name, of_client, *(spread(of, ",.0f") for of in (old, new)), spread(ratios, ".2f")]
    return f"| {' | '.join([*cells, result['settings']])} |"


def spread(values: Sequence[float], kind: str) -> str:
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:{kind}} ({least:{kind}} to {most:{kind}})"


def small(model: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Write two dense layers of 64 numbers; return rows."""
    nodes = [
        *(helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("Relu", ["h"], ["r"])),
        helper.make_node("MatMul", ["r", "b"], ["y"]),
    ]
    weights = {"a": random((64, 64)), "b": random((64, 10))}
    write(model, nodes, weights, (64,), (10,))
    return random((20_000, 64))


def convolutional(model: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Write three convolutions of an image of 3 x 32 x 32, and a mean; return rows."""
    nodes, weights, before = [], {}, "x"
    for number, (to, of) in enumerate(((32, 3), (64, 32), (64, 64))):
        weights[f"w{number}"] = random((to, of, 3, 3)) / 10
        names = [before, f"w{number}"]
        convolved = helper.make_node(
            "Conv", names, [f"c{number}"], pads=[1] * 4, strides=[1 + (number > 0)] * 2
        )
        nodes += [convolved, helper.make_node("Relu", [f"c{number}"], [f"r{number}"])]
        before = f"r{number}"
    nodes.append(helper.make_node("GlobalAveragePool", [before], ["p"]))
    nodes.append(helper.make_node("Flatten", ["p"], ["y"]))
    write(model, nodes, weights, (3, 32, 32), (64,))
    return random((2_000, 3, 32, 32))


def trees(model: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Write a random forest of 100 trees; return rows."""
    x = random((4_000, 32))
    forest = RandomForestClassifier(100, max_depth=12, random_state=0).fit(x, x[:, 0] > x[:, 1])
    graph = to_onnx(forest, x[:1], options={"zipmap": False}, target_opset=17)
    graph.graph.input[0].name = "x"
    for node in graph.graph.node:
        node.input[:] = ["x" if name == "X" else name for name in node.input]
    (model / "1" / "model.onnx").write_bytes(graph.SerializeToString())
    describe(model, (32,), "probabilities", (2,))
    return random((20_000, 32))


def write(
    model: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, Any],
    shape: tuple[int, ...],
    of_output: tuple[int, ...],
) -> None:
    """Write an ONNX model with one input x and one output y, and its configuration."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", *of_output])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    (model / "1" / "model.onnx").write_bytes(made.SerializeToString())
    describe(model, shape, "y", of_output)


def describe(model: Path, shape: tuple[int, ...], output: str, of_output: tuple[int, ...]) -> None:
    text = CONFIG.format(shape=list(shape), output=output, of_output=list(of_output))
    (model / "config.pbtxt").write_text(text)


def random(shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(len(shape)).standard_normal(shape, np.float32)


MODELS = {"small": small, "convolutional": convolutional, "trees": trees}

if __name__ == "__main__":
    main()
