"""`InferenceTask` in a pipeline of somebody else's, and its resumption."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import luigi as luigi_package
import numpy as np
import pytest
from luigi.tools.range import RangeDaily

from tests.workflows.conftest import CONFIG, Luigi, write_input, write_model
from workflows import InferenceTask, TritonServerTask

PIPELINE = """
from pathlib import Path

import h5py
import luigi
import numpy as np
from workflows import InferenceTask, TritonServerTask


class Strain(luigi.Task):
    def output(self):
        return luigi.LocalTarget("strain.h5")

    def run(self):
        with h5py.File(self.output().path, "w") as file:
            file["anything"] = np.arange(40, dtype=np.float32).reshape(10, 4)


class Score(InferenceTask):
    model_repository = luigi.Parameter()

    def requires(self):
        return {
            "server": TritonServerTask(model_repository=self.model_repository),
            "input": Strain(),
        }

    def output(self):
        return luigi.LocalTarget("scores.h5")


class Dynamic(luigi.Task):
    model_repository = luigi.Parameter()

    def output(self):
        return luigi.LocalTarget("answer.txt")

    def run(self):
        import tritonclient.grpc

        server = TritonServerTask(model_repository=self.model_repository)
        target = yield server
        client = tritonclient.grpc.InferenceServerClient(target.endpoint.grpc)
        assert client.is_model_ready("double")
        with self.output().open("w") as file:
            file.write("ready")
"""


def test_it_is_built_upon(luigi: Luigi, models: Path, tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    result = luigi(
        "--module=pipeline", "Score", "--model-repository", str(models), "--model-name", "double"
    )
    assert result.returncode == 0, result.stdout
    with h5py.File(tmp_path / "scores.h5", "r") as file:
        assert np.array_equal(file["double"], 2 * np.arange(40).reshape(10, 4))


def test_a_task_may_ask_for_a_server_while_it_runs(
    luigi: Luigi, models: Path, tmp_path: Path
) -> None:
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    for workers in ("1", "2"):
        result = luigi(
            "--module=pipeline", "Dynamic", "--model-repository", str(models), "--workers", workers
        )
        assert result.returncode == 0, result.stdout
        assert (tmp_path / "answer.txt").read_text() == "ready", result.stdout
        (tmp_path / "answer.txt").unlink()


SLOW = """
import time

import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.05 * len(requests))
        return [
            utils.InferenceResponse(
                [
                    utils.Tensor(name, (2 * x if name == "double" else x[:, :1]))
                    for name in ("double", "total")
                ]
            )
            for request in requests
            for x in [utils.get_input_tensor_by_name(request, "x").as_numpy()]
        ]
"""


def test_a_killed_run_goes_on_from_its_checkpoint(
    luigi: Luigi, tmp_path: Path, state_home: Path
) -> None:
    write_model(tmp_path / "models", "double", CONFIG, SLOW)
    (tmp_path / "data").mkdir()
    x = write_input(tmp_path / "data" / "long.h5", 16 * 200)
    command = [
        *("--module", "workflows.validate", "Validate", "--model-repository", "models"),
        *("--model-name", "double", "--input-map", '{"x": "x"}', "--inputs", "data/*.h5"),
        *("--output-dir", "results", "--workers", "2"),
    ]
    partial = tmp_path / "results" / "predictions" / "long.h5.partial"
    checkpoint = partial.with_name("long.h5.partial.json")
    run = subprocess.Popen(
        [sys.executable, "-m", "luigi", *command, "--local-scheduler"],
        cwd=tmp_path,
        env={**os.environ, "HERMES_STATE_HOME": str(state_home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not checkpoint.exists():
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert not partial.with_name("long.h5").exists()

    result = luigi(*command)
    assert result.returncode == 0, result.stdout
    with h5py.File(tmp_path / "results" / "predictions" / "long.h5", "r") as file:
        assert 0 < file.attrs["resumed_at_row"] < len(x)
        assert np.array_equal(file["double"], 2 * x)
    assert not partial.exists()
    assert not checkpoint.exists()


class Sliding(InferenceTask):
    """Time slides of a file that another task has to make first."""

    directory = luigi_package.Parameter()

    def requires(self) -> dict[str, luigi_package.Task]:
        made = luigi_package.LocalTarget(f"{self.directory}/made.h5")
        made_by = type("Made", (luigi_package.ExternalTask,), {"output": lambda _: made})
        return {"server": TritonServerTask(model_repository=self.directory), "input": made_by()}

    def output(self) -> list[luigi_package.LocalTarget]:
        return [
            luigi_package.LocalTarget(f"{self.directory}/slide-{number}.h5") for number in range(2)
        ]


def test_time_slides_of_an_input_that_is_not_there_yet_are_to_be_made(tmp_path: Path) -> None:
    given: dict[str, Any] = {"directory": str(tmp_path), "model_name": "double", "window": "1s"}
    task = Sliding(**given, n_slides=2, slide_step="1s")  # type: ignore[call-arg]
    assert not task.complete()


class Daily(InferenceTask):
    """A task with a parameter of its own, of which there is one for each day."""

    date = luigi_package.DateParameter()

    def requires(self) -> dict[str, luigi_package.Task]:
        return {}

    def output(self) -> luigi_package.LocalTarget:
        return luigi_package.LocalTarget(f"missing/{self.date}.h5")


# Luigi's own, of its own default.
@pytest.mark.filterwarnings('ignore:Parameter "param_name" with value "None":UserWarning')
def test_luigis_range_tools_set_the_parameter_that_a_subclass_adds() -> None:
    days = RangeDaily(
        of=Daily,
        of_params={"model_name": "double"},
        start=dt.date(2024, 2, 28),
        stop=dt.date(2024, 3, 1),
        days_back=9999,
    )
    expected = [dt.date(2024, 2, 28), dt.date(2024, 2, 29)]
    assert [day.date for day in days.requires()] == expected
