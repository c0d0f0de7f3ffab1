"""The tasks' steps as commands: the same files, the same words, the same exit codes."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import h5py
import pytest

from hermes._cli_options import ExitCode
from tests.workflows.conftest import CONFIG, MODEL, Luigi, assert_gone, write_model

Hermes = Callable[..., "subprocess.CompletedProcess[str]"]

PREDICTIONS = "results/predictions/*.h5"
INFER = ("double", "data/*.h5", "--output-dir=results/predictions", "--input-map=x=x")
VALIDATE = ("--output-dir=results", "--target=expected", "--output-name=double")


@pytest.fixture
def hermes(tmp_path: Path, state_home: Path) -> Hermes:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hermes", *arguments],
            cwd=tmp_path,
            env={**os.environ, "HERMES_STATE_HOME": str(state_home)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def predictions(
    hermes: Hermes, models: Path, data: Path, triton_home: Path, state_home: Path, tmp_path: Path
) -> Path:
    """The directory with the predictions that the command made."""
    done = hermes("infer", f"--models={models}", *INFER)
    assert done.returncode == 0, done.stderr
    assert_gone(state_home, within_s=40)
    return tmp_path / "results" / "predictions"


def task(luigi: Luigi, models: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = (
        f"--model-repository={models}",
        "--model-name=double",
        "--inputs=data/*.h5",
        "--input-map=x=x",
        *VALIDATE,
    )
    return luigi("--module", "workflows.validate", "Validate", *options, *arguments)


def written(directory: Path) -> dict[str, int]:
    """Return the files of a directory, each with what changes when it is written again."""
    return {str(file): file.stat().st_ino for file in directory.rglob("*") if file.is_file()}


def test_exit_codes_are_those_of_the_tasks() -> None:
    settings = configparser.ConfigParser()
    settings.read_string(files("workflows").joinpath("luigi.cfg").read_text())
    codes = settings["retcode"]
    assert codes["task_failed"] == str(int(ExitCode.FAILED))
    assert codes["scheduling_error"] == str(int(ExitCode.REFUSED))


def test_what_the_commands_have_made_is_complete_for_the_tasks_and_the_reverse(
    hermes: Hermes, luigi: Luigi, models: Path, predictions: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    required = "--require=max_absolute_error <= 0"
    for first_time in (True, False):
        done = hermes("validate", PREDICTIONS, *VALIDATE, required)
        assert done.returncode == 0, done.stderr
        assert "\nreport        results/report.html\n" in f"\n{done.stdout}"
        assert ("merged 3 files" in done.stdout) == first_time
    before = written(results)
    done = task(luigi, models, required)
    assert done.returncode == 0, done.stdout
    assert written(results) == before

    shutil.rmtree(results)
    done = task(luigi, models, required)
    assert done.returncode == 0, done.stdout
    before = written(results)
    done = hermes("infer", f"--models={models}", *INFER)
    assert (done.returncode, done.stdout) == (0, "3 of 3 files are complete already\n")
    done = hermes("validate", PREDICTIONS, *VALIDATE, required)
    assert done.returncode == 0
    assert done.stdout.startswith("verdict       passed: ")
    assert written(results) == before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--require=max_absolute_error < 0",), 30),
        (("--metrics=speed",), 35),
        (("--require=fast",), 35),
        (("--target=nothing",), 35),
        (("--scores=points", "--metrics=accuracy"), 35),
    ],
)
def test_a_command_fails_as_the_task_does(
    hermes: Hermes,
    luigi: Luigi,
    models: Path,
    predictions: Path,
    arguments: tuple[str, ...],
    code: int,
) -> None:
    given = [each for each in VALIDATE if each.split("=")[0] not in " ".join(arguments)]
    by_command = hermes("validate", PREDICTIONS, *given, *arguments)
    options = (f"--model-repository={models}", "--model-name=double", "--inputs=data/*.h5")
    by_task = luigi(
        *("--module", "workflows.validate", "Validate"),
        *(*options, "--input-map=x=x", *given, *arguments),
    )
    assert (by_command.returncode, by_task.returncode) == (code, code), by_task.stdout
    assert re.fullmatch(r"hermes: .+\n", by_command.stderr)
    assert by_command.stderr in by_task.stdout


def test_merged_files_are_merged_again_when_they_are_not_those(
    hermes: Hermes, predictions: Path, tmp_path: Path
) -> None:
    merge = ("merge", PREDICTIONS, "--output-file=merged.h5")
    assert hermes(*merge).stdout == f"merged 3 files into {tmp_path}/merged.h5\n"
    assert hermes(*merge).stdout == f"{tmp_path}/merged.h5 is complete already\n"
    (predictions / "part-1.h5").unlink()
    assert hermes(*merge).stdout == f"merged 2 files into {tmp_path}/merged.h5\n"
    done = hermes(*merge, "--target=expected")
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "merged.h5") as file:
        assert (file["target"][...] == file["double"][...]).all()


def test_predictions_that_do_not_belong_together_are_refused(
    hermes: Hermes, models: Path, predictions: Path, data: Path, tmp_path: Path, state_home: Path
) -> None:
    def refused(*more: str, code: int = 35) -> str:
        done = hermes("merge", PREDICTIONS, *more, "--output-file=merged.h5")
        assert done.returncode == code
        assert not (tmp_path / "merged.h5").exists()
        return done.stderr

    assert "holds no predictions for one file" in refused("data/part-0.h5")
    assert "merged.h5 is one of the files" not in refused("nowhere/*.h5")
    shutil.copy(predictions / "part-0.h5", tmp_path / "copy.h5")
    problem = f"holds predictions for {data}/part-0.h5, as {tmp_path}/copy.h5 does"
    assert problem in refused("copy.h5")
    with h5py.File(tmp_path / "copy.h5", "a") as file:
        del file.attrs["input_file"]
        file.attrs["input_files"] = json.dumps([str(data / "part-0.h5")] * 2)
        file.attrs["input_stamp"] = "\n".join([file.attrs["input_stamp"]] * 2)
        statistics = file.attrs["statistics"]
    assert "part-0.h5: was made with files of an input 1, but" in refused("copy.h5")
    for damaged in ("{", "[]", statistics.replace("latencies", "others")):
        with h5py.File(tmp_path / "copy.h5", "a") as file:
            file.attrs["statistics"] = damaged
        assert "copy.h5: has attributes that hermes did not write (" in refused("copy.h5")

    name = "part-1.h5"
    infer = ("infer", "double", f"data/{name}", f"--output-dir={predictions}", "--input-map=x=x")
    assert hermes(*infer, f"--models={models}", "--batch-size=2").returncode == 0
    assert f"{name}: was made with batch_size 2, but {predictions}/part-0.h5 with 0" in refused()
    other = tmp_path / "other"
    write_model(other, "double", CONFIG, MODEL + "# another")
    assert hermes(*infer, f"--models={other}").returncode == 0
    assert f"{name}: was made with model_stamp" in refused()
    assert_gone(state_home, within_s=40)
    (predictions / name).unlink()
    with h5py.File(data / "part-2.h5", "a") as file:
        file["x"][0] = 0
    problem = f"is not what {predictions}/part-2.h5 holds predictions for any more"
    assert f"{data}/part-2.h5: {problem}" in refused()
    (data / "part-2.h5").unlink()
    assert f"{data}/part-2.h5: is gone, but" in refused()


def test_a_file_that_is_read_is_not_written(hermes: Hermes, predictions: Path, data: Path) -> None:
    done = hermes("merge", PREDICTIONS, "--output-file=data/part-0.h5")
    assert done.returncode == 35
    assert f"output_file: {data}/part-0.h5 is one of the files to read" in done.stderr
