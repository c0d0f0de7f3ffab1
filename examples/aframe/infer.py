"""The inference stage of aframe: background and injections through a stateful model, to events.

    export PYTHONPATH=examples/aframe
    luigi --module infer Events --directory aframe --local-scheduler

Each segment is read once for each time slide. Its strain, and the same with injections, are two sequences
side by side; the scores are integrated over a second, and clustered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import luigi
import numpy as np

from workflows.parameters import AbsolutePath
from workflows.validate import Merge, Predict

SHIFTS = (("0s", "0s"), ("0s", "1s"), ("0s", "2s"))
BACKGROUND, FOREGROUND = VARIANTS = ("background", "foreground")


def inject(strain: Any, start_time: float, shifts_s: Any, file: str) -> Any:
    """Return strain (ifos, samples) with the injections of these shifts."""
    strain = strain.copy()
    with h5py.File(file) as hdf5:
        before = int(hdf5.attrs["coalescence_time"] * hdf5.attrs["sample_rate"])
        first = (hdf5["parameters/injection_time"][:] - start_time) * hdf5.attrs[
            "sample_rate"
        ] - before
        for number in np.flatnonzero((hdf5["parameters/shift"][:] == shifts_s).all(axis=1)):
            begin = int(np.floor(first[number]))
            for channel, ifo in zip(strain, ("h1", "l1"), strict=True):
                wave = hdf5[f"waveforms/{ifo}"][number]
                here = slice(max(0, begin), max(0, min(len(channel), begin + len(wave))))
                channel[here] += wave[max(0, -begin) :][: here.stop - here.start]
    return strain


def integrate(scores: Any, size: int) -> Any:
    """Return the mean of the last scores at each time."""
    return np.convolve(scores, np.ones(size) / size)[: len(scores)]


def cluster(scores: Any, half: int) -> Any:
    """Return the indices of scores that nothing in half a window on either side exceeds."""
    padded = np.pad(scores, half, constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    return np.flatnonzero(windows.argmax(axis=1) == half)


class PredictSegment(Predict):
    injections = AbsolutePath()
    variants = VARIANTS

    def preprocess(self, inputs, rows):
        x = inputs["stream"].astype(np.float32)  # (updates, ifos, samples)
        strain = x.swapaxes(0, 1).reshape(x.shape[1], -1)
        shifts_s = np.array(rows.windows.shifts) / rows.windows.sample_rate
        strain = inject(strain, rows.start_time, shifts_s, self.injections)
        injected = strain.reshape(x.shape[1], len(x), -1).swapaxes(0, 1)
        return {BACKGROUND: {"stream": x}, FOREGROUND: {"stream": injected}}


class Scores(Merge):
    injections = AbsolutePath()
    predict_task = PredictSegment


class Events(luigi.Task):
    directory = AbsolutePath()

    def requires(self):
        directory = Path(self.directory)
        return Scores(
            model_repository=str(directory / "models"),
            model_name="aframe-stream",
            inputs=(str(directory / "background" / "*.hdf5"),),
            input_map={"stream": ("H1", "L1")},
            shifts=SHIFTS,
            window="2048",
            injections=str(directory / "injections.hdf5"),
            output_dir=str(directory / "scores"),
        )

    def output(self):
        return luigi.LocalTarget(Path(self.directory) / "events.hdf5")

    def run(self):
        with h5py.File(self.input().path) as merged, self.output().temporary_path() as path:
            index = merged["index"]
            parts = list(zip(index["file"][:], index["slide"][:], strict=True))
            with h5py.File(path, "w") as events:
                for variant in VARIANTS:
                    scores = merged[f"{variant}.score"][:]
                    for part in dict.fromkeys(parts):
                        rows = np.flatnonzero([each == part for each in parts])
                        y = integrate(scores[rows].ravel(), 17)
                        found = cluster(y, 32)
                        group = events.create_group(f"{variant}/{part[0]}/{part[1]}")
                        group["detection_statistic"] = y[found]
                        group["detection_time"] = index["time"][rows[0]] + found / 16
                events["live_time"] = index["live_time"][:]
