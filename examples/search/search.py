"""A search for chirps in the strain of two detectors: background, injections, and what they say.

    PYTHONPATH=examples/search luigi --module search Search --directory demo-search --local-scheduler

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
from bank import LEAST_SNR, N_TIMES, WINDOW
from events import cluster, efficiency, false_alarm_rate_hz, nearest
from page import write_page
from simulate import DETECTORS

from workflows.parameters import AbsolutePath
from workflows.validate import Merge

GAP_S = 0.2  # between two events
NEAR_S = 0.1  # between an injection and the event that has found it
YEAR_S = 365.25 * 86400
STRENGTHS = np.arange(4, 17, 1.0)


class Search(luigi.Task):
    """Events of the data that were not slid, with false-alarm rates, and the efficiency.

    Parameters
    ----------
    directory
        With what ``simulate.py`` and ``bank.py`` make; ``results`` is written there.
    n_slides
        How many time slides the background is made of, beside the data as they are.
    """

    directory = AbsolutePath()
    n_slides = luigi.IntParameter(default=12)

    def scores(self, data: str, **slides: Any) -> Merge:
        """Return the task that runs the data of a directory through the bank."""
        directory = Path(self.directory)
        return Merge(
            model_repository=str(directory / "models"),
            model_name="bank",
            inputs=(str(directory / data / "*.h5"),),
            input_map={"strain": [f"{name}:SIM-STRAIN" for name in DETECTORS]},
            cast=True,
            window=str(WINDOW),
            stride=str(N_TIMES),
            keep=f"snr > {LEAST_SNR}",
            output_dir=str(directory / "results" / data),
            **slides,
        )

    def requires(self) -> dict[str, Merge]:
        """Return the background with what was found, and the injections."""
        return {
            "noise": self.scores("noise", n_slides=self.n_slides, slide_step="1s"),
            "injections": self.scores("injections"),
        }

    def output(self) -> dict[str, luigi.LocalTarget]:
        """Return the numbers, and the page that shows them."""
        results = Path(self.directory) / "results"
        return {name: luigi.LocalTarget(results / f"search.{name}") for name in ("json", "html")}

    def run(self) -> None:
        """Cluster, count and draw."""
        noise = read_events(Path(self.input()["noise"].path))
        injected = read_events(Path(self.input()["injections"].path))
        found_in = {slide: of_slide(noise, slide) for slide in range(self.n_slides + 1)}
        background = np.concatenate([found_in[slide]["snr"] for slide in range(1, self.n_slides + 1)])
        live_time_s = float(noise["live_time_s"][1:].sum())

        candidates = found_in[0]
        loudest = int(np.argmax(candidates["snr"]))
        with h5py.File(Path(self.directory) / "injections.h5") as hdf5:
            injections = {name: hdf5[name][:] for name in hdf5}
        triggers = of_slide(injected, 0)
        event = nearest(injections["time"], triggers["time"], NEAR_S)
        threshold = float(background.max(initial=LEAST_SNR))
        is_found = (event >= 0) & (triggers["snr"][event] > threshold)
        numbers = {
            "live_time_s": float(noise["live_time_s"][0]),
            "background_live_time_s": live_time_s,
            "background_events": len(background),
            "loudest": {
                "time": float(candidates["time"][loudest]),
                "snr": float(candidates["snr"][loudest]),
                "false_alarms_per_year": YEAR_S
                * float(false_alarm_rate_hz(candidates["snr"][loudest], background, live_time_s)),
            },
            "threshold": threshold,
            "injections": len(is_found),
            "found": int(is_found.sum()),
            "strengths": STRENGTHS.tolist(),
            "efficiency": efficiency(is_found, injections["snr"], STRENGTHS),
        }
        write_page(Path(self.output()["html"].path), numbers, background, candidates, injections, is_found)
        with self.output()["json"].open("w") as file:
            json.dump(numbers, file, indent=1)


if __name__ == "__main__":
    luigi.run()
