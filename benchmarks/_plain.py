"""What a script does that somebody writes for one evening: h5py, tritonclient, and nothing else.

    python benchmarks/_plain.py infer ENDPOINT MODEL OUTPUT_DIR FILE…
    python benchmarks/_plain.py merge OUTPUT FILE…

It takes no care of a run that is killed, of memory, of a server that is lost, or of what it writes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np


def infer(address: str, model: str, output_dir: str, *files: str) -> None:
    import tritonclient.grpc as triton

    Path(output_dir).mkdir(parents=True, exist_ok=True)
    with triton.InferenceServerClient(address) as client:
        for file in files:
            with h5py.File(file) as opened:
                rows = opened["x"][:]
            given = triton.InferInput("x", rows.shape, "FP32")
            given.set_data_from_numpy(rows)
            answer = client.infer(model, [given])
            with h5py.File(Path(output_dir) / Path(file).name, "w") as written:
                written["y"] = answer.as_numpy("y")


def merge(output: str, *files: str) -> None:
    with h5py.File(output, "w") as written:
        parts = []
        for file in files:
            with h5py.File(file) as opened:
                parts.append(opened["y"][:])
        written["y"] = np.concatenate(parts)


if __name__ == "__main__":
    {"infer": infer, "merge": merge}[sys.argv[1]](*sys.argv[2:])
