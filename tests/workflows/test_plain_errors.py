"""What Luigi's log ends with when something fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflows.conftest import CONFIG, MODEL, Luigi, write_model
from workflows._plain_errors import install_plain_errors

PIPELINE = """
from pathlib import Path
import luigi
import workflows.validate
from hermes.errors import DataError

class Fails(luigi.Task):
    kind = luigi.Parameter()

    def run(self):
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            error = DataError("a.h5", "is truncated") if self.kind == "known" else OSError("a bug")
            raise error from cause

class SucceedsLater(luigi.Task):
    def complete(self):
        return Path("done").exists()

    def run(self):
        if not Path("tried").exists():
            Path("tried").touch()
            raise DataError("a.h5", "is truncated")
        Path("done").touch()

class Both(luigi.WrapperTask):
    def requires(self):
        return [Fails(kind="known"), Fails(kind="unknown")]
"""


def validate(luigi: Luigi, *arguments: str, **parameters: str) -> str:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in parameters.items()]
    return luigi("--module", "workflows.validate", "Validate", *flags, *arguments).stdout


@pytest.fixture
def given(models: Path) -> dict[str, str]:
    return {
        "model_repository": str(models),
        "model_name": "double",
        "inputs": "data/*.h5",
        "input_map": '{"x": "x"}',
        "output_dir": "results",
    }


def after_the_summary(said: str) -> str:
    assert said.count("===== Luigi Execution Summary =====") == 2
    return said.rpartition("===== Luigi Execution Summary =====")[2].strip()


def test_a_wrong_value_is_told_in_one_line(luigi: Luigi, given: dict[str, str]) -> None:
    said = validate(luigi, **given, batch_size="many")
    assert said.splitlines()[-1] == "hermes: batch_size: 'many' is not a whole number, 0 or more"
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--transport=carrier-pigeon"], "transport: 'carrier-pigeon' is not one of "),
        (["--batch-size=1", "--batch-size=2"], "batch_size: is given 2 times, but takes one value"),
        (["--Validate-sample-rate=fast"], "sample_rate: 'fast' is not a number, 0 or more"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(
    luigi: Luigi, given: dict[str, str], options: list[str], problem: str
) -> None:
    said = validate(luigi, *options, **given)
    assert said.splitlines()[-1].startswith(f"hermes: {problem}")
    assert "Traceback" not in said


def test_a_wrong_value_in_a_file_is_told_in_one_line(
    luigi: Luigi, given: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "luigi.cfg").write_text("[Validate]\ncast = perhaps\n")
    said = validate(luigi, **given)
    assert said.splitlines()[-1] == "hermes: cast: 'perhaps' is neither true nor false"
    assert "Traceback" not in said


def test_a_missing_parameter_is_told_in_one_line(luigi: Luigi, given: dict[str, str]) -> None:
    del given["model_name"]
    said = validate(luigi, **given)
    assert "requires the 'model_name' parameter to be set" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_what_is_wrong_with_an_input_comes_last(
    luigi: Luigi, given: dict[str, str], data: Path
) -> None:
    (data / "part-7.h5").write_text("not HDF5 at all")
    said = after_the_summary(validate(luigi, **given))
    assert said.startswith(f"hermes: {data}/part-7.h5: is not an HDF5 file")
    assert "\n" not in said


@pytest.mark.parametrize("workers", ["1", "3"])
def test_what_failed_in_a_worker_comes_last_and_once(
    luigi: Luigi, given: dict[str, str], data: Path, tmp_path: Path, workers: str
) -> None:
    source = MODEL.replace(
        "    def execute",
        "    def initialize(self, a):\n        raise ValueError('no weights')\n\n    def execute",
        1,
    )
    write_model(tmp_path / "models", "double", CONFIG, source)
    given["model_repository"] = str(tmp_path / "models")
    said = validate(luigi, "--workers", workers, **given)
    last = after_the_summary(said)
    ended = "the Triton server ended unexpectedly with exit code 1"
    assert last.startswith(f"hermes: no server: {ended}")
    assert "no weights" in last
    assert last.count("hermes: ") == 1
    assert "worker.py" not in said


def test_debugging_shows_where_it_happened(luigi: Luigi, given: dict[str, str]) -> None:
    given["inputs"] = "nowhere/*.h5"
    said = validate(luigi, "--log-level", "DEBUG", **given)
    assert "Traceback" in said
    assert after_the_summary(said).startswith("hermes: inputs: 'nowhere/*.h5' matches no file")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_error_that_nobody_foresaw_keeps_its_traceback(
    luigi: Luigi, tmp_path: Path, workers: str
) -> None:
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    said = luigi("--module", "pipeline", "Both", "--workers", workers).stdout
    assert said.count("KeyError: 'the cause'") == 1
    assert said.count("\nOSError: a bug\n") == 1
    assert after_the_summary(said) == "hermes: a.h5: is truncated"


def test_an_error_that_was_overcome_is_not_told_at_the_end(luigi: Luigi, tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    again = ("--worker-keep-alive", "--scheduler-retry-delay", "0.1")
    result = luigi("--module", "pipeline", "SucceedsLater", *again)
    assert result.returncode == 0
    assert result.stdout.count("hermes: a.h5: is truncated") == 1
    assert after_the_summary(result.stdout) == ""


def test_of_many_errors_the_first_are_shown() -> None:
    errors = install_plain_errors()  # that of this process
    errors.take()
    for number in (0, *range(8)):
        errors.add(f"error {number}")
    assert errors.take() == [*(f"error {n}" for n in range(5)), "and 3 more errors, in the log"]
    assert errors.take() == []
