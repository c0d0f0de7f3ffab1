"""How input files are divided among tasks, and what that changes: nothing but the cost."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes.aeriel.files import DatasetFacts, InputFacts, Location
from tests.workflows.conftest import Luigi, write_input
from tests.workflows.test_validate import arrays, modification_times, validate
from workflows._division import SizedInput, divide


def sized(directory: Path, *sizes: int, paths: tuple[str, ...] = ()) -> list[SizedInput]:
    inputs = []
    for number, size in enumerate(sizes):
        file = directory / f"{number:04}.h5"
        file.touch()
        os.truncate(file, size)
        path = paths[number] if paths else "x"
        facts = DatasetFacts(
            locations=(Location(file=file, path=path),), shape=(1, 4), dtype=np.dtype(np.float32)
        )
        inputs.append(
            SizedInput(
                facts=InputFacts(files=(file,), rows=1, datasets={"x": facts}), predictions=file
            )
        )
    return inputs


def lengths(inputs: list[SizedInput], files_per_task: int = 0) -> list[int]:
    parts = list(divide(inputs, files_per_task))
    assert [each for part in parts for each in part] == inputs
    return [len(part) for part in parts]


def test_few_files_have_a_task_each(tmp_path: Path) -> None:
    assert lengths(sized(tmp_path, *[100] * 8)) == [1] * 8


def test_many_small_files_share_tasks_of_about_a_second(tmp_path: Path) -> None:
    parts = lengths(sized(tmp_path, *[100] * 4000))
    assert len(parts) == 17
    assert set(parts[:-1]) == {249}


def test_workers_have_tasks_where_there_is_less_to_do(tmp_path: Path) -> None:
    assert len(lengths(sized(tmp_path, *[100] * 90))) in range(8, 12)


def test_a_large_file_has_its_own(tmp_path: Path) -> None:
    assert lengths(sized(tmp_path, 100, 100, 10**9, 100, 100)) == [2, 1, 2]


def test_the_number_may_be_given(tmp_path: Path) -> None:
    assert lengths(sized(tmp_path, 100, 100, 10**9, 100, 100), 2) == [2, 2, 1]


def test_the_files_of_a_task_have_one_input_map(tmp_path: Path) -> None:
    assert lengths(sized(tmp_path, *[100] * 5, paths=("x", "x", "y", "y", "x")), 5) == [2, 2, 1]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    for number in range(30):
        write_input(directory / f"{number:02}.h5", 1 + number, seed=number)
    return directory


def test_each_file_is_whole_and_is_made_again_alone(
    luigi: Luigi, models: Path, many: Path, tmp_path: Path
) -> None:
    code, said = validate(luigi, models, "--workers", "2", files_per_task="8")
    assert code == 0, said
    assert "- 4 Predict(" in said
    assert "running   Predict(input=00.h5 and 7 more, model_name=double" in said
    for file in sorted(many.iterdir()):
        found = tmp_path / "results" / "predictions" / file.name
        assert np.array_equal(arrays(found)["double"], 2 * arrays(file)["x"])
        with h5py.File(found) as opened:
            assert opened.attrs["input_file"] == str(file)
            assert int(opened.attrs["rows"]) == len(arrays(file)["x"])
            parameters = json.loads(opened.attrs["parameters"])
            assert parameters["model_name"] == "double"
            assert "files" not in parameters

    before = modification_times(tmp_path)
    write_input(many / "11.h5", 3, seed=99)
    code, said = validate(luigi, models, files_per_task="5")  # divided otherwise
    assert code == 0, said
    after = modification_times(tmp_path)
    names = {file.name for file in many.iterdir()}
    assert {name for name in names if after[name] != before[name]} == {"11.h5"}


def test_a_file_that_fails_is_named_and_does_not_keep_others_from_being_done(
    luigi: Luigi, models: Path, many: Path, tmp_path: Path
) -> None:
    for number in (4, 17):
        with h5py.File(many / f"{number:02}.h5", "r+") as file:
            file["x"][0, 0] = np.nan
    options = {"files_per_task": "30", "finite": "inputs"}
    code, said = validate(luigi, models, **options)
    assert code != 0
    last = said.partition("===== Luigi Execution Summary =====\n\nhermes")[2] or said[-2000:]
    assert "2 of 30 files cannot be used:" in last
    assert f"{many / '04.h5'}, dataset 'x'" in last
    assert f"{many / '17.h5'}, dataset 'x'" in last
    done = sorted(file.name for file in (tmp_path / "results" / "predictions").glob("*.h5"))
    assert done == [f"{number:02}.h5" for number in range(30) if number not in (4, 17)]
