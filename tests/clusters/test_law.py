"""Inferences as the branches of a law workflow on a real Slurm, and what ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes._processes import marked_processes
from tests.helpers import double_slowly_while, wait_until, write_model

pytestmark = [pytest.mark.cluster, pytest.mark.root]

N_FILES = 2


class Workflow:
    """A law workflow in a directory of its own; its processes bear a mark."""

    def __init__(self, directory: Path, slurm: Path) -> None:
        self.directory = directory
        self.log = directory / "law.log"
        self.slow = directory / "slow"
        self.driver: subprocess.Popen[bytes] | None = None
        (directory / "data").mkdir()
        for index in range(N_FILES):
            with h5py.File(directory / "data" / f"{index}.h5", "w") as file:
                file["x"] = np.random.default_rng(index).standard_normal((50, 1), np.float32)
        write_model(directory / "models", "double", double_slowly_while(self.slow))
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(slurm / "slurm.conf"),
            "LAW_HOME": str(directory / "law"),
            "HERMES_TEST": str(directory),
            "HERMES_STATE_HOME": str(directory / "state"),
        }

    def start(self, place: str) -> subprocess.Popen[bytes]:
        return self._start(
            *("law", "run", "workflows.law.Predictions", "--server-place", place),
            *("--poll-interval", "1s", "--output-dir", "results"),
        )

    def validate(self) -> None:
        module = ("luigi", "--module", "workflows.validate", "Validate")
        validation = self._start(*module, "--output-dir", "results")
        assert validation.wait(240) == 0, self.logs()

    def _start(self, command: str, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self.driver = subprocess.Popen(
                [
                    *(str(Path(sys.executable).parent / command), *arguments),
                    *("--model-repository", "models", "--model-name", "double"),
                    *("--inputs", "data/*.h5", "--batch-size", "1", "--local-scheduler"),
                ],
                cwd=self.directory,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.driver

    def logs(self) -> str:
        of_jobs = (self.directory / "results" / "jobs").glob("*.txt")
        return "\n".join(file.read_text()[-4000:] for file in (self.log, *of_jobs))

    def has_begun(self) -> bool:
        """Tell whether some of a file is done."""
        assert self.driver is not None
        assert self.driver.poll() is None, self.logs()
        return any((self.directory / "results" / "predictions").glob("*.partial"))

    def is_over(self) -> bool:
        """Tell whether there is no process of it, and no job."""
        jobs = subprocess.check_output(["squeue", "--noheader"], env=self.environment)
        return not jobs and not marked_processes(f"HERMES_TEST={self.directory}")

    def predictions(self) -> list[bytes]:
        found = []
        for index in range(N_FILES):
            with h5py.File(self.directory / "results" / "predictions" / f"{index}.h5") as file:
                found.append(file["y"][:].tobytes())
        return found


@pytest.fixture
def workflow(slurm: Path, triton_home: Path, directory: Path) -> Iterator[Workflow]:
    workflow = Workflow(directory, slurm)
    yield workflow
    if workflow.driver is not None:
        workflow.driver.kill()
        workflow.driver.wait()
    wait_until(workflow.is_over, 60)


@pytest.fixture(scope="module")
def of_validate(slurm: Path, triton_home: Path, shared: Path) -> list[bytes]:
    """The predictions that `Validate` makes of the same files."""
    directory = shared / "validate"
    directory.mkdir()
    workflow = Workflow(directory, slurm)
    workflow.validate()
    return workflow.predictions()


@pytest.mark.parametrize(("place", "number"), [("driver", signal.SIGINT), ("job", signal.SIGKILL)])
def test_whatever_ends_it_nothing_is_left_and_a_rerun_makes_what_validate_makes(
    workflow: Workflow, place: str, number: signal.Signals, of_validate: list[bytes]
) -> None:
    workflow.slow.touch()
    driver = workflow.start(place)
    wait_until(workflow.has_begun, 240)
    os.killpg(driver.pid, number)
    driver.wait(120)
    wait_until(workflow.is_over, 30)
    assert not any((workflow.directory / "results" / "jobs").rglob("job_*"))
    workflow.slow.unlink()
    assert workflow.start(place).wait(240) == 0, workflow.logs()
    assert workflow.predictions() == of_validate
