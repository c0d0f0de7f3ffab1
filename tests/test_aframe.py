"""The inference stage of aframe, rebuilt in examples/aframe: equal to numpy, to the bit."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.test_docs import ROOT, run_block

EXAMPLE = ROOT / "examples" / "aframe"
Array = NDArray[Any]


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """What examples/aframe/synthetic.py defines."""
    return runpy.run_path(str(EXAMPLE / "synthetic.py"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, made: dict[str, Any], triton_home: Path) -> Path:
    directory = tmp_path_factory.mktemp("aframe")
    made["main"](directory)
    command = "luigi --module infer Events --directory . --workers 2 --local-scheduler"
    run_block("sh", f"PYTHONPATH='{EXAMPLE}' {command}", directory, triton_home)
    return directory


def scores_of(strain: Array, made: dict[str, Any]) -> Array:
    """Return the network's score of the second before each stride, of whole updates alone."""
    n_updates = strain.shape[1] // made["STEP"]
    stream = np.pad(strain[:, : n_updates * made["STEP"]], ((0, 0), (made["STATE"], 0)))
    windows = np.lib.stride_tricks.sliding_window_view(stream, made["KERNEL"], axis=1)
    scores: Array = (windows[:, :: made["STRIDE"]] @ (made["signal"]() / 64)).sum(axis=0)
    return scores.astype(np.float32)


def expected(directory: Path, made: dict[str, Any], file: int, slide: int) -> dict[str, Array]:
    """Return the scores of a segment and a slide: samples are injected one by one."""
    start, seconds = made["SEGMENTS"][file]
    rate, shifts = made["SAMPLE_RATE"], made["SHIFTS_S"][slide]
    with h5py.File(directory / "background" / f"background-{start}-{seconds}.hdf5") as hdf5:
        length = (seconds - max(shifts)) * rate
        strain = np.stack(
            [
                hdf5[ifo][shift * rate : shift * rate + length]
                for ifo, shift in zip(made["IFOS"], shifts, strict=True)
            ]
        ).astype(np.float32)
    injected = strain.copy()
    with h5py.File(directory / "injections.hdf5") as hdf5:
        for number, time in enumerate(hdf5["parameters/injection_time"][:]):
            if tuple(hdf5["parameters/shift"][number]) != shifts:
                continue
            first = round((time - made["COALESCENCE_S"] - start) * rate)
            for channel, ifo in enumerate(("h1", "l1")):
                for offset, value in enumerate(hdf5[f"waveforms/{ifo}"][number]):
                    if 0 <= first + offset < length:
                        injected[channel, first + offset] += value
    return {"background": scores_of(strain, made), "foreground": scores_of(injected, made)}


@pytest.mark.parametrize("slide", [0, 1, 2])
@pytest.mark.parametrize("file", [0, 1])
def test_scores_are_those_of_numpy(run: Path, made: dict[str, Any], file: int, slide: int) -> None:
    wanted = expected(run, made, file, slide)
    with h5py.File(run / "scores" / "merged.h5") as merged:
        rows = (merged["index/file"][:] == file) & (merged["index/slide"][:] == slide)
        for variant, scores in wanted.items():
            found = merged[f"{variant}.score"][rows].ravel()
            assert found.tobytes() == scores.tobytes()
    assert (wanted["background"] != wanted["foreground"]).any()


def test_events_are_the_loudest_scores(run: Path, made: dict[str, Any]) -> None:
    with h5py.File(run / "events.hdf5") as events:
        assert len(events["live_time"]) == len(made["SHIFTS_S"])
        for variant in ("background", "foreground"):
            for file, (start, _) in enumerate(made["SEGMENTS"]):
                for slide in range(len(made["SHIFTS_S"])):
                    scores = expected(run, made, file, slide)[variant]
                    past = np.pad(scores.astype(float), (made["INFERENCE_RATE"], 0))
                    means = np.array([past[i : i + 17].mean() for i in range(len(scores))])
                    group = events[f"{variant}/{file}/{slide}"]
                    loudness, times = group["detection_statistic"][:], group["time"][:]
                    index = ((times - start) * made["INFERENCE_RATE"]).astype(int)
                    np.testing.assert_allclose(loudness, means[index], atol=1e-12)
                    assert np.isclose(loudness.max(), means.max())
                    assert (np.diff(index) > made["INFERENCE_RATE"]).all()


def test_injections_are_found(run: Path) -> None:
    with h5py.File(run / "injections.hdf5") as hdf5, h5py.File(run / "events.hdf5") as events:
        loudest = max(
            group["detection_statistic"][:].max()
            for slides in events["background"].values()
            for group in slides.values()
        )
        parameters = hdf5["parameters"]
        times, strength = parameters["injection_time"][:], parameters["snr"][:]
        found = [
            any(
                (abs(group["time"][:] - time) < 1.5)[
                    group["detection_statistic"][:] > loudest
                ].any()
                for slides in events["foreground"].values()
                for group in slides.values()
            )
            for time in times[strength == strength.max()]
        ]
    assert np.mean(found) > 0.9
