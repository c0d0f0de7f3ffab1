"""The main job, from Luigi's command line to the files that it writes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes.aeriel.jobs._files import RunDirectory
from tests.workflows.conftest import Luigi, write_input, write_model

REFERENCE = (
    '["reference", "max_absolute_error"]',
    '["reference >= 1", "max_absolute_error <= 0"]',
)


def validate(luigi: Luigi, models: Path, *arguments: str, **parameters: str) -> tuple[int, str]:
    given = {
        "model-repository": str(models),
        "model-name": "double",
        "inputs": "data/*.h5",
        "input-map": '{"x": "x"}',
        "output-dir": "results",
        "target": "expected",
        "output-name": "double",
        "metrics": REFERENCE[0],
        "require": REFERENCE[1],
        **{name.replace("_", "-"): value for name, value in parameters.items()},
    }
    flags = [part for name, value in given.items() for part in (f"--{name}", value)]
    result = luigi("--module", "workflows.validate", "Validate", *flags, *arguments)
    return result.returncode, result.stdout


def of_a_dead_driver(jobs: Path) -> RunDirectory:
    """Make what a run of batch jobs leaves whose driver was killed together with its reaper."""
    run = RunDirectory.create(jobs)
    run.beacon.touch()
    run.submission("0").path.mkdir()
    run.bury()
    return run


def test_what_dead_runs_of_jobs_left_goes_though_nothing_is_submitted(
    luigi: Luigi, models: Path, data: Path, tmp_path: Path
) -> None:
    code, said = validate(luigi, models)
    assert code == 0, said
    jobs = tmp_path / "results" / "jobs"
    for gone in ((), ("report.json",), ("report.json", "merged.h5")):
        of_a_dead_driver(jobs)
        for name in gone:
            (tmp_path / "results" / name).unlink()
        code, said = validate(luigi, models)
        assert code == 0, said
        assert not jobs.exists()
    of_a_dead_driver(jobs)
    done = luigi(
        *("--module", "workflows.merge", "PredictInJobs", "--engine", "slurm"),
        *("--model-repository", str(models), "--model-name", "double"),
        *("--inputs", "data/*.h5", "--input-map", '{"x": "x"}', "--target", "expected"),
        *("--output-dir", "results"),
    )
    assert done.returncode == 0, done.stdout
    assert not jobs.exists()


def arrays(file: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    with h5py.File(file, "r") as opened:
        return {
            name: entry[()] for name, entry in opened.items() if isinstance(entry, h5py.Dataset)
        }


@pytest.mark.parametrize("workers", ["1", "3"])
def test_predictions_are_right_and_merged_with_an_index(
    luigi: Luigi, models: Path, data: Path, tmp_path: Path, workers: str
) -> None:
    code, said = validate(luigi, models, "--workers", workers)
    assert code == 0, said

    inputs = {file.name: arrays(file)["x"] for file in sorted(data.iterdir())}
    for name, x in inputs.items():
        found = arrays(tmp_path / "results" / "predictions" / name)
        assert np.array_equal(found["double"], 2 * x)
        assert np.array_equal(found["total"], x.sum(axis=1, keepdims=True))

    with h5py.File(tmp_path / "results" / "merged.h5", "r") as merged:
        everything = np.concatenate(list(inputs.values()))
        assert np.array_equal(merged["double"], 2 * everything)
        assert np.array_equal(merged["target"], 2 * everything)
        files = [Path(name.decode()).name for name in merged["index/files"]]
        assert files == list(inputs)
        for row, (file, at) in enumerate(
            zip(merged["index/file"], merged["index/row"], strict=True)
        ):
            assert np.array_equal(inputs[files[file]][at], everything[row])
        assert list(merged["index/offsets"]) == [0, 50, 51, 84]

    report = json.loads((tmp_path / "results" / "report.json").read_text())
    assert report["verdict"] == "passed"
    assert report["metrics"]["reference"] == 1.0
    assert report["rows"] == 84
    assert (tmp_path / "results" / "report.html").stat().st_size > 10_000
    hidden = [file for file in (tmp_path / "results").rglob("*") if "partial" in file.name]
    assert hidden == []


def test_provenance_is_in_the_output(
    luigi: Luigi, models: Path, data: Path, tmp_path: Path
) -> None:
    code, said = validate(luigi, models)
    assert code == 0, said
    with h5py.File(tmp_path / "results" / "predictions" / "part-0.h5", "r") as opened:
        facts = dict(opened.attrs)
    assert facts["input_file"] == str(data / "part-0.h5")
    assert facts["model_name"] == "double"
    assert facts["model_version"] == "1"
    assert facts["model_repository"] == str(models)
    assert json.loads(facts["versions"])["h5py"] == h5py.__version__
    assert json.loads(facts["input_map"]) == {"x": "x"}
    assert json.loads(facts["statistics"])["rows"] == 50
    assert facts["server_version"].startswith("2.")


def test_a_second_run_does_nothing(luigi: Luigi, models: Path, data: Path, tmp_path: Path) -> None:
    assert validate(luigi, models)[0] == 0
    before = modification_times(tmp_path)
    for file in data.glob("*.h5"):  # what would be found out if it were opened
        status = file.stat()
        file.write_bytes(bytes(status.st_size))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    code, said = validate(luigi, models)
    assert code == 0
    assert "1 complete ones were encountered" in said
    assert modification_times(tmp_path) == before


def test_a_changed_file_alone_is_done_again(
    luigi: Luigi, models: Path, data: Path, tmp_path: Path
) -> None:
    assert validate(luigi, models)[0] == 0
    before = modification_times(tmp_path)
    x = write_input(data / "part-1.h5", 20, seed=9)
    code, said = validate(luigi, models)
    assert code == 0, said
    after = modification_times(tmp_path)
    changed = {name for name, time in after.items() if before.get(name) != time}
    assert {name for name in changed if name.startswith("part-")} == {"part-1.h5"}
    with h5py.File(tmp_path / "results" / "merged.h5", "r") as merged:
        assert np.array_equal(merged["double"][50:70], 2 * x)


def test_other_metrics_need_no_server(
    luigi: Luigi, models: Path, data: Path, tmp_path: Path
) -> None:
    assert validate(luigi, models)[0] == 0
    code, said = validate(luigi, models, metrics='["mse", "r2"]', require='["r2 >= 0.9"]')
    assert code == 0, said
    assert "running   TritonServerTask" not in said
    report = json.loads((tmp_path / "results" / "report.json").read_text())
    assert set(report["metrics"]) == {"mse", "r2"}


def test_a_missed_requirement_fails_and_says_by_how_much(
    luigi: Luigi, models: Path, data: Path, tmp_path: Path
) -> None:
    for _ in range(2):  # a failed validation is not complete
        code, said = validate(luigi, models, metrics="max_absolute_error", require="r2 >= 2")
        assert code == 30
        assert "r2 >= 2: is 1, misses by 1. The report is" in said
        report = json.loads((tmp_path / "results" / "report.json").read_text())
        assert report["verdict"] == "failed"


def test_without_a_target_there_are_no_metrics(
    luigi: Luigi, models: Path, data: Path, tmp_path: Path
) -> None:
    code, said = validate(luigi, models, target="", metrics="[]", require="[]")
    assert code == 0, said
    report = json.loads((tmp_path / "results" / "report.json").read_text())
    assert report["verdict"] == "no requirements"
    assert "metrics" not in report


def test_files_of_one_name_in_two_directories(luigi: Luigi, models: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("first", "second")):
        (tmp_path / "data" / name).mkdir(parents=True)
        write_input(tmp_path / "data" / name / "strain.h5", 5, seed=number)
    code, said = validate(luigi, models, inputs='["data/first/*.h5", "data/second/*"]')
    assert code == 0, said
    for name in ("first", "second"):
        x = arrays(tmp_path / "data" / name / "strain.h5")["x"]
        found = arrays(tmp_path / "results" / "predictions" / name / "strain.h5")["double"]
        assert np.array_equal(found, 2 * x)


def test_awkward_names(luigi: Luigi, models: Path, tmp_path: Path) -> None:
    directory = tmp_path / 'it\'s; a "test" [1]'
    directory.mkdir()
    (directory / "mod els").symlink_to(models)
    x = write_input(directory / "a b,c.h5", 5)
    code, said = validate(
        luigi,
        directory / "mod els",
        inputs=str(directory / "a b,c.h5"),
        output_dir=str(directory / "out put"),
    )
    assert code == 0, said
    found = arrays(directory / "out put" / "predictions" / "a b,c.h5")["double"]
    assert np.array_equal(found, 2 * x)


COMPLETES_ITSELF = """
    @staticmethod
    def auto_complete_config(config):
        config.set_max_batch_size(4)
        config.add_input({"name": "x", "data_type": "TYPE_FP32", "dims": [4]})
        config.add_output({"name": "y", "data_type": "TYPE_FP32", "dims": [4]})
        return config

    def execute"""


@pytest.mark.parametrize("configured", [True, False], ids=["configured", "completed-by-triton"])
def test_the_only_dataset_beside_the_target_is_the_input(
    luigi: Luigi, tmp_path: Path, configured: bool
) -> None:
    source = PLUS_ONE if configured else PLUS_ONE.replace("    def execute", COMPLETES_ITSELF)
    config = NO_BATCH % ("-1, 4", "-1, 4") if configured else 'backend: "python"'
    write_model(tmp_path / "models", "plus", config, source)
    (tmp_path / "data").mkdir()
    x = np.arange(40, dtype=np.float32).reshape(10, 4)
    with h5py.File(tmp_path / "data" / "strain.h5", "w") as file:
        file["strain"] = x
        file["truth"] = x + 1
    code, said = validate(
        luigi,
        tmp_path / "models",
        model_name="plus",
        input_map="{}",
        target="truth",
        output_name="",
    )
    assert code == 0, said


WORDS = """
import numpy as np
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        return [utils.InferenceResponse(self.outputs(request)) for request in requests]

    def outputs(self, request):
        words = utils.get_input_tensor_by_name(request, "word").as_numpy()
        times = utils.get_input_tensor_by_name(request, "times").as_numpy()
        joined = [[w * int(n) for w, n in zip(a, b)] for a, b in zip(words, times)]
        return [utils.Tensor("joined", np.array(joined, dtype=object))]
