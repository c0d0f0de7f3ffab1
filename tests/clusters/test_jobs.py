"""`Validate` on a real batch system: its results, its faults, and what is left after them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes._processes import marked_processes
from hermes.aeriel.jobs._engine import Engine
from hermes.aeriel.jobs._engines import find_engine
from tests.helpers import wait_until, write_model

pytestmark = [pytest.mark.cluster, pytest.mark.root]

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = (40, 1, 23, 64)
SLOW = """
    def answer(self, request):
        time.sleep(0.2)
        return response(y=2 * array(request, "x"))
"""


class Cluster:
    """A batch system, and a pipeline whose jobs it runs."""

    def __init__(self, engine: str, environment: dict[str, str], directory: Path) -> None:
        self.name = engine
        self.engine: Engine = find_engine(engine)
        self.directory = directory
        self.mark = f"HERMES_TEST={directory}"
        self.environment = {
            **os.environ,
            **environment,
            "HERMES_TEST": str(directory),
            "HERMES_STATE_HOME": str(directory / "state"),
        }
        (directory / "data").mkdir()
        for index, rows in enumerate(ROWS):
            with h5py.File(directory / "data" / f"{index}.h5", "w") as file:
                file["x"] = np.random.default_rng(index).standard_normal((rows, 4), np.float32)
                file["expected"] = 2 * file["x"][:]
        models = {"double": SLOW.replace("0.2", "0"), "slow": SLOW}
        for name, source in models.items():
            tensors = {"x": ("FP32", [4])}
            write_model(directory / "models", name, source, inputs=tensors)

    def command(self, *options: str, model: str = "double", results: str = "results") -> list[str]:
        return [
            *(sys.executable, "-m", "luigi", "--module", "workflows.validate", "Validate"),
            *("--model-repository", str(self.directory / "models"), "--model-name", model),
            *("--inputs", str(self.directory / "data" / "*.h5"), "--target", "expected"),
            *("--metrics", "reference", "--require", "reference >= 1", "--batch-size", "4"),
            *("--output-dir", str(self.directory / results), "--workers", "2"),
            *("--local-scheduler", *options),
        ]

    def run(self, *options: str, model: str = "double", results: str = "results") -> str:
        """Run the pipeline to its end, and return what it writes."""
        done = subprocess.run(
            self.command(*options, model=model, results=results),
            env=self.environment,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def merged(self, results: str = "results") -> dict[str, bytes]:
        """Return the datasets of the merged file."""
        with h5py.File(self.directory / results / "merged.h5") as file:
            return {name: file[name][:].tobytes() for name in ("y", "target")}

    def processes(self) -> set[int]:
        return marked_processes(self.mark)


@pytest.fixture
def cluster(
    slurm: Path, tmp_path: Path, triton_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    variables = {"SLURM_CONF": str(slurm / "slurm.conf"), "PYTHONPATH": str(REPOSITORY)}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    cluster = Cluster("slurm", variables, tmp_path)
    yield cluster
    wait_until(lambda: not cluster.processes(), 30)


def test_jobs_make_what_this_process_makes(cluster: Cluster) -> None:
    """Also bit by bit; and each leaves nothing to do for the other."""
    cluster.run("--engine", cluster.name)
    first = (cluster.directory / "results" / "report.json").stat().st_mtime_ns
    cluster.run(results="local")
    assert cluster.merged() == cluster.merged("local")
    assert not (cluster.directory / "results" / "jobs").exists()
    for options in ((), ("--engine", cluster.name)):
        assert "* 1 complete ones were encountered" in cluster.run(*options)
    assert (cluster.directory / "results" / "report.json").stat().st_mtime_ns == first
    for made in ("merged.h5", "report.json"):
        (cluster.directory / "local" / made).unlink()
    assert "jobs: " not in cluster.run("--engine", cluster.name, results="local")
    assert cluster.merged() == cluster.merged("local")
