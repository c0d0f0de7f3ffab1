"""Clients of one Triton server side by side: the same files, interleaved repetitions.

    python benchmarks/client.py                  a table on the terminal, and client.json
    python benchmarks/client.py --shapes 16384x128 --repeat 5 --seconds 4
    python benchmarks/client.py --memory-gb 50   also: the memory that a file of 50 GB takes

The columns are this client with shared memory, with HTTP and with GRPC; a loop over tritonclient's
`async_infer`; the clients of ml4gw-hermes 0.3.1 and nvidia-pytriton, each in an environment of
its own, made in --cache; and as the bound NVIDIA's perf_analyzer, which reads no file and sends
the same tensors again and again. What cannot be had here is left out, and said.

The server's model is small on purpose: it gives each row's first value, plus one. What is
measured is the way there and back.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import h5py
import numpy as np

from hermes.aeriel.serve import serve

HERE = Path(__file__).resolve().parent
IN_FLIGHT = 3  # two more than the model has instances, for everybody
FILE_BYTES = 256 << 20
SHAPES = ("64x1", "64x4096", "4096x1", "4096x256", "16384x1", "16384x128", "1048576x1",
          "1048576x16", "4096xsequence")  # fmt: skip
PEERS = {"ml4gw-hermes": "ml4gw-hermes==0.3.1", "pytriton": "nvidia-pytriton==0.7.0"}
OURS = ("hermes shm", "hermes http", "hermes grpc")
BOUNDS = ("perf_analyzer shm", "perf_analyzer")
# What each of our columns is compared with.
RATIOS = {
    "hermes shm": ("perf_analyzer shm", "async_infer", "ml4gw-hermes", "pytriton"),
    "hermes http": ("perf_analyzer", "async_infer", "ml4gw-hermes", "pytriton"),
    "hermes grpc": ("perf_analyzer", "async_infer", "ml4gw-hermes", "pytriton"),
}

MODEL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(r, "x").as_numpy() for r in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", x[:, :1] + 1)]) for x in arrays]
"""
STATEFUL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x, starts, ends, sequence = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("x", "start", "end", "id")
        )
        sequence = int(sequence.item())
        before = 0 if starts.item() else self.sums[sequence]
        self.sums[sequence] = before + x[:, :1]
        y = pb_utils.Tensor("y", self.sums[sequence])
        if ends.item():
            del self.sums[sequence]
        return pb_utils.InferenceResponse([y])
"""
CONFIG = """
backend: "python"
max_batch_size: %d
input [{ name: "x", data_type: TYPE_FP32, dims: [%d] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [1] }]
"""
BATCHING = """
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  oldest { max_candidate_sequences: 4 }
  control_input [
    { name: "start" control [{ kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 1] }] },
    { name: "end" control [{ kind: CONTROL_SEQUENCE_END fp32_false_true: [0, 1] }] },
    { name: "id" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }] }
  ]
}
"""
IN_A_PROCESS = """
import json, sys
from pathlib import Path
from _column import peak_memory_mb
from hermes.aeriel.client import Endpoint, InferenceClient
from hermes.aeriel.files import InferenceOptions, Request, infer_file
grpc, http, model, file, output = sys.argv[1:]
with InferenceClient(Endpoint(grpc=grpc, http=http), model) as client:
    request = Request(input_files=(Path(file),), output_file=Path(output),
                      options=InferenceOptions(model_name=model), fingerprint="", provenance={})
    done = infer_file(client, request, lambda *_: None)
