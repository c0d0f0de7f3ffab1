"""Targets in other files than the inputs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes.aeriel.files import find_target_files, inspect
from hermes.errors import DataError, HermesError, ParameterError
from tests.workflows.conftest import Luigi

GIVEN = (
    "--model-name=double",
    "--inputs=data/*.h5",
    "--output-dir=results",
    "--output-name=double",
)


def move_targets(data: Path) -> Path:
    """Move the targets of each input into a file of their own; return the directory of these."""
    labels = data.parent / "labels"
    labels.mkdir()
    for file in data.glob("*.h5"):
        with h5py.File(file, "r+") as opened, h5py.File(labels / f"{file.stem}-y.h5", "w") as moved:
            moved["expected"] = opened["expected"][:]
            del opened["expected"]
    return labels


@pytest.mark.parametrize(
    ("pattern", "inputs", "found"),
    [
        ("labels/*.h5", ["data/a.hdf5", "data/b.hdf5"], ["labels/a.h5", "labels/b.h5"]),
        ("labels/night-*-y.h5", ["x/1.h5"], ["labels/night-1-y.h5"]),
        ("labels/a.h5", ["data/other.h5"], ["labels/a.h5"]),
    ],
)
def test_a_pattern_names_the_file_of_each_input(
    pattern: str,
    inputs: list[str],
    found: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels").mkdir()
    for name in found:
        (tmp_path / name).touch()
    files = find_target_files(pattern, [[Path(name), Path("second.h5")] for name in inputs])
    assert list(files) == [tmp_path / name for name in found]


@pytest.mark.parametrize(
    ("pattern", "inputs", "error", "words"),
    [
        ("a.h5", ["1.h5", "2.h5"], ParameterError, "'a.h5' is one file for 2 inputs; write * for"),
        ("*/a.h5", ["1.h5"], ParameterError, "'*/a.h5' has another * than one in the name of"),
        ("*-*.h5", ["1.h5"], ParameterError, "'*-*.h5' has another * than one in the name of the"),
        ("here/*.h5", ["x/1.h5", "y/1.h5"], ParameterError, "for both x/1.h5 and y/1.h5; give one"),
        (".", ["1.h5"], ParameterError, "'.' is a directory; give its files, as '*.h5'"),
        ("no-*.h5", ["1.h5"], DataError, "no-1.h5: does not exist; it would have the targets of 1"),
        ("no-*.h5", ["1.h5", "2.h5"], DataError, "does not exist, as 1 others do not; it would"),
    ],
)
def test_a_pattern_that_is_not_one_file_for_each_input_is_refused(
    pattern: str, inputs: list[str], error: type[HermesError], words: str
) -> None:
    with pytest.raises(error, match=re.escape(words)):
        find_target_files(pattern, [[Path(name)] for name in inputs])


def test_a_target_elsewhere_is_not_taken_for_an_input(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file, h5py.File(tmp_path / "y.h5", "w") as other:
        file["label"] = np.zeros((3, 4), np.float32)
        other["label"] = np.zeros(3, np.int64)
    x, y = tmp_path / "x.h5", tmp_path / "y.h5"
    facts = inspect(x, {}, target="label", target_file=y)
    assert facts.datasets[""].file == x
    assert facts.target is not None
    assert facts.target.file == y


def test_a_validation_with_targets_elsewhere_is_done_again_when_they_change(
    luigi: Luigi, models: Path, data: Path, tmp_path: Path
) -> None:
    labels = move_targets(data)
    options = ("--target=expected", "--target-file=labels/*-y.h5", "--require=mse <= 0")
    given = ("--module=workflows.validate", "Validate", f"--model-repository={models}", *GIVEN)
    first = luigi(*given, *options)
    assert first.returncode == 0, first.stdout
    report = json.loads((tmp_path / "results/report.json").read_text())
    assert report["metrics"]["mse"] == 0

    # The commands have the same words, the same files and the same fingerprints.
    merged = tmp_path / "results/merged.h5"
    written = merged.stat().st_ino
    environment = {**os.environ, "HERMES_STATE_HOME": str(tmp_path / "state")}
    command = [sys.executable, "-m", "hermes", "validate", "results/predictions/*.h5"]
    again = subprocess.run(
        [*command, "--output-dir=results", "--output-name=double", *options],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert merged.stat().st_ino == written

    with h5py.File(labels / "part-2-y.h5", "r+") as file:
        file["expected"][7] += 1
    changed = luigi(*given, *options)
    assert changed.returncode == 30, changed.stdout
    assert "running   Predict" not in changed.stdout
    report = json.loads((tmp_path / "results/report.json").read_text())
    assert report["metrics"]["mse"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target-file=labels/*-y.h5"], "target: is not given, but "),
        (
            ["--target-file=labels/*-y.h5", "--target=expected"],
            "labels/part-2-y.h5, dataset 'expected': has 32 rows, but 'x' of ",
        ),
        (["--target=expected"], "targets have to be in each input file, or in others, target_file"),
    ],
)
def test_other_rows_are_refused_before_a_server_starts(
    luigi: Luigi, models: Path, data: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    labels = move_targets(data)
    with h5py.File(labels / "part-2-y.h5", "r+") as file:
        shorter = file["expected"][:-1]
        del file["expected"]
        file["expected"] = shorter
    given = ("--module=workflows.validate", "Validate", f"--model-repository={models}", *GIVEN)
    done = luigi(*given, *options)
    assert done.returncode == 35, done.stdout
    assert words in done.stdout.splitlines()[-1]
    assert not (tmp_path / "state").exists() or not list((tmp_path / "state").iterdir())
