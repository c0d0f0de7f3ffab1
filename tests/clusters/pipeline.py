"""`Validate` on a batch system, whose processes can be told from all others, and its faults."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from hermes.aeriel.jobs._engine import JobId, JobState
from tests.helpers import write_model

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = (60, 1, 43, 64)
MODEL = """
    def answer(self, request):
        time.sleep({seconds})
        return response(y=2 * array(request, "x"))
"""
MODELS = {"double": 0, "slow": 0.2, "slower": 5}
ROLES = {
    "reaper": ("hermes.aeriel.jobs", "reap"),
    "client": ("hermes.aeriel.jobs", "infer"),
    "server job": ("hermes.aeriel.jobs", "serve"),
    "supervisor": ("hermes.aeriel.supervise",),
}


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A real batch system.

    Parameters
    ----------
    name
        What hermes calls it.
    variables
        The environment of a driver, besides this process's.
    states
        Returns the jobs of a run that have not ended.
    prefix
        Comes before the commands of a user who has to be somewhere else, or somebody else.
    owner
        That user's number.
    """

    name: str
    variables: Mapping[str, str]
    states: Callable[[str], Mapping[JobId, JobState]]
    prefix: tuple[str, ...] = ()
    owner: int = field(default_factory=os.getuid)

    def environment(self) -> dict[str, str]:
        """Return the environment of a driver."""
        kept = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
        return {**kept, "PYTHONPATH": str(REPOSITORY), **self.variables}


@dataclass
class Pipeline:
    """A pipeline in a directory of its own, which the hosts of its jobs share.

    Parameters
    ----------
    cluster
        The batch system.
    directory
        The directory.
    options
        Of all runs, such as where the server is.
    """

    cluster: Cluster
    directory: Path
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.log = self.directory / "luigi.log"
        self.environment = {
            **self.cluster.environment(),
            "HERMES_TEST": str(self.directory),
            "HERMES_STATE_HOME": str(self.directory / "state"),
        }
        (self.directory / "data").mkdir()
        for index, rows in enumerate(ROWS):
            with h5py.File(self.directory / "data" / f"{index}.h5", "w") as file:
                file["x"] = np.random.default_rng(index).standard_normal((rows, 4), np.float32)
                file["expected"] = 2 * file["x"][:]
        for name, seconds in MODELS.items():
            source = MODEL.format(seconds=seconds)
            write_model(self.directory / "models", name, source, inputs={"x": ("FP32", [4])})
        for path in (self.directory, *self.directory.rglob("*")):
            os.chown(path, self.cluster.owner, self.cluster.owner)

    def start(
        self, *options: str, model: str = "double", results: str = "results", local: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start the pipeline in a session of its own, as a shell does."""
        where = () if local else ("--engine", self.cluster.name)
        self.log.unlink(missing_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *self.cluster.prefix,
                    *(sys.executable, "-m", "luigi", "--module", "workflows.validate", "Validate"),
                    *("--model-repository", str(self.directory / "models"), "--model-name", model),
                    *("--inputs", str(self.directory / "data" / "*.h5"), "--target", "expected"),
                    *("--metrics", "reference", "--require", "reference >= 1"),
                    *("--output-dir", str(self.directory / results), "--batch-size", "4"),
                    *("--workers", "2", "--local-scheduler", *where, *options),
                ],
                env=self.environment,
                cwd=self.directory,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.process

    def finish(self, timeout_s: float = 240.0) -> tuple[int, str]:
        """Wait for the end of the driver; return its exit code and what it wrote."""
        assert self.process is not None
        return self.process.wait(timeout_s), self.log.read_text()

    def run(
        self, *options: str, model: str = "double", results: str = "results", local: bool = False
    ) -> str:
        """Run the pipeline to its end, and return what it writes."""
        self.start(*options, model=model, results=results, local=local)
        code, output = self.finish()
        assert code == 0, output
        return output

    def close(self) -> None:
        """End what is left of the driver."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def merged(self, results: str = "results") -> dict[str, bytes]:
        """Return the datasets of the merged file."""
        with h5py.File(self.directory / results / "merged.h5") as file:
            return {name: file[name][:].tobytes() for name in ("y", "target")}

    def expected(self) -> bytes:
        """Return what the merged output has to be."""
        files = sorted((self.directory / "data").iterdir())
        return b"".join(h5py.File(file)["expected"][:].tobytes() for file in files)

    def run_directory(self) -> Path | None:
        """Return the directory of the run that is under way."""
        found = [each.parent for each in (self.directory / "results" / "jobs").glob("*/beacon")]
        return next((each for each in found if not (each / "tombstone").exists()), None)

    def is_under_way(self) -> bool:
        """Tell whether a job has done a file: one has a single row."""
        run = self.run_directory()
        return run is not None and any(run.glob("*/*.status.json"))

    def processes(self, role: str = "") -> dict[int, list[str]]:
        """Return the command lines of all processes of the pipeline, or of those of a role."""
        mark = f"HERMES_TEST={self.directory}\0".encode()
        found = {}
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                if mark not in (directory / "environ").read_bytes():
                    continue
                command = (directory / "cmdline").read_text().split("\0")
            except OSError:  # it ended
                continue
            program = Path(command[0]).name
            is_server = role == "tritonserver" and program == role
            # A command that submits a job, such as sbatch, has the job's command among its own.
            has_role = role in ROLES and set(ROLES[role]) <= set(command)
            if not role or is_server or (has_role and program.startswith("python")):
                found[int(directory.name)] = command
        return found

    def left(self) -> list[str]:
        """Return what is left of the runs so far, besides results and logs."""
        run = self.run_directory()
        files = (
            [] if run is None else [str(each) for each in run.rglob("*") if each.suffix != ".log"]
        )
        jobs = [] if run is None else [str(each) for each in self.cluster.states(run.name)]
        processes = [" ".join(command) for command in self.processes().values()]
        return [*files, *jobs, *processes, *map(str, (self.directory / "state").glob("*/*"))]


def kill(pipeline: Pipeline, driver: int, *roles: str) -> None:
    """Kill the driver, with its worker, and processes of some roles, in one moment."""
    victims = [pid for role in roles for pid in pipeline.processes(role)]
    if "worker" in roles:
        victims += [
            int(pid) for pid in Path(f"/proc/{driver}/task/{driver}/children").read_text().split()
        ]
    for pid in [driver, *victims]:
        os.kill(pid, signal.SIGKILL)


FAULTS: Mapping[str, tuple[Callable[[Pipeline, int], None], float]] = {
    "driver SIGINT": (lambda _, driver: os.killpg(driver, signal.SIGINT), 10.0),
    "driver SIGTERM": (lambda _, driver: os.kill(driver, signal.SIGTERM), 10.0),
    "driver SIGKILL": (kill, 10.0),
    "driver and worker SIGKILL": (lambda pipeline, driver: kill(pipeline, driver, "worker"), 10.0),
    "driver, worker and reaper SIGKILL": (
        lambda pipeline, driver: kill(pipeline, driver, "worker", "reaper"),
        40.0,
    ),
}
"""What may happen to a driver, and within how many seconds all of its run has to be gone."""


def seconds_until_clean(pipeline: Pipeline, limit_s: float) -> float:
    """Return after how many seconds nothing is left; fail where something is after the limit."""
    began = time.monotonic()
    while left := pipeline.left():
        assert time.monotonic() < began + limit_s, f"left after {limit_s:.0f} s: {left}"
        time.sleep(0.2)
    return time.monotonic() - began
