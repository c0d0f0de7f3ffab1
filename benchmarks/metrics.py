"""What metrics and the report cost: seconds, and memory, each in a process of its own.

    python benchmarks/metrics.py
    python benchmarks/metrics.py --rows 100000000 --repeat 1

Beside each family of metrics the same numbers by scikit-learn, with all rows in memory.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

FAMILIES = (["accuracy", "log_loss"], ["roc_auc", "average_precision"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10**7)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)  # a process of the table
    options = parser.parse_args()
    if options.only:
        by, names, file = options.only
        __import__({"hermes": "hermes.aeriel.metrics", "scikit-learn": "sklearn.metrics"}[by])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        {"hermes": ours, "scikit-learn": theirs}[by](names.split(","), Path(file))
        took = time.perf_counter() - started
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(took, (most - before) / 1024)
        return
    with tempfile.TemporaryDirectory(prefix="hermes-metrics-") as scratch:
        file = Path(scratch) / "rows.h5"
        write(file, options.rows)
        found = {
            (",".join(names), by): []
            for names in FAMILIES
            for by in ("hermes", "scikit-learn")
        }  # fmt: skip
        for _ in range(options.repeat):
            for (names, by), runs in found.items():
                command = [sys.executable, __file__, "--only", by, names, str(file)]
                said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                runs.append([float(number) for number in said.split()])
    print(f"{options.rows} rows, two classes; seconds (least to most), MiB of memory")
    for (names, by), runs in found.items():
        seconds, memory = zip(*runs, strict=True)
        spread = f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
        print(f"{names:<28}{by:<14}{spread:<24}{max(memory):6.0f}")


def write(file: Path, n_rows: int) -> None:
    random = np.random.default_rng(0)
    with h5py.File(file, "w") as opened:
        opened.create_dataset("scores", (n_rows,), np.float32)
        opened.create_dataset("labels", (n_rows,), np.int8)
        for begin in range(0, n_rows, 1 << 20):
            labels = random.integers(0, 2, min(1 << 20, n_rows - begin), np.int8)
            logits = random.standard_normal(len(labels)) + labels
            opened["labels"][begin : begin + len(labels)] = labels
            opened["scores"][begin : begin + len(labels)] = 1 / (1 + np.exp(-logits))


def ours(names: list[str], file: Path) -> None:
    from hermes.aeriel.metrics import compute_metrics

    with h5py.File(file) as opened:
        compute_metrics(names, opened["scores"], opened["labels"])


def theirs(names: list[str], file: Path) -> None:
    from sklearn import metrics

    with h5py.File(file) as opened:
        scores, labels = opened["scores"][:].astype(np.float64), opened["labels"][:]
    computed = {
        "accuracy": lambda: metrics.accuracy_score(labels, scores > 0.5),
        "log_loss": lambda: metrics.log_loss(labels, scores),
        "roc_auc": lambda: metrics.roc_auc_score(labels, scores),
        "average_precision": lambda: metrics.average_precision_score(labels, scores),
    }
    for name in names:
        computed[name]()


if __name__ == "__main__":
    main()