print(json.dumps({"peak_memory_mb": peak_memory_mb(), "rows": done.rows, "seconds": done.seconds}))
"""


def main() -> None:
    options = parse()
    columns = prepare(options)
    results = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory(prefix="hermes-benchmark-") as scratch:
        models, data = Path(scratch, "models"), Path(scratch)
        files = {shape: write_shape(models, data, shape) for shape in options.shapes}
        with serve(models, ports="auto", wait=True) as server:
            for repetition in range(options.repeat):
                for shape in options.shapes:
                    for column in random.sample(columns, len(columns)):
                        numbers = measure(column, shape, files[shape], server.endpoint, options)
                        if numbers is not None:
                            results[shape][column].append(numbers)
                            rate = f"{column:<18} {numbers['rows_per_s']:12.0f} rows/s"
                            print(f"{repetition + 1}. {shape:>15} {rate}", file=sys.stderr)
            memory = None
            if options.memory_gb:
                memory = measure_memory(options.memory_gb, models, data, server.endpoint)
    summary = {"machine": machine(), "options": vars(options), "shapes": summarize(results)}
    if memory is not None:
        summary["memory"] = memory
    Path(options.output).write_text(json.dumps(summary, indent=2, default=str))
    show(summary)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="BYTES-OF-A-ROWxROWS")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--columns", nargs="+", help="only these")
    parser.add_argument("--memory-gb", type=float, help="size of a sparse file to stream")
    parser.add_argument("--output", default="client.json")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    parser.add_argument("--cache", type=Path, default=cache / "hermes" / "benchmark")
    return parser.parse_args()


def prepare(options) -> list[str]:
    """Return the columns that can be measured here."""
    columns = [*OURS, "async_infer"]
    for name, package in PEERS.items():
        if bring(name, [package, "h5py"], options.cache):
            columns.append(name)
    analyzer = options.cache / "perf-analyzer"
    script = [str(HERE / "install-perf-analyzer.sh"), str(analyzer)]
    if subprocess.run(script, check=False, stdout=sys.stderr).returncode == 0:
        columns += BOUNDS
    else:
        print("perf_analyzer cannot run here: there is no bound to compare with", file=sys.stderr)
    return [column for column in columns if column in (options.columns or columns)]


def bring(name, packages, cache) -> bool:
    """Make an environment for a peer, once; tell whether that worked."""
    environment = cache / name
    if (environment / "READY").exists():
        return True
    commands = (
        [sys.executable, "-m", "venv", "--clear", str(environment)],
        [str(environment / "bin" / "python"), "-m", "pip", "install", "-q", *packages],
    )
    for command in commands:
        if subprocess.run(command, check=False, stdout=sys.stderr).returncode != 0:
            print(f"{name} cannot be installed here: it is left out", file=sys.stderr)
            return False
    (environment / "READY").touch()
    return True


def write_shape(models: Path, data: Path, shape: str) -> Path:
    """Write the model and the file of a shape; return the file."""
    row_bytes, batch = split(shape)
    directory = models / shape / "1"
    directory.mkdir(parents=True)
    stateful = shape.endswith("sequence")
    (directory / "model.py").write_text(STATEFUL if stateful else MODEL)
    config = CONFIG % (batch, row_bytes // 4) + (BATCHING if stateful else "")
    (directory.parent / "config.pbtxt").write_text(config)
    file = data / f"{row_bytes}.h5"
    if not file.exists():
        rows = FILE_BYTES // row_bytes
        with h5py.File(file, "w") as opened:
            dataset = opened.create_dataset("x", (rows, row_bytes // 4), "f4")
            step = max(1, (16 << 20) // row_bytes)
            random_numbers = np.random.default_rng(0)
            for begin in range(0, rows, step):
                end = min(begin + step, rows)
                dataset[begin:end] = random_numbers.random((end - begin, row_bytes // 4), "f4")
    return file


def split(shape: str) -> tuple[int, int]:
    row_bytes, batch = shape.split("x")
    return int(row_bytes), 1 if batch == "sequence" else int(batch)


def measure(column, shape, file, endpoint, options):
    """Return the numbers of one measurement; None where the column cannot do the shape."""
    sequence = shape.endswith("sequence")
    if column in BOUNDS:
        return analyze(column, shape, endpoint, options)
    if sequence and column in PEERS:
        return None  # neither streams updates to a sequence of one model
    python = options.cache / column / "bin" / "python" if column in PEERS else sys.executable
    name = f"{column} sequence" if sequence else column
    arguments = [name, endpoint.grpc, endpoint.http, shape, file, split(shape)[1],
                 options.seconds, IN_FLIGHT]  # fmt: skip
    done = run([python, HERE / "_column.py", *arguments])
    return None if done is None else json.loads(done.splitlines()[-1])


def analyze(column, shape, endpoint, options):
    """Return perf_analyzer's numbers."""
    batch = split(shape)[1]
    sequence = shape.endswith("sequence")
    window_ms = str(int(1e3 * options.seconds))
    command = [
        options.cache / "perf-analyzer" / "perf_analyzer",
        *("-m", shape, "-i", "grpc", "-u", endpoint.grpc, "-b", batch),
        *("--concurrency-range", 1 if sequence else IN_FLIGHT),
        # One window is enough: the repetitions show the spread.
        *("--measurement-interval", window_ms, "-s", "999"),
    ]
    if sequence:
        command += ["--sequence-length", "100000"]
    if column.endswith("shm"):
        size = str(max(4096, 4 * batch))
        command += ["--shared-memory", "system", "--output-shared-memory-size", size]
    before = os.times()
    text = run(command)
    after = os.times()
    if text is None:
        return None
    rate = float(re.findall(r"throughput: ([\d.e+]+) infer/sec", text)[-1])
    row_bytes = split(shape)[0]
    cpu = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    counted = int(re.findall(r"Request count: (\d+)", text)[0]) * batch
    return {
        "rows_per_s": rate,
        "megabytes_per_s": rate * row_bytes / 1e6,
        "p50_ms": float(re.findall(r"p50 latency: (\d+) usec", text)[0]) / 1e3,
        "p99_ms": float(re.findall(r"p99 latency: (\d+) usec", text)[0]) / 1e3,
        "peak_memory_mb": None,
        "cpu_s_per_million_rows": 1e6 * cpu / max(1, counted),
    }


