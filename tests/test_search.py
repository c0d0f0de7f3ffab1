"""The search of examples/search: its tutorial runs, and it finds what was put into the noise."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
from scipy.stats import binom

from tests.test_docs import ROOT, blocks, run_block

PAGE = ROOT / "docs" / "tutorials" / "search.md"
SIGNAL = 1_400_000_286.2


@pytest.fixture(scope="module")
def events() -> ModuleType:
    specification = importlib.util.spec_from_file_location(
        "events", ROOT / "examples" / "search" / "events.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_tutorial_finds_the_signal(tmp_path: Path, triton_home: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for language, text in blocks(PAGE):
        run_block(language, text, tmp_path, triton_home)
    results = tmp_path / "search" / "results"
    found = json.loads((results / "search.json").read_text())
    assert abs(found["loudest_time"] - SIGNAL) < 0.005
    assert abs(found["loudest_snr"] - 13) < 2  # noise adds about one
    # Nothing in the background is as loud.
    assert found["false_alarm_rate_hz"] == pytest.approx(1 / found["background_live_time_s"])
    shares = [share for share, _, _ in found["efficiency"]]
    assert shares[-1] == 1
    assert shares[0] < 0.2
    with h5py.File(results / "noise" / "merged.h5") as merged:
        slides, times = merged["index/slide"][:], merged["index/time"][:]
        live_time = merged["index/live_time"][:]
    assert found["background_live_time_s"] == live_time[1:].sum()
    assert set(slides) == set(range(13))
    assert times.min() >= 1_400_000_000
    assert "svg" in (results / "search.html").read_text()


def test_events_are_the_loudest_of_what_is_close(events: ModuleType) -> None:
    time = np.array([5.0, 1.0, 1.1, 1.2, 3.0])
    loudness = np.array([1.0, 2.0, 9.0, 3.0, 4.0])
    assert events.cluster(time, loudness, 0.15).tolist() == [2, 4, 0]
    assert len(events.cluster(time[:0], loudness[:0], 0.15)) == 0


def test_a_false_alarm_rate_counts_what_is_as_loud(events: ModuleType) -> None:
    background = np.array([7.0, 5.0, 6.0, 6.0])
    loudness = np.array([4.0, 6.0, 7.0, 8.0])
    rates = events.false_alarm_rate_hz(loudness, background, 10.0)
    assert rates.tolist() == [0.5, 0.4, 0.2, 0.1]


def test_the_nearest_event_within_reach_is_taken(events: ModuleType) -> None:
    times = np.array([1.0, 2.0, 9.0])
    assert events.nearest(times, np.array([2.05, 1.96]), 0.1).tolist() == [-1, 1, -1]
    assert events.nearest(times, np.array([]), 0.1).tolist() == [-1, -1, -1]


def test_an_efficiency_has_its_exact_interval(events: ModuleType) -> None:
    found = np.array([True, True, False, True])
    strength = np.array([1.0, 1.2, 1.4, 2.5])
    (first, second, empty) = events.efficiency(found, strength, np.array([1.0, 2.0, 3.0, 4.0]))
    share, low, high = first
    assert share == pytest.approx(2 / 3)
    # Clopper and Pearson: of either limit, what was seen is as rare as a tail of 16 %.
    assert binom.sf(1, 3, low) == pytest.approx(0.16)
    assert binom.cdf(2, 3, high) == pytest.approx(0.16)
    assert second[0] == second[2] == 1
    assert np.isnan(empty).all()
