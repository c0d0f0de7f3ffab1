"""Whole pipelines beside a plain script that does the same: what one small file costs.

    python benchmarks/pipelines.py
    python benchmarks/pipelines.py --files 10000 --repeat 1

Every step is a command of its own, as a person runs it. In turns: `benchmarks/_plain.py` with
tritonclient, `hermes infer`, `hermes validate` of what that wrote (merging, metrics and report),
`Validate` with one worker and with three, and `Validate` again, which has nothing to do. The cost
of a file is the difference between many files and few, so that what a command takes to start does
not count. Then the merging of large files beside `cp`. Ratios are taken within a repetition: their
median, least and most. CPU seconds are those of a command and of the processes that it waits for,
and not of the server.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import h5py
import numpy as np

from hermes.aeriel.files import OutputFile
from hermes.aeriel.serve import serve
from hermes.aeriel.validation import Part, merge

HERE = Path(__file__).parent
FEW = 10
N_PARTS = 4
AGAIN = "Validate again"
MEASURE = "hermes validate"
BESIDE = "plain script"
MODEL = """
import triton_python_backend_utils as utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            utils.InferenceResponse([
                utils.Tensor("y", 2 * utils.get_input_tensor_by_name(request, "x").as_numpy())
            ])
            for request in requests
        ]
"""
CONFIG = """
backend: "python"
max_batch_size: 64
input [{ name: "x", data_type: TYPE_FP32, dims: [ 8 ] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [ 8 ] }]
"""


def main() -> None:
    options = parse()
    costs = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="hermes-benchmark-", dir=options.directory) as scratch:
        work = Path(scratch)
        models, files = write_inputs(work, options.files, options.rows)
        with serve(models, ports="auto", gpus=[], wait=True) as server:
            server.endpoint.write(work / "endpoint.json")
            for _ in range(1 + options.repeat):
                for name, cost in measure(work, server.endpoint.grpc, files).items():
                    costs[name].append(cost)
        merging = [merge_and_copy(work, options.mb) for _ in range(1 + options.repeat)]
    # The first repetition warms up.
    show({name: runs[1:] or runs for name, runs in costs.items()}, merging[1:] or merging, options)


def measure(work: Path, address: str, files: list[Path]) -> dict[str, dict[str, float]]:
    """Return the costs of each step, once."""
    runs = defaultdict(list)
    for some in (files[:FEW], files):
        for name, command in STEPS.items():
            if name not in (AGAIN, MEASURE):
                shutil.rmtree(work / "out", ignore_errors=True)
            runs[name].append(run(command(work, address, some)))
    return {name: cost(few, many, len(files)) for name, (few, many) in runs.items()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--rows", type=int, default=16, help="of a file")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--mb", type=int, default=1024, help="of the predictions that are merged")
    parser.add_argument("--directory", help="where files are written; the disk counts")
    parser.add_argument("--output", help="a JSON file with all numbers")
    return parser.parse_args()


def write_inputs(work: Path, n_files: int, n_rows: int) -> tuple[Path, list[Path]]:
    model = work / "models" / "double"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text(MODEL)
    (model / "config.pbtxt").write_text(CONFIG)
    random = np.random.default_rng(0)
    files = []
    for number in range(n_files):
        part = "few" if number < FEW else "rest"
        file = work / "data" / part / f"{number:06}.h5"
        file.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(file, "w") as opened:
            opened["x"] = random.random((n_rows, 8), np.float32)
            opened["target"] = 2 * opened["x"][:]
        files.append(file)
    return model.parent, files


def plain(work: Path, address: str, files: list[Path]) -> list[str]:
    return [sys.executable, str(HERE / "_plain.py"), "infer", address, "double",
            str(work / "out"), *map(str, files)]  # fmt: skip


def infer(work: Path, _: str, files: list[Path]) -> list[str]:
    return [sys.executable, "-m", "hermes", "infer", str(work / "endpoint.json"), "double",
            "--output-dir", str(work / "out"), "--input-map", '{"x": "x"}',
            "--", *map(str, files)]  # fmt: skip


def measure_predictions(work: Path, _: str, __: list[Path]) -> list[str]:
    return [sys.executable, "-m", "hermes", "validate", str(work / "out" / "**" / "*.h5"),
            "--target", "target", "--output-dir", str(work / "report")]  # fmt: skip


def validate(workers: int):
    def command(work: Path, _: str, files: list[Path]) -> list[str]:
        pattern = work / "data" / ("few" if len(files) == FEW else "*") / "*.h5"
        return [sys.executable, "-m", "luigi", "--module", "workflows.validate", "Validate",
                "--model-repository", str(work / "models"), "--model-name", "double",
                "--inputs", str(pattern), "--input-map", '{"x": "x"}', "--target", "target",
                "--output-dir", str(work / "out"), "--workers", str(workers),
                "--local-scheduler"]  # fmt: skip

    return command


STEPS = {
    BESIDE: plain,
    "hermes infer": infer,
    MEASURE: measure_predictions,
    "Validate, 1 worker": validate(1),
    "Validate, 3 workers": validate(3),
    AGAIN: validate(3),
}


def run(command: list[str]) -> tuple[float, float]:
    """Return the seconds of a command: on the clock, and of the processors."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cost(few, many, n_files: int) -> dict[str, float]:
    wall, cpu = (1e3 * (many[i] - few[i]) / (n_files - FEW) for i in range(2))
    return {"ms": wall, "cpu_ms": cpu, "start_s": few[0], "all_s": many[0]}


