"""Strain of several detectors through `Validate`: real files, and those that gwpy writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import files as files_of
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.helpers import DOUBLE, wait_until, write_model
from tests.workflows.conftest import Luigi

needs_gwpy = pytest.mark.skipif(find_spec("gwpy") is None, reason="gwpy is not installed")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that double windows of 256 samples of two and of three channels."""
    repository = tmp_path_factory.mktemp("models")
    for name, channels in (("two", 2), ("three", 3)):
        write_model(repository, name, DOUBLE, inputs={"x": ("FP64", [channels, 256])})
    return repository


def validate(luigi: Luigi, models: Path, **parameters: Any) -> str:
    """Run Validate, which has to succeed, and return what it says."""
    code, said = run(luigi, models, **parameters)
    assert code == 0, said
    return said


def run(luigi: Luigi, models: Path, *, overlap: bool = False, **parameters: Any) -> tuple[int, str]:
    result = luigi(*command(models, overlap=overlap, **parameters))
    return result.returncode, result.stdout


def command(models: Path, *, overlap: bool, **parameters: Any) -> list[str]:
    """Return the arguments of the command ``luigi`` that runs Validate."""
    given = {"model_name": "two", "output_dir": "out", "window": "256", **parameters}
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in given.items()
    }
    return [
        "--module=workflows.validate",
        "Validate",
        f"--model-repository={models}",
        *(["--overlap"] if overlap else []),
        *(f"--{name.replace('_', '-')}={text}" for name, text in texts.items()),
    ]


def windows(channels: list[NDArray[Any]], stride: int = 256) -> NDArray[Any]:
    """Return the windows of stacked channels as numpy has them."""
    series = np.stack(channels)
    views = np.lib.stride_tricks.sliding_window_view(series, 256, axis=-1)
    return np.moveaxis(views, 0, 1)[::stride]


@needs_gwpy
def test_a_real_file_of_three_detectors_goes_through(
    luigi: Luigi, models: Path, tmp_path: Path
) -> None:
    name = "HLV-HW100916-968654552-1.hdf"
    (packed,) = [file for file in files_of("gwpy") or () if file.name == name]
    channels = ["V1:h_16384Hz", "H1:LDAS-STRAIN", "L1:LDAS-STRAIN"]
    validate(
        luigi,
        models,
        model_name="three",
        inputs=str(packed.locate()),
        input_map={"x": channels},
        stride="0.0078125s",
    )
    with h5py.File(packed.locate()) as file:
        expected = 2 * windows([file[channel][:] for channel in channels], 128)
    with h5py.File(tmp_path / "out" / "merged.h5") as merged:
        assert np.array_equal(merged["y"], expected)
        assert merged["y"].attrs["sample_rate"] == 128.0
        assert list(merged["index/start_time"]) == [968654552.0]


def write_strain(directory: Path, label: str, begin: int, n_seconds: int, seed: int) -> Any:
    """Write a file with the layout of GWOSC's, and return its strain."""
    strain = 1e-21 * np.random.default_rng(seed).normal(size=n_seconds * 1024)
    with h5py.File(directory / f"{label[0]}-{label}_GWOSC_1KHZ_R1-{begin}-32.hdf5", "w") as file:
        file.create_dataset("strain/Strain", data=strain, compression="gzip", chunks=(1000,))
        file["strain/Strain"].attrs.update(
            {
                "Npoints": len(strain),
                "Xlabel": "GPS time",
                "Xspacing": 1 / 1024,
                "Xstart": begin,
                "Xunits": "second",
                "Ylabel": "Strain",
                "Yunits": "",
            }
        )
        file["meta/GPSstart"] = begin
        file["meta/Detector"] = label
        file["quality/simple/DQmask"] = np.full(n_seconds, 127, "i4")
    return strain


