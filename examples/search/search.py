"""A search for chirps in the strain of two detectors: background, injections, and what they say.

    export PYTHONPATH=examples/search
    luigi --module search Search --directory search --local-scheduler

Both runs of the model are `Merge` tasks of `workflows.validate`. They share a server, which is gone
when the second has ended.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import luigi
import numpy as np
from bank import N_TIMES, WINDOW
from events import cluster, efficiency, false_alarm_rate_hz, nearest
from numpy.typing import NDArray
from page import page_of
from simulate import DETECTORS

from workflows.parameters import AbsolutePath
from workflows.validate import Merge

GAP_S = 0.2  # between two events
NEAR_S = 0.1  # between an injection and the event that has found it
STRENGTHS = np.arange(4, 17, 1.0)


class Search(luigi.Task):
    """Events of the data that were not slid, with false-alarm rates, and the efficiency.

    Parameters
    ----------
    directory
        With what ``simulate.py`` and ``bank.py`` make; ``results`` is written there.
    background_slides
        How many time slides the background is made of, beside the data as they are.
    """

    directory = AbsolutePath()
    background_slides = luigi.IntParameter(default=12)

    def scores(self, data: str, **slides: Any) -> Merge:
        """Return the task that runs the data of a directory through the bank."""
        directory = Path(self.directory)
        merge: Merge = self.clone(
            Merge,
            model_repository=str(directory / "models"),
            model_name="bank",
            inputs=(str(directory / data / "*.h5"),),
            input_map={"strain": [f"{name}:SIM-STRAIN" for name in DETECTORS]},
            cast=True,
            window=str(WINDOW),
            stride=str(N_TIMES),
            keep="snr > 0",
            output_dir=str(directory / "results" / data),
            **slides,
        )
        return merge

    def requires(self) -> dict[str, Merge]:
        """Return the background with what was found, and the injections."""
        # Slide 0 is the data as they are.
        slides = {"n_slides": self.background_slides + 1, "slide_step": "1s"}
        return {"noise": self.scores("noise", **slides), "injections": self.scores("injections")}

    def output(self) -> dict[str, luigi.LocalTarget]:
        """Return the numbers, and the page that shows them."""
        results = Path(self.directory) / "results"
        return {name: luigi.LocalTarget(results / f"search.{name}") for name in ("json", "html")}

    def run(self) -> None:
        """Cluster, count and draw."""
        noise, live_time_s = read_events(Path(self.input()["noise"].path))
        foreground = noise[noise["slide"] == 0]
        background = np.sort(noise["snr"][noise["slide"] > 0])
        with h5py.File(Path(self.directory) / "injections.h5") as hdf5:
            injections = {name: hdf5[name][:] for name in hdf5}
        triggers, _ = read_events(Path(self.input()["injections"].path))
        threshold = float(background[-1])
        event = nearest(injections["time"], triggers["time"], NEAR_S)
        is_found = (event >= 0) & (triggers["snr"][event] > threshold)
        loudest = foreground[np.argmax(foreground["snr"])]
        rate_hz = false_alarm_rate_hz(loudest["snr"], background, live_time_s[1:].sum())
        numbers = {
            "live_time_s": float(live_time_s[0]),
            "background_live_time_s": float(live_time_s[1:].sum()),
            "background_events": len(background),
            "loudest_time": float(loudest["time"]),
            "loudest_snr": float(loudest["snr"]),
            "false_alarm_rate_hz": float(rate_hz),
            "threshold": threshold,
            "injections": len(is_found),
            "found": int(is_found.sum()),
            "strengths": STRENGTHS.tolist(),
            "efficiency": efficiency(is_found, injections["snr"], STRENGTHS),
        }
        page = page_of(numbers, background, foreground["snr"], injections, is_found)
        for name, text in (("html", page), ("json", json.dumps(numbers, indent=1))):
            with self.output()[name].open("w") as file:
                file.write(text)


def read_events(merged: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the events of a merged file (time, snr, slide), and the live time of each slide."""
    with h5py.File(merged) as hdf5:
        index, snr = hdf5["index"], hdf5["snr"][:, 0]
        rows = np.empty(len(snr), [("time", float), ("snr", float), ("slide", int)])
        rows["time"] = index["time"][:] + hdf5["delay"][:, 0]
        rows["snr"] = snr
        rows["slide"] = index["slide"][:] if "slide" in index else 0
        live_time_s = index["live_time"][:] if "slide" in index else [hdf5.attrs["live_time_s"]]
    slides = [rows[rows["slide"] == slide] for slide in range(len(live_time_s))]
    events = [slide[cluster(slide["time"], slide["snr"], GAP_S)] for slide in slides]
    return np.concatenate(events), np.asarray(live_time_s)