"""
WORDS_CONFIG = """
backend: "python"
max_batch_size: 8
input [
  { name: "word", data_type: TYPE_STRING, dims: [ 1 ] },
  { name: "times", data_type: TYPE_INT32, dims: [ 1 ] }
]
output [{ name: "joined", data_type: TYPE_STRING, dims: [ 1 ] }]
"""


def test_two_inputs_strings_and_a_smaller_dtype(luigi: Luigi, tmp_path: Path) -> None:
    write_model(tmp_path / "models", "words", WORDS_CONFIG, WORDS)
    (tmp_path / "data").mkdir()
    with h5py.File(tmp_path / "data" / "words.h5", "w") as file:
        file["word"] = np.array([["é"], ["b"], [""]] * 5, dtype=h5py.string_dtype())
        file["counts/n"] = np.array([[2], [3], [1]] * 5, dtype=np.int16)  # fits into INT32
    code, said = validate(
        luigi,
        tmp_path / "models",
        model_name="words",
        input_map='{"times": "/counts/n"}',
        target="",
        metrics="[]",
        require="[]",
        output_name="",
    )
    assert code == 0, said
    found = arrays(tmp_path / "results" / "predictions" / "words.h5")["joined"]
    assert [word.decode() for word in found[:, 0]] == ["éé", "bbb", ""] * 5


NO_BATCH = """
backend: "python"
max_batch_size: 0
input [{ name: "x", data_type: TYPE_FP32, dims: [ %s ] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [ %s ] }]
"""
PLUS_ONE = """
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            utils.InferenceResponse(
                [utils.Tensor("y", utils.get_input_tensor_by_name(request, "x").as_numpy() + 1)]
            )
            for request in requests
        ]
