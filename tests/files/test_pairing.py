"""Files of several channels are brought together by their times, and what is alone is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hermes.aeriel.files import FoundInputs, InferenceOptions, find_inputs, output_names
from hermes.errors import DataError, HermesError, ParameterError

RATE = 16


def write(
    directory: Path, label: str, begin: float, n_seconds: int = 10, **attributes: Any
) -> None:
    """Write a file as GWOSC names and fills them."""
    name = f"{label[0]}-{label}_GWOSC_16HZ_R1-{begin:g}-{n_seconds}.hdf5"
    with h5py.File(directory / name, "w") as file:
        file["strain/Strain"] = np.zeros(n_seconds * RATE)
        file["strain/Strain"].attrs.update(
            {"Xspacing": 1 / RATE, "Xstart": begin, "Xunits": "second", **attributes}
        )
        file["meta/GPSstart"] = begin
        file["quality/simple/DQmask"] = np.ones(n_seconds, "i4")


def found(directory: Path, **options: Any) -> FoundInputs:
    given = {label: str(directory / f"{label[0]}-*.hdf5") for label in ("H1", "L1")}
    input_map = {"x": "strain/Strain"}
    asked = {"model_name": "m", "window": "2s", "input_map": input_map, **options}
    return find_inputs(given, InferenceOptions(**asked), None)


def times(inputs: FoundInputs) -> list[list[str]]:
    """Return the detector and the time that each file's name has."""
    return [
        [f"{file.name[0]}{file.stem.split('-')[2]}" for file in files] for files in inputs.inputs
    ]


def test_files_that_begin_at_the_same_time_are_together(tmp_path: Path) -> None:
    for begin in (30, 10, 100):
        write(tmp_path, "L1", begin)
        write(tmp_path, "H1", begin)
    together = found(tmp_path)
    assert times(together) == [["H10", "L10"], ["H30", "L30"], ["H100", "L100"]]
    assert together.warnings == []


def test_what_is_alone_is_named(tmp_path: Path) -> None:
    for begin in (10, 20, 30):
        write(tmp_path, "H1", begin)
    for begin in (20, 40):
        write(tmp_path, "L1", begin)
    with pytest.raises(ParameterError) as caught:
        found(tmp_path)
    said = str(caught.value)
    assert "-10-10.hdf5 (10 to 20 s)" in said
    assert "-30-10.hdf5 (30 to 40 s)" in said
    assert "-40-10.hdf5 (40 to 50 s)" in said
    assert "-20-10.hdf5" not in said


def test_the_overlap_leaves_out_what_is_alone_and_says_so(tmp_path: Path) -> None:
    for begin in (10, 20, 60):
        write(tmp_path, "H1", begin)
    write(tmp_path, "L1", 15)
    write(tmp_path, "L1", 28)  # less than a window of it is in the file that ends at 30
    together = found(tmp_path, overlap=True, window="3s")
    assert times(together) == [["H10", "L15"], ["H20", "L15"]]
    (warning,) = together.warnings
    assert warning.startswith("2 files without a partner were left out: ")
    assert "-60-10.hdf5" in warning
    assert "-28-10.hdf5" in warning


def test_results_have_the_names_of_all_files(tmp_path: Path) -> None:
    for begin in (10, 20):
        write(tmp_path, "H1", begin)
    write(tmp_path, "L1", 15)
    names = output_names(found(tmp_path, overlap=True).inputs)
    assert names == [
        f"H-H1_GWOSC_16HZ_R1-{begin}-10+L-L1_GWOSC_16HZ_R1-15-10.hdf5" for begin in (10, 20)
    ]


def test_a_file_alone_has_the_name_that_it_has_among_others() -> None:
    alone, other = [Path("/data/a.hdf5")], [Path("/data/b.hdf5")]
    assert output_names([alone]) == output_names([alone, other])[:1] == ["a.hdf5"]


def test_inputs_whose_results_would_have_one_name_are_refused(tmp_path: Path) -> None:
    inputs = [(Path("/d/H/a.h5"), Path(f"/d/L/{part}/a.h5")) for part in (1, 2)]
    problem = r"a\+a\.h5 would have the predictions of /d/H/a.h5 with /d/L/1/a.h5 and of "
    with pytest.raises(ParameterError, match=f"^inputs: {problem}/d/H/a.h5 with /d/L/2/a.h5; "):
        output_names(inputs)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"window": ""}, "give the length of a window as window"),
        ({"input_map": {"x": ("strain/Strain",)}}, "'x' has 1 datasets for 2 files"),
        ({"input_map": {}}, "has 3 datasets .*; name the one"),
        ({"input_map": {"x": "strain/Strains"}}, "dataset 'strain/Strains': not found"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    for label in ("H1", "L1"):
        write(tmp_path, label, 10)
    with pytest.raises(HermesError, match=problem):
        found(tmp_path, **options)


def test_two_files_of_one_channel_and_time_are_refused(tmp_path: Path) -> None:
    for label in ("H1", "L1"):
        write(tmp_path, label, 10)
    write(tmp_path, "H1", 15)
    with pytest.raises(
        ParameterError, match=r"H1: .*\(10 to 20 s\) and .*\(15 to 25 s\) are of one"
    ):
        found(tmp_path)


def test_a_file_that_says_no_time_is_refused(tmp_path: Path) -> None:
    for label in ("H1", "L1"):
        write(tmp_path, label, 10)
    (file,) = tmp_path.glob("L-*")
    with h5py.File(file, "a") as opened:
        del opened["strain/Strain"].attrs["Xstart"]
    with pytest.raises(DataError, match=r"L-L1.*says no start time"):
        found(tmp_path)
