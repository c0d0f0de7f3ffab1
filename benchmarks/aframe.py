"""aframe's inference of a segment, with hermes and with the client of ml4gw-hermes, on one server.

    python benchmarks/aframe.py [--seconds 2048] [--repeat 5]

Both read the same strain and inject the same signals; strain with and without them goes through the
stateful model of examples/aframe. hermes also writes the scores, with checkpoints. The two take
turns, and have to have the same scores. Shows the ratio of their rows per second: median (least to
most).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
from client import PEERS, bring

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.files import Hooks, InferenceOptions, Request, infer_file
from hermes.aeriel.serve import serve

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples" / "aframe"
PEER = "ml4gw-hermes"
sys.path.insert(0, str(EXAMPLE))
import infer  # noqa: E402 (of the example)
import synthetic  # noqa: E402 (as above)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=int, default=2048, help="of strain")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--shift", type=int, default=1, help="of the second detector, in seconds")
    options = parser.parse_args()
    cache = Path.home() / ".cache" / "hermes-benchmark"
    if not bring(PEER, [PEERS[PEER], "h5py"], cache):
        sys.exit(1)
    synthetic.SEGMENTS = ((1_300_000_000, options.seconds),)
    ratios = []
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        synthetic.main(directory)
        (background,) = (directory / "background").iterdir()
        with serve(directory / "models", ports="auto", wait=True) as server:
            for repetition in range(options.repeat):
                ours, scores = run_hermes(server.endpoint, background, directory, options.shift)
                theirs, wanted = run_peer(
                    server.endpoint, background, directory, options.shift, cache
                )
                for variant, values in wanted.items():
                    np.testing.assert_array_equal(scores[variant].ravel(), values)
                rows = 2 * len(scores["background"])
                ratios.append(theirs / ours)
                speeds = f"hermes {rows / ours:.0f} rows/s, {PEER} {rows / theirs:.0f} rows/s"
                print(f"{repetition + 1}. {speeds}")
    print(f"{repetition + 1}. hermes {rows / ours:.0f} rows/s, {PEER} {rows / theirs:.0f} rows/s")
    print(
        f"hermes / {PEER}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def run_hermes(endpoint, background, directory, shift):
    task = SimpleNamespace(injections=str(directory / "injections.hdf5"))
    output = directory / "scores.h5"
    output.unlink(missing_ok=True)
    options = InferenceOptions(
        model_name="aframe-stream",
        input_map={"stream": ("H1", "L1")},
        window="2048",
        shifts=("0s", f"{shift}s"),
    )
    hooks = Hooks(
        preprocess=lambda inputs, rows: infer.PredictSegment.preprocess(task, inputs, rows),
        variants=infer.PredictSegment.variants,
    )
    with InferenceClient(endpoint, **options.client()) as client:
        request = Request(
            input_files=(background,),
            output_file=output,
            options=options,
            fingerprint="",
            provenance={},
            hooks=hooks,
        )
        began = time.perf_counter()
        infer_file(client, request, lambda *_: None)
        seconds = time.perf_counter() - began
    with h5py.File(output) as scores:
        return seconds, {name: scores[f"{name}.score"][:] for name in ("background", "foreground")}


def run_peer(endpoint, background, directory, shift, cache):
    output = directory / "peer.npz"
    done = subprocess.run(
        [
            *(cache / PEER / "bin" / "python", HERE / "_aframe_peer.py", endpoint.grpc, background),
            *(directory / "injections.hdf5", str(shift), output),
        ],
        env={**os.environ, "PYTHONPATH": str(EXAMPLE)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout), dict(np.load(output))


if __name__ == "__main__":
    main()