"""


@pytest.mark.parametrize("dims", ["4", "-1, 4"], ids=["row-by-row", "along-the-free-length"])
def test_a_model_without_a_batch_dimension(luigi: Luigi, tmp_path: Path, dims: str) -> None:
    write_model(tmp_path / "models", "plus", NO_BATCH % (dims, dims), PLUS_ONE)
    (tmp_path / "data").mkdir()
    x = write_input(tmp_path / "data" / "x.h5", 37)
    code, said = validate(
        luigi,
        tmp_path / "models",
        model_name="plus",
        target="",
        metrics="[]",
        require="[]",
        output_name="",
    )
    assert code == 0, said
    found = arrays(tmp_path / "results" / "predictions" / "x.h5")["y"]
    assert np.array_equal(found, x + 1)


def modification_times(tmp_path: Path) -> dict[str, int]:
    """Return when each result was written; the server goes on to write its log as it stops."""
    files = [file for file in (tmp_path / "results").rglob("*.*") if file.suffix != ".log"]
    return {file.name: file.stat().st_mtime_ns for file in files}


def test_the_server_is_watched_and_the_report_says_so(
    luigi: Luigi, models: Path, data: Path, tmp_path: Path
) -> None:
    code, said = validate(luigi, models)
    assert code == 0, said
    table = (tmp_path / "results" / "logs" / "triton.csv").read_text().splitlines()
    assert len(table) > 1
    report = json.loads((tmp_path / "results" / "report.json").read_text())
    assert report["outputs"]["server over time"] == "logs/triton.csv"
