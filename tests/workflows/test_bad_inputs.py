"""Bad input gets a clear error, at once, before a server is started, and nothing is lost."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.workflows.conftest import CONFIG, MODEL, Luigi, write_input, write_model

FLOAT32 = np.float32


def validate(luigi: Luigi, models: Path, *arguments: str, **parameters: str) -> str:
    """Run `Validate` in vain, and return what it said."""
    given = {
        "model-repository": str(models),
        "model-name": "double",
        "inputs": "data/*.h5",
        "input-map": '{"x": "x"}',
        "output-dir": "results",
        **{name.replace("_", "-"): value for name, value in parameters.items()},
    }
    flags = [part for name, value in given.items() for part in (f"--{name}", value)]
    result = luigi("--module", "workflows.validate", "Validate", *flags, *arguments)
    assert result.returncode != 0, result.stdout
    assert "Traceback" not in result.stdout
    return re.sub(r"\s+", " ", result.stdout)


def assert_no_server_was_started(tmp_path: Path) -> None:
    assert not (tmp_path / "results" / "logs").exists()
    assert not (tmp_path / "results" / "predictions").exists()


def write(file: Path, **datasets: object) -> None:
    with h5py.File(file, "w") as opened:
        for name, value in datasets.items():
            opened[name] = value


def test_a_glob_that_matches_nothing(luigi: Luigi, models: Path, tmp_path: Path) -> None:
    said = validate(luigi, models, inputs="nowhere/*.h5")
    assert "inputs: 'nowhere/*.h5' matches no file" in said
    assert_no_server_was_started(tmp_path)


def test_a_file_that_is_not_there(luigi: Luigi, models: Path, data: Path) -> None:
    said = validate(luigi, models, inputs='["data/part-0.h5", "data/part-9.h5"]')
    assert "inputs: 'data/part-9.h5' is not a file" in said


def test_a_file_that_is_not_hdf5(luigi: Luigi, models: Path, data: Path, tmp_path: Path) -> None:
    (data / "part-7.h5").write_text("not HDF5 at all")
    assert f"{data}/part-7.h5: is not an HDF5 file" in validate(luigi, models)
    assert_no_server_was_started(tmp_path)


def test_a_truncated_file(luigi: Luigi, models: Path, data: Path, tmp_path: Path) -> None:
    write_input(data / "part-8.h5", 5000)
    with (data / "part-8.h5").open("r+b") as file:
        file.truncate(20_000)
    assert f"{data}/part-8.h5: is truncated" in validate(luigi, models)
    assert_no_server_was_started(tmp_path)


@pytest.mark.parametrize(
    ("datasets", "said"),
    [
        ({"y": np.zeros((5, 4), FLOAT32)}, r"dataset 'x': not found\. The file has \['y'\]"),
        ({"x": np.zeros((5, 4, 2), FLOAT32)}, r"dataset 'x': has rows .* of rank 2; .* of rank 1"),
        ({"x": np.zeros((5, 3), FLOAT32)}, r"dataset 'x': has rows of float32 \(3,\); .* \(4,\)"),
        ({"x": np.zeros((5, 4))}, r"dataset 'x': has rows of float64 .* wants rows of float32"),
        ({"x": np.zeros((0, 4), FLOAT32)}, r"dataset 'x': has no rows"),
        ({"x": FLOAT32(1)}, r"dataset 'x': is a scalar; rows are wanted"),
        ({"x/y": np.zeros(3)}, r"dataset 'x': is a group, not a dataset"),
    ],
    ids=["missing", "rank", "shape", "dtype", "empty", "scalar", "group"],
)
def test_a_dataset_that_does_not_fit(
    luigi: Luigi, models: Path, tmp_path: Path, datasets: dict[str, object], said: str
) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "one.h5", **datasets)
    text = validate(luigi, models)
    assert re.search(rf"{tmp_path}/data/one\.h5, {said}", text), text
    assert_no_server_was_started(tmp_path)


def test_files_that_disagree(luigi: Luigi, models: Path, data: Path, tmp_path: Path) -> None:
    write(data / "part-9.h5", x=np.zeros((5, 5), FLOAT32))
    said = validate(luigi, models)
    assert f"{data}/part-9.h5, dataset 'x': has rows of float32 (5,), but {data}/part-0.h5" in said
    assert_no_server_was_started(tmp_path)


def test_a_target_of_another_length(luigi: Luigi, models: Path, data: Path, tmp_path: Path) -> None:
    write(data / "part-9.h5", x=np.zeros((5, 4), FLOAT32), expected=np.zeros((6, 4), FLOAT32))
    said = validate(luigi, models, target="expected")
    assert f"{data}/part-9.h5, dataset 'expected': has 6 rows, but 'x' has 5" in said
    assert_no_server_was_started(tmp_path)


def test_a_target_that_is_not_there(luigi: Luigi, models: Path, data: Path) -> None:
    said = validate(luigi, models, target="label")
    assert "part-0.h5, dataset 'label': not found; targets have to be in each input file" in said
    assert ". The file has ['expected', 'x']" in said


def test_a_model_that_is_not_in_the_repository(
    luigi: Luigi, models: Path, data: Path, tmp_path: Path
) -> None:
    said = validate(luigi, models, model_name="triple")
    assert f"the model repository {models} has no model 'triple'; models there: double" in said
    assert_no_server_was_started(tmp_path)


def test_a_version_that_is_not_in_the_repository(luigi: Luigi, models: Path, data: Path) -> None:
    said = validate(luigi, models, model_version="3")
    assert "has no model 'double version 3'; models there: double version 1" in said


def test_a_repository_that_is_not_there(luigi: Luigi, data: Path, tmp_path: Path) -> None:
    said = validate(luigi, tmp_path / "nowhere")
    assert f"model_repository: {tmp_path}/nowhere does not exist" in said


def test_a_configuration_that_cannot_be_understood(
    luigi: Luigi, data: Path, tmp_path: Path
) -> None:
    write_model(tmp_path / "models", "double", "max_batch_size: many", MODEL)
    said = validate(luigi, tmp_path / "models")
    assert "model 'double' of the model repository" in said
    assert "config.pbtxt cannot be understood" in said
    assert_no_server_was_started(tmp_path)


def test_a_model_that_does_not_load(luigi: Luigi, data: Path, tmp_path: Path) -> None:
    source = MODEL.replace(
        "    def execute",
        "    def initialize(self, a):\n        raise ValueError('no weights')\n\n    def execute",
        1,
    )
    write_model(tmp_path / "models", "double", CONFIG, source)
    said = validate(luigi, tmp_path / "models")
    assert "no weights" in said
    assert f"{tmp_path}/results/logs/triton.log" in said


@pytest.mark.parametrize(
    ("parameter", "value", "said"),
    [
        ("batch_size", "many", "batch_size: 'many' is not a whole number, 0 or more"),
        ("batch_size", "-1", "batch_size: -1 is not a whole number, 0 or more"),
        ("batch_size", "17", "batch_size: 17 rows, but model 'double' takes 16 at most"),
        ("gpus", "all", "gpus: 'all' is not a JSON list of GPUs"),
        ("input_map", '["x"]', "input_map: ['x'] is not a JSON object of paths"),
        ("input_map", '{"z": "x"}', "input_map: 'z': the model has no such input; it has ['x']"),
        ("timeout_s", "soon", "timeout_s: 'soon' is not a number, 0 or more"),
        ("metrics", "speed", "target: is not given, but metrics need a dataset with targets"),
        ("require", "fast", "require: given 'fast', wanted a metric, one of"),
    ],
)
def test_a_parameter_of_the_wrong_kind(
    luigi: Luigi, models: Path, data: Path, parameter: str, value: str, said: str
) -> None:
    assert said in validate(luigi, models, **{parameter: value})


def test_an_unknown_metric(luigi: Luigi, models: Path, data: Path, tmp_path: Path) -> None:
    said = validate(luigi, models, target="expected", metrics="speed")
    assert "metrics: there is no metric 'speed'; there are: accuracy" in said
    assert_no_server_was_started(tmp_path)


def test_an_output_directory_that_cannot_be_written(
    luigi: Luigi, models: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    said = validate(luigi, models, output_dir="taken/results")
    assert f"{tmp_path}/taken/results: the output directory cannot be written: Not a dir" in said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.mark.root
def test_a_disk_that_is_too_small(
    luigi: Luigi, models: Path, tmp_path: Path, small_disk: Path
) -> None:
    (tmp_path / "data").mkdir()
    write_input(tmp_path / "data" / "large.h5", 100_000)
    said = validate(luigi, models, output_dir=str(small_disk / "results"))
    assert "large.h5: the disk is full (no space left on device): output 'double' needs" in said
    assert not list(small_disk.rglob("*.h5"))


@pytest.mark.root
def test_a_disk_that_fills_up(luigi: Luigi, models: Path, tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "data").mkdir()
    write_input(tmp_path / "data" / "large.h5", 40_000)  # 0.64 MB, and 0.16 MB, and the merged ones
    said = validate(luigi, models, output_dir=str(small_disk / "results"))
    assert "merged.h5: the disk is full (no space left on device)" in said
    left = [path.name for path in small_disk.rglob("*") if path.is_file()]
    assert sorted(left) == ["large.h5", "triton.csv", "triton.log"]


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"inputs": "data"}, "inputs: 'data' is a directory; give its files, as 'data/*.h5'"),
        (
            {"inputs": "data/part-0.h5,data/part-1.h5"},
            'several are, for Luigi, a JSON list: ["data/part-0.h5", "data/part-1.h5"]',
        ),
        ({"metrics": "r2,mae"}, 'metrics: \'r2,mae\' is one text; several are ["r2", "mae"]'),
        (
            {"input_map": '{"/x": "x"}'},
            'The model\'s input comes first, then the dataset: {"x": "/x"}',
        ),
    ],
    ids=["directory", "comma", "metrics", "reversed map"],
)
def test_a_slip_is_told_with_what_was_meant(
    luigi: Luigi, models: Path, data: Path, parameters: dict[str, str], problem: str
) -> None:
    said = validate(luigi, models, **{"target": "expected", "output_name": "double", **parameters})
    assert problem in said
    assert_no_server_was_started(data.parent)


def test_a_target_that_is_nan_is_named_before_a_server_starts(
    luigi: Luigi, models: Path, data: Path
) -> None:
    with h5py.File(data / "part-2.h5", "r+") as file:
        file["expected"][7, 1] = np.nan
    said = validate(luigi, models, target="expected", output_name="double")
    assert f"{data}/part-2.h5, dataset 'expected': is the target, and row 7 of it is [" in said
    assert_no_server_was_started(data.parent)


def test_empty_files_are_left_out_where_that_is_asked_for(
    luigi: Luigi, models: Path, data: Path
) -> None:
    write_input(data / "part-3.h5", 0)
    said = validate(luigi, models)
    assert "part-3.h5, dataset 'x': has no rows; skip_empty (--skip-empty) leaves such" in said
    again = [*("--module", "workflows.validate", "Validate"), f"--model-repository={models}"]
    again += ["--model-name=double", "--input-map=x=x", "--output-dir=results"]
    said = luigi(*again, "--inputs=data/*.h5", "--skip-empty").stdout
    assert f"1 files without rows were left out: {data}/part-3.h5" in said
    assert "This progress looks :)" in said
    with h5py.File(data.parent / "results" / "merged.h5") as merged:
        assert len(merged["double"]) == 84
    # The directory is used again for other inputs.
    said = luigi(*again, "--inputs=data/part-0.h5").stdout
    assert "results/predictions keeps 2 files of other inputs, such as part-" in said


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("name", ["target", "index"])
def test_an_output_with_a_name_of_the_merged_file(luigi: Luigi, tmp_path: Path, name: str) -> None:
    config, source = (text.replace('"total"', f'"{name}"') for text in (CONFIG, MODEL))
    write_model(tmp_path / "models", "double", config, source)
    said = validate(luigi, tmp_path / "models")
    assert f"outputs: '{name}' has a name that the merged file uses itself" in said
    assert_no_server_was_started(tmp_path)