def test_files_of_two_detectors_are_read_side_by_side(
    luigi: Luigi, models: Path, tmp_path: Path
) -> None:
    begins = (1126259447, 1126259479)
    strain = {
        label: [write_strain(tmp_path, label, begin, 8, seed + begin) for begin in begins]
        for seed, label in enumerate(("H1", "L1"))
    }
    given: dict[str, Any] = {
        "inputs": {"H1": "H-*.hdf5", "L1": str(tmp_path / "L-*.hdf5")},
        "input_map": {"x": "strain/Strain"},
        "stride": "0.125s",
    }
    validate(luigi, models, **given)
    expected = [2 * windows(list(pair), 128) for pair in zip(*strain.values(), strict=True)]
    with h5py.File(tmp_path / "out" / "merged.h5") as merged:
        assert np.array_equal(merged["y"], np.concatenate(expected))
        assert list(merged["index/start_time"]) == list(begins)
        files = merged["index/files"].asstr()[:]
        assert files.shape == (2, 2)
        assert files[1, 0] == str(tmp_path / "H-H1_GWOSC_1KHZ_R1-1126259479-32.hdf5")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [each["rows"] for each in report["inputs"]] == [len(rows) for rows in expected]
    assert "L-L1_GWOSC_1KHZ_R1-1126259479-32.hdf5" in report["inputs"][1]["file"]
    # What stands for the result is what all files are: nothing is to do a second time, ...
    assert "ran successfully" not in validate(luigi, models, **given)
    # ... but where the file of the second detector is another one.
    write_strain(tmp_path, "L1", begins[1], 8, 99)
    assert "- 1 Predict(" in validate(luigi, models, **given)
    (tmp_path / f"L-L1_GWOSC_1KHZ_R1-{begins[0]}-32.hdf5").unlink()
    code, said = run(luigi, models, **given)
    assert code != 0
    assert f"H1: {tmp_path}/H-H1_GWOSC_1KHZ_R1-{begins[0]}-32.hdf5" in said


TASKS = """
import luigi

from workflows import InferenceTask, TritonServerTask


class Strain(luigi.ExternalTask):
    file = luigi.Parameter()

    def output(self):
        return luigi.LocalTarget(self.file)


class Score(InferenceTask):
    models = luigi.Parameter()

    def requires(self):
        files = {
            label: Strain(file=f"{label[0]}-{label}_GWOSC_1KHZ_R1-100-32.hdf5")
            for label in ("L1", "H1")
        }
        return {"server": TritonServerTask(model_repository=self.models), "input": files}

    def output(self):
        return luigi.LocalTarget("scores.h5")
"""


def test_a_task_may_require_a_file_for_each_detector(
    luigi: Luigi, models: Path, tmp_path: Path
) -> None:
    strain = [write_strain(tmp_path, label, 100, 2, n) for n, label in enumerate(("H1", "L1"))]
    (tmp_path / "tasks.py").write_text(TASKS)
    options = ["--model-name=two", "--window=256", "--input-map=x=strain/Strain"]
    done = luigi("--module=tasks", "Score", f"--models={models}", *options)
    assert done.returncode == 0, done.stdout
    with h5py.File(tmp_path / "scores.h5") as scores:
        assert np.array_equal(scores["y"], 2 * windows([strain[1], strain[0]]))
        files = json.loads(scores.attrs["input_files"])
    assert [Path(file).name[0] for file in files] == ["L", "H"]


GWPY = """
import numpy as np
from gwpy.timeseries import TimeSeries, TimeSeriesDict

strain = {
    name: TimeSeries(
        np.random.default_rng(seed).normal(size=4096 + 512 * seed),
        sample_rate=1024, t0=1000 + seed, name=name, unit="strain",
    )
    for seed, name in enumerate(("H1:STRAIN", "L1:STRAIN"))
}
TimeSeriesDict(strain).write("both.h5", format="hdf5")
"""