def merge_and_copy(work: Path, mb: int) -> dict[str, float]:
    """Return how many GB/s of predictions are merged, and are copied by `cp`, onto the disk."""
    parts = work / "parts"
    if not parts.exists():
        rows = np.random.default_rng(0).random(
            (mb * (1 << 20) // N_PARTS // 4096, 1024), np.float32
        )
        for number in range(N_PARTS):
            part = OutputFile(parts / f"{number}.h5").create()
            part.create_dataset("y", rows.shape, rows.dtype)
            part.write("y", 0, rows)
            part.publish("")
    files = sorted(parts.glob("*.h5"))
    seconds = {}
    for name, command in {
        "merge": lambda: merge_files(files, work / "merged.h5"),
        "plain script": lambda: subprocess.run(
            [sys.executable, HERE / "_plain.py", "merge", work / "merged.h5", *files], check=True
        ),
        "cp": lambda: subprocess.run(["cp", *files, work / "copies"], check=True),
    }.items():
        shutil.rmtree(work / "copies", ignore_errors=True)
        (work / "copies").mkdir()
        (work / "merged.h5").unlink(missing_ok=True)
        started = time.perf_counter()
        command()
        os.sync()
        seconds[name] = time.perf_counter() - started
    return {name: mb / 1000 * 1.048576 / took for name, took in seconds.items()}


def merge_files(files: list[Path], output: Path) -> None:
    parts = []
    for file in files:
        with h5py.File(file) as opened:
            parts.append(Part(input_files=(file,), predictions=file, rows=len(opened["y"])))
    merge(parts, output, target=None, fingerprint="", attributes={}, on_progress=lambda *_: None)


def show(costs, merging, options) -> None:
    print(f"\n{options.files} files of {options.rows} rows of 32 B")
    titles = f"{'':<22}{'ms a file':>10}{'CPU ms':>8}{'start s':>9}{'all s':>8}"
    print(f"{titles}   / {BESIDE}")
    for name, runs in costs.items():
        medians = [statistics.median(each[key] for each in runs) for key in runs[0]]
        numbers = "{:10.2f}{:8.2f}{:9.2f}{:8.1f}".format(*medians)
        pairs = zip(runs, costs[BESIDE], strict=True)
        print(
            f"{name:<22}{numbers}   {spread([ours['ms'] / plain['ms'] for ours, plain in pairs])}"
        )
    rate = statistics.median(each["merge"] for each in merging)
    for other in (BESIDE, "cp"):
        ratios = spread([each["merge"] / each[other] for each in merging])
        print(f"merge: {rate:.2f} GB/s, / {other}: {ratios}")
    print(f"\n{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the end")
    if options.output:
        facts = {"costs": costs, "merging_gb_per_s": merging, "load": os.getloadavg()}
        Path(options.output).write_text(json.dumps(facts, indent=2))


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