def run(command) -> str | None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True, text=True, check=False, timeout=300, env=environment,
    )  # fmt: skip
    if done.returncode != 0:
        print(f"{command[0]} {command[2]}: {(done.stderr or done.stdout)[-600:]}", file=sys.stderr)
        return None
    return done.stdout


def measure_memory(size_gb, models, data, endpoint):
    """Return what a sparse file of this size takes, as a whole task does it."""
    shape = next(model.name for model in models.iterdir() if "sequence" not in model.name)
    row_bytes = split(shape)[0]
    file = data / "sparse.h5"
    with h5py.File(file, "w") as opened:
        shape = int(size_gb * 1e9) // row_bytes, row_bytes // 4
        opened.create_dataset("x", shape, "f4")[:1] = 0  # sparse, but written
    started = time.perf_counter()
    command = [sys.executable, "-c", IN_A_PROCESS, endpoint.grpc, endpoint.http, shape,
               file, data / "predictions.h5"]  # fmt: skip
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=True, cwd=HERE
    )
    took = time.perf_counter() - started
    return {"input_gb": size_gb, "shape": shape, "wall_s": took, **json.loads(done.stdout)}


def summarize(results):
    """Return medians and ratios; a ratio is taken within a repetition, then over them."""
    summary = {}
    for shape, columns in results.items():
        ratios = {}
        for ours, others in RATIOS.items():
            for other in others:
                pairs = zip(columns.get(ours, ()), columns.get(other, ()), strict=False)
                values = [a["rows_per_s"] / b["rows_per_s"] for a, b in pairs]
                if values:
                    ratios[f"{ours} / {other}"] = [
                        statistics.median(values), min(values), max(values)
                    ]  # fmt: skip
        summary[shape] = {
            "median": {
                column: {
                    name: statistics.median([one[name] for one in runs])
                    for name in runs[0] if runs[0][name] is not None
                }
                for column, runs in columns.items()
            },
            "ratios": ratios,
            "runs": columns,
        }  # fmt: skip
    return summary


def show(summary) -> None:
    for shape, one in summary["shapes"].items():
        row_bytes, batch = shape.split("x")
        print(f"\nrows of {int(row_bytes)} B, {batch} a request")
        print(f"{'':<20}{'rows/s':>11}{'MB/s':>9}{'p50 ms':>9}{'p99 ms':>9}"
              f"{'MB peak':>9}{'CPU s/1e6':>11}")  # fmt: skip
        for column, median in one["median"].items():
            peak = f"{median['peak_memory_mb']:9.0f}" if "peak_memory_mb" in median else f"{'':9}"
            print(f"{column:<20}{median['rows_per_s']:11.0f}{median['megabytes_per_s']:9.1f}"
                  f"{median['p50_ms']:9.2f}{median['p99_ms']:9.2f}{peak}"
                  f"{median['cpu_s_per_million_rows']:11.1f}")  # fmt: skip
        for name, (median, low, high) in one["ratios"].items():
            print(f"  {name:<36} {median:6.2f}  ({low:.2f} to {high:.2f})")
    if "memory" in summary:
        memory = summary["memory"]
        print(f"\n{memory['input_gb']:g} GB through a process of {memory['peak_memory_mb']:.0f} MB "
              f"in {memory['wall_s']:.0f} s ({memory['shape']})")  # fmt: skip


def machine():
    model = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {"cpu": model[0] if model else "?", "cores": os.cpu_count(),
            "load_at_the_end": os.getloadavg()}  # fmt: skip


if __name__ == "__main__":
    main()
