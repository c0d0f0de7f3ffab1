"""What is asked of batch systems, and how their answers are read; tests/clusters has real ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from hermes.aeriel.jobs import JobOptions, check_jobs
from hermes.aeriel.jobs._engine import JobId, JobState, Submission, run_command
from hermes.aeriel.jobs._engines import ENGINES
from hermes.aeriel.jobs._htcondor import description
from hermes.aeriel.jobs._htcondor import parse_states as parse_condor_q
from hermes.aeriel.jobs._options import EngineName
from hermes.aeriel.jobs._slurm import parse_states as parse_squeue
from hermes.aeriel.jobs._slurm import submit_command
from hermes.aeriel.jobs._slurm_steps import step_command
from hermes.aeriel.supervise import ServerSpec
from hermes.errors import EngineError, ParameterError


def submission(directory: Path = Path("/shared/run/0"), **facts: object) -> Submission:
    command = ("/env/bin/python", "-m", "jobs", "it's $HOME")
    return Submission(run="hermes-1", command=command, n_jobs=3, directory=directory, **facts)  # type: ignore[arg-type]


def test_every_engine_has_a_name_on_the_command_line() -> None:
    assert {"local", *ENGINES} == set(EngineName.__args__)  # type: ignore[attr-defined]


class TestSlurm:
    def test_what_is_submitted(self) -> None:
        asked = submission(
            partition="gpu", walltime="10:00", n_gpus=2, arguments=("--mem=1G", "--job-name=mine")
        )
        assert submit_command(asked) == [
            "sbatch",
            "--partition=gpu",
            "--time=10:00",
            "--gres=gpu:2",
            "--mem=1G",
            "--job-name=mine",
            "--parsable",
            "--job-name=hermes-1",
            "--array=0-2",
            "--chdir=/shared/run/0",
            "--output=/shared/run/0/%a.log",
            "--no-requeue",
            "/shared/run/0/job.sh",
            *asked.command,
        ]

    def test_a_percent_sign_in_a_path_is_no_pattern(self) -> None:
        command = submit_command(submission(Path("/shared/50%")))
        assert "--output=/shared/50%%/%a.log" in command

    def test_what_is_listed(self) -> None:
        text = (
            "12 0 RUNNING None\n12 10 PENDING Resources\n13 0 COMPLETING None\n13 1 PENDING (a b)\n"
            "14 N/A RUNNING None\n"  # of no array
        )
        assert parse_squeue(text) == {
            JobId("12", 0): JobState(phase="running"),
            JobId("12", 10): JobState(phase="queued", reason="Resources"),
            JobId("13", 0): JobState(phase="running"),
            JobId("13", 1): JobState(phase="queued", reason="(a b)"),
            JobId("14", 0): JobState(phase="running"),
        }
        assert parse_squeue("") == {}


class TestSlurmSteps:
    def test_what_is_run(self) -> None:
        asked = submission(n_gpus=1, arguments=("--mem=1G",))
        assert step_command(asked, 2)[:4] == ["srun", "--exact", "--nodes=1", "--ntasks=1"]
        assert step_command(asked, 2)[4:7] == ["--gres=gpu:1", "--mem=1G", "--job-name=hermes-1"]
        assert step_command(asked, 2)[7:] == [*asked.command, "2"]
        assert "--gres=none" in step_command(submission(), 0)

    def test_a_driver_outside_of_an_allocation_is_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)
        with pytest.raises(ParameterError, match="by sbatch or salloc"):
            check_jobs(JobOptions(engine="slurm-steps"))
        monkeypatch.setenv("SLURM_JOB_ID", "1")
        with pytest.raises(ParameterError, match="is that of the allocation"):
            check_jobs(JobOptions(engine="slurm-steps", walltime="10:00"))
        check_jobs(JobOptions(engine="slurm-steps"))


class TestHTCondor:
    def test_what_is_submitted(self) -> None:
        asked = submission(walltime="60", n_gpus=1, arguments=("request_memory = 1GB",))
        lines = description(asked).splitlines()
        assert lines[:5] == [
            "getenv = true",
            "job_lease_duration = 120",
            "allowed_job_duration = 60",
            "request_gpus = 1",
            "request_memory = 1GB",
        ]
        assert '''arguments = "'-m' 'jobs' 'it''s $(DOLLAR)HOME' $(Process)"''' in lines
        assert '+HermesRun = "hermes-1"' in lines
        assert lines[-1] == "queue 3"

    def test_what_is_listed(self) -> None:
        rows = ["0\t2\tundefined", "1\t5\tno such file", "2\t1\tundefined", "3\t4\tundefined"]
        assert parse_condor_q("".join(f"12\t{row}\n" for row in rows)) == {
            JobId("12", 0): JobState(phase="running"),
            JobId("12", 1): JobState(phase="held", reason="no such file"),
            JobId("12", 2): JobState(phase="queued"),
        }

    @pytest.mark.parametrize("option", ["partition", "walltime"])
    def test_what_is_slurms_is_refused(self, option: str) -> None:
        with pytest.raises(ParameterError, match=option):
            check_jobs(JobOptions(engine="htcondor", **{option: "1:00"}))  # type: ignore[arg-type]


def test_a_server_in_a_job_has_no_gpus_of_its_own_choice(tmp_path: Path) -> None:
    options = JobOptions(engine="slurm", server_place="job")
    with pytest.raises(ParameterError, match="give n_gpus, how many"):
        check_jobs(options, ServerSpec(model_repository="/models", gpus=(0,)))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"servers": 2}, "there is one server without a batch system; 2 servers take --engine and"),
        ({"engine": "slurm", "servers": 2}, "there is one server on the driver's host; 2 servers"),
        ({"engine": "slurm", "server_place": "job", "servers": 0}, "0 is less than 1"),
    ],
)
def test_servers_that_cannot_be(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ParameterError, match=f"servers: {problem}"):
        JobOptions(**options)


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(EngineError, match="is this a host of the batch system"):
        run_command(["sbatch-of-nobody"])


def test_a_command_that_fails() -> None:
    program = "import sys; sys.exit('no such partition')"
    with pytest.raises(EngineError, match="ended with exit code 1: no such partition"):
        run_command([sys.executable, "-c", program])
