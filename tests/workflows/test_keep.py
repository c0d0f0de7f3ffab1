"""Rows that are left out: in files of predictions, in the merged file, and in the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes.aeriel.validation import Part, merge
from hermes.errors import DataError, ParameterError
from tests.workflows.conftest import Luigi

VALIDATE = ("--module", "workflows.validate", "Validate", "--model-name", "double")


@pytest.mark.parametrize("keep", ["total > 1.5", "double[any] > 5", "total > 1e9"])
def test_only_rows_that_meet_the_condition_are_stored(
    luigi: Luigi, models: Path, data: Path, tmp_path: Path, keep: str
) -> None:
    inputs = (f"--inputs={data}/*.h5", "--input-map", '{"x": "x"}', "--output-dir=out")
    result = luigi(*VALIDATE, f"--model-repository={models}", *inputs, f"--keep={keep}")
    assert result.returncode == 0, result.stdout
    kept, rows, n_rows, n_kept = [], [], [], []
    for number in range(3):
        with h5py.File(data / f"part-{number}.h5") as file:
            x = file["x"][...]
        met = {"total > 1.5": x.sum(axis=1) > 1.5, "double[any] > 5": (2 * x > 5).any(axis=1)}
        (which,) = np.nonzero(met.get(keep, np.zeros(len(x), bool)))
        rows.append(which)
        kept.append(2 * x[which])
        n_rows.append(len(x))
        n_kept.append(len(which))
        with h5py.File(tmp_path / "out" / "predictions" / f"part-{number}.h5") as file:
            assert (file.attrs["rows"], file.attrs["rows_kept"]) == (len(x), len(which))
            np.testing.assert_array_equal(file["index/row"], which)
            np.testing.assert_array_equal(file["double"], 2 * x[which])
    with h5py.File(tmp_path / "out" / "merged.h5") as file:
        np.testing.assert_array_equal(file["double"], np.concatenate(kept))
        np.testing.assert_array_equal(file["index/row"], np.concatenate(rows))
        np.testing.assert_array_equal(file["index/file"], np.repeat(range(3), n_kept))
        np.testing.assert_array_equal(file["index/rows"], n_rows)
        assert (file.attrs["rows"], file.attrs["rows_kept"]) == (sum(n_rows), sum(n_kept))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["rows"], report["rows_kept"]) == (sum(n_rows), sum(n_kept))
    assert [each["rows_kept"] for each in report["inputs"]] == n_kept
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{sum(n_rows)} rows of 3 files, of which {sum(n_kept)} were kept" in page


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--keep=total >> 1",), "keep: 'total >> 1' is not an output"),
        (("--keep=score > 1",), "keep: 'score > 1': there is no output 'score', but double, total"),
        (("--keep=double > 1",), "say which number, or any of them"),
        (("--keep=double[4] > 1",), "which has no such index"),
        (("--keep=total > 1", "--outputs", '["double"]'), "there is no output 'total', but double"),
        (("--keep=total > 1", "--target=expected"), "is compared with all rows, but rows are left"),
    ],
)
def test_what_cannot_be_right_is_refused_before_a_server_starts(
    luigi: Luigi, models: Path, data: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    inputs = (f"--inputs={data}/*.h5", "--input-map", '{"x": "x"}', "--output-dir=out")
    result = luigi(*VALIDATE, f"--model-repository={models}", *inputs, *options)
    assert result.returncode != 0
    assert words in result.stdout
    assert not (tmp_path / "out" / "logs").exists()


def write_kept(file: Path, *, times: bool = False) -> Part:
    """Write two of four rows."""
    with h5py.File(file, "w") as opened:
        opened["y"] = np.array([1.0, 3.0])
        opened["index/row"] = np.array([1, 3])
        if times:
            opened["index/time"] = np.array([11.0, 13.0])
            opened["index"].attrs["start_time"] = 10.0
        opened.attrs["rows_kept"] = 2
    return Part(input_files=(file,), predictions=file, rows=4, rows_kept=2)


def merged(parts: list[Part], output: Path, target: str | None = None) -> None:
    merge(
        parts,
        output,
        target=target,
        fingerprint="f",
        attributes={},
        on_progress=lambda *_: None,
    )


def test_times_go_along(tmp_path: Path) -> None:
    parts = [write_kept(tmp_path / f"{n}.h5", times=n in (1, 2)) for n in range(4)]
    merged(parts, tmp_path / "merged.h5")
    with h5py.File(tmp_path / "merged.h5") as file:
        nan = np.nan
        wanted = [nan, nan, 11, 13, 11, 13, nan, nan]
        np.testing.assert_array_equal(file["index/time"], wanted)
        np.testing.assert_array_equal(file["index/start_time"], [nan, 10, 10, nan])
        assert file["index/offsets"][...].tolist() == [0, 2, 4, 6, 8]


def test_files_of_all_rows_do_not_go_with_files_of_some(tmp_path: Path) -> None:
    some, other = write_kept(tmp_path / "some.h5"), tmp_path / "all.h5"
    with h5py.File(other, "w") as opened:
        opened["y"] = np.zeros(4)
    whole = Part(input_files=(other,), predictions=other, rows=4)
    for parts in ([some, whole], [whole, some]):
        with pytest.raises(DataError, match=r"all\.h5: has all rows of its input, but other files"):
            merged(parts, tmp_path / "merged.h5")
    assert not (tmp_path / "merged.h5").exists()


def test_targets_do_not_go_with_some_rows(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="target: 'y' is compared with all rows"):
        merged([write_kept(tmp_path / "some.h5")], tmp_path / "merged.h5", target="y")


def test_targets_do_not_go_with_time_slides(tmp_path: Path) -> None:
    parts = []
    for number, shifts in enumerate([(), (0, 3)]):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["y"] = np.zeros(4)
        part = Part(input_files=(tmp_path / "0.h5",), predictions=tmp_path / f"{number}.h5", rows=4)
        parts.append(replace(part, shifts=shifts))
    with pytest.raises(ParameterError, match="target: does not go with time slides"):
        merged(parts, tmp_path / "merged.h5", target="y")
