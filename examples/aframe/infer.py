"""The inference stage of aframe: background and injections through a stateful model, to events.

    export PYTHONPATH=examples/aframe
    luigi --module infer Events --directory aframe --local-scheduler

Every segment runs once for each time slide. Its strain, and the same strain with injections, are
two sequences side by side. Their scores are integrated over a second and clustered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import luigi
import numpy as np
from ledger import inject, read

from workflows.parameters import AbsolutePath
from workflows.validate import Merge, Predict

RATE_HZ = 16  # of the scores


def cluster(scores: Any, half: int) -> list[int]:
    """Return the indices of scores that none of the next ones, half a window of them, exceeds."""
    found, index = [], int(np.argmax(scores[:half]))
    while index < len(scores):
        ahead = scores[index + 1 :][:half]
        if len(ahead) and ahead.max() > scores[index]:
            index += 1 + int(ahead.argmax())
        else:
            found.append(index)
            index += 1 + half
    return found


class PredictSegment(Predict):
    """The scores of a segment, with and without injections, for each time slide."""

    injections = AbsolutePath()
    variants = ("background", "foreground")

    def preprocess(self, inputs: Any, rows: Any) -> dict[str, dict[str, Any]]:
        """Return updates of strain, (updates, ifos, samples), as they are and with injections."""
        updates = inputs["stream"].astype(np.float32)
        strain = updates.swapaxes(0, 1).reshape(updates.shape[1], -1)
        shifts_s = np.array(rows.windows.shifts) / rows.windows.sample_rate
        strain = inject(strain, rows.start_time, shifts_s, read(self.injections))
        injected = strain.reshape(len(strain), len(updates), -1).swapaxes(0, 1)
        return {"background": {"stream": updates}, "foreground": {"stream": injected}}


class Scores(Merge):
    """The scores of all segments."""

    injections = AbsolutePath()
    predict_task = PredictSegment


class Events(luigi.Task):
    """The events of background and foreground, by segment and time slide."""

    directory = AbsolutePath()

    def requires(self) -> Scores:
        """Return the scores."""
        directory = Path(self.directory)
        scores: Scores = self.clone(
            Scores,
            model_repository=str(directory / "models"),
            model_name="aframe-stream",
            inputs=(str(directory / "background" / "*.hdf5"),),
            input_map={"stream": ("H1", "L1")},
            shifts=((0, 0), (0, 1), (0, 2)),
            window="2048",  # an update
            injections=str(directory / "injections.hdf5"),
            output_dir=str(directory / "scores"),
        )
        return scores

    def output(self) -> luigi.LocalTarget:
        """Return the file of the events."""
        return luigi.LocalTarget(Path(self.directory) / "events.hdf5")

    def run(self) -> None:
        """Integrate, cluster, and look for the injections."""
        with (
            h5py.File(self.input().path) as merged,
            self.output().temporary_path() as path,
            h5py.File(path, "w") as events,
        ):
            index = merged["index"]
            events["live_time"] = index["live_time"][:]
            parts = np.stack([index["file"][:], index["slide"][:]], axis=1)
            for file, slide in np.unique(parts, axis=0):
                rows = (parts == (file, slide)).all(axis=1)
                for variant in PredictSegment.variants:
                    scores = merged[f"{variant}.score"][rows].ravel()
                    scores = np.convolve(scores, np.full(RATE_HZ + 1, 1 / (RATE_HZ + 1)))
                    found = cluster(scores[:-RATE_HZ], RATE_HZ)
                    group = events.create_group(f"{variant}/{file}/{slide}")
                    group["detection_statistic"] = scores[found]
                    group["time"] = index["time"][rows][0] + np.array(found) / RATE_HZ