@needs_gwpy
def test_the_overlap_of_series_that_gwpy_wrote_goes_through(
    luigi: Luigi, models: Path, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-c", GWPY], cwd=tmp_path, check=True, timeout=120)
    given: dict[str, Any] = {"inputs": "both.h5", "input_map": {"x": ["H1:STRAIN", "L1:STRAIN"]}}
    code, said = run(luigi, models, **given)
    assert code != 0
    assert "begins at 1001 s, but" in said
    assert "give overlap" in said
    validate(luigi, models, overlap=True, **given)
    with h5py.File(tmp_path / "both.h5") as file:
        expected = 2 * windows([file["H1:STRAIN"][1024:], file["L1:STRAIN"][:3072]])
    with h5py.File(tmp_path / "out" / "merged.h5") as merged:
        assert np.array_equal(merged["y"], expected)
        assert list(merged["index/start_time"]) == [1001.0]


def shifted(strain: NDArray[Any], shifts: list[int], stride: int = 128) -> NDArray[Any]:
    """Return the windows of a time slide as numpy has them; no channel is shifted to earlier."""
    length = strain.shape[1] - max(shifts)
    pairs = zip(strain, shifts, strict=True)
    return windows([channel[shift : shift + length] for channel, shift in pairs], stride)


@pytest.mark.parametrize(
    "asked",
    [
        {"shifts": [[0, 0], [0, 0.5], ["0s", "1024"]]},
        {"n_slides": "3", "slide_step": "0.5s"},
    ],
    ids=["shifts", "n_slides"],
)
def test_every_file_is_run_for_each_time_slide(
    luigi: Luigi, models: Path, tmp_path: Path, asked: dict[str, Any]
) -> None:
    given: dict[str, Any] = {
        "inputs": {"H1": "H-*.hdf5", "L1": "L-*.hdf5"},
        "input_map": {"x": "strain/Strain"},
        "stride": "0.125s",
        **asked,
    }
    strain = [
        np.stack(
            [
                write_strain(tmp_path, label, begin, 4, begin + number)
                for number, label in enumerate(("H1", "L1"))
            ]
        )
        for begin in (100, 200)
    ]
    validate(luigi, models, **given)
    parts = [shifted(x, [0, k * 512]) for k in range(3) for x in strain]
    lengths = [len(part) for part in parts]
    with h5py.File(tmp_path / "out" / "merged.h5") as merged:
        index = merged["index"]
        assert np.array_equal(merged["y"], 2 * np.concatenate(parts))
        assert index["offsets"][:].tolist() == [0, *np.cumsum(lengths)]
        assert index["files"].shape == (2, 2)
        assert np.array_equal(index["file"], np.repeat([0, 1] * 3, lengths))
        assert np.array_equal(index["slide"], np.repeat([0, 0, 1, 1, 2, 2], lengths))
        assert np.array_equal(index["row"], np.concatenate([np.arange(n) for n in lengths]))
        times = [begin + np.arange(n) / 8 for n, begin in zip(lengths, [100, 200] * 3, strict=True)]
        assert np.array_equal(index["time"], np.concatenate(times))
        assert index["shifts"][:].tolist() == [[0, 0], [0, 0.5], [0, 1]]
        live = [sum(lengths[2 * k : 2 * k + 2]) / 8 for k in range(3)]
        assert index["live_time"][:].tolist() == live
        assert merged.attrs["live_time_s"] == sum(live)
        assert merged["y"].attrs["sample_rate"] == 8.0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [slide["live_time_s"] for slide in report["slides"]] == live
    assert [slide["shifts_s"] for slide in report["slides"]] == [[], [0, 0.5], [0, 1]]
    assert report["live_time_s"] == sum(live)
    assert report["rows"] == sum(lengths)
    assert [each["rows"] for each in report["inputs"]] == [sum(lengths) / 2] * 2
    assert "Time slides: 3" in (tmp_path / "out" / "report.html").read_text()
    if "n_slides" in asked:
        # More slides are the same as before, and some more.
        earlier = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("out/predictions/*/*"))]
        assert len(earlier) == 6
        validate(luigi, models, **{**given, "n_slides": "4"})
        found = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("out/predictions/*/*"))]
        assert found[:6] == earlier
        assert len(found) == 8


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"shifts": [[0, 0], [0, None]]}, "is not a list of the shift of each channel"),
        ({"shifts": [["0", "0"], ["0", "4s"]]}, "a window takes 256, with these shifts"),
        ({"shifts": [["0", "0"], ["0"]]}, "has 2 channels for 1 shifts"),
        (
            {"shifts": [["0", "0"], ["1s", "1.0s"]]},
            "slide 1 has its channels against each other as",
        ),
        ({"n_slides": "3"}, "n_slides: needs a slide_step"),
        ({"slide_step": "1s"}, "slide_step: applies with n_slides alone"),
        ({"n_slides": "3", "slide_step": "0s"}, "slide_step: '0s' is neither a number of samples"),
        ({"n_slides": "3", "slide_step": "1s", "shifts": ["0", "1"]}, "does not go with shifts"),
        ({"n_slides": "3", "slide_step": "1s", "target": "t"}, "target: does not go with time"),
    ],
)
def test_slides_that_cannot_be_are_refused_before_a_server_starts(
    luigi: Luigi, models: Path, tmp_path: Path, asked: dict[str, Any], problem: str
) -> None:
    for label in ("H1", "L1"):
        write_strain(tmp_path, label, 100, 4, 0)
    given: dict[str, Any] = {
        "inputs": {"H1": "H-*.hdf5", "L1": "L-*.hdf5"},
        "input_map": {"x": "strain/Strain"},
        **asked,
    }
    code, said = run(luigi, models, **given)
    assert code != 0
    assert problem in said
    assert not (tmp_path / "out" / "logs" / "triton.log").exists()


