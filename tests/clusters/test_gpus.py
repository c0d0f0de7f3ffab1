"""The GPUs of batch jobs, of real batch systems; only the driver below them is a stand-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes.aeriel.serve._gpu_names import job_gpus, visible_gpus
from hermes.aeriel.serve._gpus import GPU

pytestmark = [pytest.mark.cluster, pytest.mark.root]

SOURCE = Path(__file__).resolve().parents[2]
STAND_IN = SOURCE / "tests" / "environment" / "gpus"
TAKE = """
import json, os, sys, time
from hermes.aeriel.serve._gpus import GPURequest
from hermes.aeriel.serve._leases import lease_gpus
from hermes.errors import HermesError
for variable in sys.argv[2].split():
    os.environ.pop(variable)
try:
    print(*lease_gpus(GPURequest(**json.loads(sys.argv[1]))).gpus, flush=True)
except HermesError as error:
    print(error, flush=True)
time.sleep(float(sys.argv[3]))
"""

SUBMIT = """
set -e
cd
rm -f out err log
condor_submit -terse - >/dev/null <<JOB
executable = /usr/bin/env
arguments = -0
transfer_executable = false
output = out
error = err
log = log
request_gpus = $1
request_memory = 50
request_disk = 10
queue
JOB
condor_wait -wait 60 log >/dev/null
"""


class Slurm:
    """A node with four GPUs, of which a first job leases two."""

    def __init__(self, directory: Path, scratch: Path) -> None:
        # Locks are the host's: no other test may mean the same GPUs.
        self.uuids = [f"GPU-{uuid.uuid4()}" for _ in range(4)]
        gpus = [
            {"uuid": one, "device": str(directory / "devices" / f"nvidia{index}")}
            for index, one in enumerate(self.uuids)
        ]
        (scratch / "gpus.json").write_text(json.dumps(gpus))
        self._environment = {
            **os.environ,
            "SLURM_CONF": str(directory / "slurm.conf"),
            "PYTHONPATH": f"{STAND_IN}:{SOURCE}",
            "FAKE_GPUS": str(scratch / "gpus.json"),
        }
        self._scratch = scratch
        command = ["srun", "--gres=gpu:2", *self._command({"n_gpus": 2}, for_s=300)]
        self._first = subprocess.Popen(
            command, env=self._environment, cwd=scratch, stdout=subprocess.PIPE, text=True
        )
        assert self._first.stdout is not None
        assert self._first.stdout.readline().split() == self.uuids[:2]

    def step(self, *, has_gpus: bool = True, without: str = "", **request: object) -> str:
        """Lease GPUs in a job of `srun` alone; return what it says."""
        command = ["srun", "--gres=gpu:2"] if has_gpus else ["srun"]
        return self._run([*command, *self._command(request, without)])

    def batch(self, *, without: str = "", **request: object) -> str:
        """Lease GPUs in a job of `sbatch`; return what it says."""
        script = self._scratch / "job.sh"
        script.write_text('#!/bin/sh\nexec "$@"\n')
        output = self._scratch / "output"
        options = ["--wait", f"--output={output}", "--gres=gpu:2"]
        self._run(["sbatch", *options, str(script), *self._command(request, without)])
        return output.read_text().strip()

    def finish(self) -> None:
        self._first.terminate()  # which srun passes on to its job
        self._first.communicate(timeout=60)

    def _command(
        self, request: dict[str, object], without: str = "", for_s: float = 0
    ) -> list[str]:
        return [sys.executable, "-c", TAKE, json.dumps(request), without, str(for_s)]

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            env=self._environment,
            cwd=self._scratch,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(params=["slurm", "constrained_slurm"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Slurm]:
    cluster = Slurm(request.getfixturevalue(request.param), tmp_path)
    yield cluster
    cluster.finish()


class TestSlurm:
    @pytest.mark.parametrize("without", ["", "CUDA_VISIBLE_DEVICES"])
    def test_a_job_has_its_own_gpus(self, cluster: Slurm, without: str) -> None:
        """Slurm numbers them by the host, by the job, or both; they are the same GPUs."""
        ours = cluster.uuids[2:]
        assert cluster.step(n_gpus=2, without=without).split() == ours
        assert cluster.batch(n_gpus=2, without=without).split() == ours
        names = ["GPU-" + one.split("-")[1] for one in ours]  # their beginnings
        assert cluster.step(gpus=names, without=without).split() == names

    @pytest.mark.parametrize("without", ["", "CUDA_VISIBLE_DEVICES"])
    def test_no_gpu_of_another_job_can_be_had(self, cluster: Slurm, without: str) -> None:
        refused = cluster.step(n_gpus=3, without=without)
        assert refused == "n_gpus: 3 are requested, but 2 can be used here"
        refused = cluster.step(gpus=cluster.uuids[:1], without=without)
        assert "there is no GPU" in refused or "does not belong to this batch job" in refused

    def test_a_job_without_gpus_has_none(self, cluster: Slurm) -> None:
        assert cluster.step(has_gpus=False, n_gpus=1).startswith(
            "n_gpus: 1 are requested, but 0 can"
        )


class TestCondor:
    GPUS = (GPU(index=0, uuid="GPU-0a0a0a0a-1"), GPU(index=1, uuid="GPU-1b1b1b1b-2"))

    def test_a_job_has_its_own_gpus(self, condor: Path) -> None:
        """The pool names them in _CONDOR_AssignedGPUs alone."""
        one, two, none = (_condor_environment(condor, gpus) for gpus in (1, 2, 0))
        assert "CUDA_VISIBLE_DEVICES" not in one
        (mine,) = visible_gpus(self.GPUS, one)
        assert mine.uuid.startswith(one["_CONDOR_AssignedGPUs"])
        assert visible_gpus(self.GPUS, two) == list(self.GPUS)
        assert job_gpus(self.GPUS, none) == []


def _condor_environment(condor: Path, gpus: int) -> dict[str, str]:
    """Return the variables of a job with some GPUs."""
    user = ["chroot", str(condor / "root"), "runuser", "--user", "condoruser", "--"]
    subprocess.run([*user, "sh", "-c", SUBMIT, "sh", str(gpus)], check=True, timeout=120)
    output = condor / "root" / "home" / "condoruser" / "out"
    variables = (line.partition("=") for line in output.read_text().split("\0") if line)
    return {name: value for name, _, value in variables}
