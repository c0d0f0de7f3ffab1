"""A validation as a DAG of HTCondor's, with the server as its SERVICE node, on a real pool."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes._processes import marked_processes
from tests.clusters.pipeline import Cluster
from tests.helpers import wait_until, write_model

pytestmark = [pytest.mark.cluster, pytest.mark.root]

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = """
    def answer(self, request):
        time.sleep({seconds})
        return response(y=2 * array(request, "x"))
"""


class Dag:
    """The DAG in a directory that the pool sees, submitted by its user."""

    def __init__(self, cluster: Cluster, directory: Path, seconds: float) -> None:
        self._cluster = cluster
        self.directory = directory
        for file in (REPOSITORY / "workflows" / "dagman").iterdir():
            shutil.copy(file, directory)
        for submit in directory.glob("*.sub"):  # the pool is small
            text = re.sub(r"request_memory = .*", "request_memory = 200MB", submit.read_text())
            submit.write_text(text.replace("accuracy >= 0.95", "mse <= 0"))
        names = [f"{number}.h5" for number in range(6)]
        for number, name in enumerate(names):
            with h5py.File(directory / name, "w") as file:
                file["x"] = np.arange(8, dtype=np.float32).reshape(8, 1) + number
                file["label"] = 2 * file["x"][:]
        (directory / "files.txt").write_text("\n".join(names))
        write_model(directory / "models", "classifier", MODEL.format(seconds=seconds))
        for path in (directory, *directory.rglob("*")):
            os.chown(path, cluster.owner, cluster.owner)

    def condor(self, *command: str) -> str:
        variables = {
            **self._cluster.variables,
            "PATH": f"{Path(sys.executable).parent}:{self._cluster.variables['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "HERMES_TEST": str(self.directory),
            # The log of the nodes lies below /tmp here, of which DAGMan warns.
            "_CONDOR_DAGMAN_USE_STRICT": "0",
        }
        inside = ("sh", "-c", 'cd "$0" && exec "$@"', str(self.directory), *command)
        done = subprocess.run(
            [*self._cluster.prefix, *inside],
            env=variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self) -> None:
        self.condor("condor_submit_dag", "-import_env", "validation.dag")

    def is_over(self) -> bool:
        return self.condor("condor_q", "-af", "ClusterId").strip() == ""

    def processes(self) -> set[int]:
        return marked_processes(f"HERMES_TEST={self.directory}")

    def logs(self) -> str:
        return "\n".join(
            f"{file.name}: {file.read_text()[-1500:]}"
            for file in sorted(self.directory.glob("*.*"))
            if file.suffix in {".log", ".out"}
        )


@pytest.fixture
def dag(htcondor_cluster: Cluster, directory: Path) -> Dag:
    return Dag(htcondor_cluster, directory, seconds=0)


def test_a_validation_is_right_and_its_server_is_gone(dag: Dag) -> None:
    dag.submit()
    wait_until(dag.is_over, 300)
    assert (dag.directory / "results" / "report.html").exists(), dag.logs()
    with h5py.File(dag.directory / "results" / "merged.h5") as merged:
        assert merged["y"].shape == (48, 1)
        assert np.array_equal(merged["y"], merged["target"])
    wait_until(lambda: not dag.processes(), 30)
    assert not (dag.directory / "server.json").exists()


def test_nothing_is_left_of_a_dag_that_is_removed(
    htcondor_cluster: Cluster, directory: Path
) -> None:
    dag = Dag(htcondor_cluster, directory, seconds=5)
    dag.submit()
    wait_until((directory / "server.json").exists, 120)
    dag.condor("condor_rm", "-all")
    wait_until(lambda: dag.is_over() and not dag.processes(), 60)
    assert not (directory / "server.json").exists()