def test_slides_may_keep_some_rows(luigi: Luigi, models: Path, tmp_path: Path) -> None:
    strain = np.stack([write_strain(tmp_path, label, 100, 4, 7) for label in ("H1", "L1")])
    given: dict[str, Any] = {
        "inputs": {"H1": "H-*.hdf5", "L1": "L-*.hdf5"},
        "input_map": {"x": "strain/Strain"},
        "n_slides": "2",
        "slide_step": "256",
        "keep": "y[0,0] > 0",
    }
    validate(luigi, models, **given)
    slides = [2 * shifted(strain, [0, 256 * k], 256) for k in range(2)]
    rows = [np.flatnonzero(slide[:, 0, 0] > 0) for slide in slides]
    with h5py.File(tmp_path / "out" / "merged.h5") as merged:
        kept = [slide[which] for slide, which in zip(slides, rows, strict=True)]
        assert np.array_equal(merged["y"], np.concatenate(kept))
        index = merged["index"]
        assert np.array_equal(index["row"], np.concatenate(rows))
        assert np.array_equal(index["slide"], np.repeat([0, 1], list(map(len, rows))))
        assert np.array_equal(index["time"], 100 + np.concatenate(rows) / 4)
        # Rows that were left out were looked at, too.
        assert index["live_time"][:].tolist() == [len(slide) / 4 for slide in slides]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [slide["rows_kept"] for slide in report["slides"]] == list(map(len, rows))


SLOW = """
    def answer(self, request):
        time.sleep(0.02)
        return response(y=2 * array(request, "x"))
"""


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(
    luigi: Luigi, triton_home: Path, tmp_path: Path, state_home: Path
) -> None:
    repository = write_model(
        tmp_path / "slow", "two", SLOW, inputs={"x": ("FP64", [2, 256])}, max_batch_size=1
    )
    for label in ("H1", "L1"):
        write_strain(tmp_path, label, 100, 30, 1)
    given: dict[str, Any] = {
        "inputs": {"H1": "H-*.hdf5", "L1": "L-*.hdf5"},
        "input_map": {"x": "strain/Strain"},
        "outputs": ["y"],
        "n_slides": "3",
        "slide_step": "1s",
    }
    arguments = command(repository, overlap=False, **given)
    killed = subprocess.Popen(
        [sys.executable, "-m", "luigi", *arguments, "--local-scheduler"],
        cwd=tmp_path,
        env={**os.environ, "HERMES_STATE_HOME": str(state_home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    predictions = tmp_path / "out" / "predictions"
    name = "H-H1_GWOSC_1KHZ_R1-100-32+L-L1_GWOSC_1KHZ_R1-100-32.hdf5"
    try:
        wait_until((predictions / "slide-1" / f"{name}.partial.json").exists, timeout_s=90)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    first = (predictions / "slide-0" / name).stat().st_mtime_ns
    assert not (predictions / "slide-2").exists()
    validate(luigi, repository, **given)
    assert (predictions / "slide-0" / name).stat().st_mtime_ns == first
    with h5py.File(predictions / "slide-1" / name) as opened:
        assert opened.attrs["resumed_at_row"] > 0
    validate(luigi, repository, **{**given, "output_dir": "whole"})
    for number in range(3):
        some, other = (
            h5py.File(tmp_path / directory / "predictions" / f"slide-{number}" / name)["y"][:]
            for directory in ("out", "whole")
        )
        assert some.tobytes() == other.tobytes()
    merged = [h5py.File(tmp_path / directory / "merged.h5") for directory in ("out", "whole")]
    for path in ("y", "index/slide", "index/row", "index/time", "index/live_time"):
        assert merged[0][path][:].tobytes() == merged[1][path][:].tobytes()
