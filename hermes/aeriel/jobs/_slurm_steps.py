"""Steps of the Slurm allocation in which the driver runs, by srun."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from secrets import token_hex

import psutil

from hermes.aeriel.jobs._engine import JobId, JobState, Submission
from hermes.errors import EngineError, ParameterError

# srun ends its step when it ends, and waits itself while the allocation is full. So what a srun of
# this host has in its environment stands for the step, on whichever node that is.
MARK = "HERMES_STEP"


class SlurmSteps:
    """Steps of one allocation; they end with it, whatever else happens."""

    def check(self, submission: Submission) -> None:
        """Refuse what an allocation has already, and a driver outside of one."""
        if "SLURM_JOB_ID" not in os.environ:
            problem = "slurm-steps takes a driver that runs in an allocation, by sbatch or salloc"
            raise ParameterError("engine", problem)
        for name in ("partition", "walltime"):
            if getattr(submission, name):
                raise ParameterError(name, "is that of the allocation; give it to sbatch or salloc")

    def submit(self, submission: Submission) -> str:
        """Start a srun for each job, and return a name for all of them."""
        name = token_hex(4)
        for number in range(submission.n_jobs):
            command = step_command(submission, number)
            environment = {**os.environ, MARK: f"{submission.run} {name} {number}"}
            try:
                with (submission.directory / f"{number}.log").open("ab") as log:
                    subprocess.Popen(
                        command,
                        env=environment,
                        cwd=submission.directory,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
            except OSError as error:
                problem = f"cannot be run: {error.strerror}"
                raise EngineError(command=tuple(command), problem=problem) from error
        return name

    def states(self, run: str) -> Mapping[JobId, JobState]:
        """Return the steps of a run that have not ended; those that wait count as running."""
        return {job: JobState(phase="running") for job, _ in _processes(run)}

    def cancel(self, run: str) -> None:
        """End the steps of a run."""
        for _, process in _processes(run):
            try:
                process.terminate()
            except psutil.NoSuchProcess:  # it ended
                continue


def step_command(submission: Submission, number: int) -> list[str]:
    """Return the command that runs a job as a step."""
    return [
        "srun",
        "--exact",
        "--nodes=1",
        "--ntasks=1",
        f"--gres={f'gpu:{submission.n_gpus}' if submission.n_gpus else 'none'}",
        *submission.arguments,
        f"--job-name={submission.run}",
        *submission.command,
        str(number),
    ]


def _processes(run: str) -> Iterator[tuple[JobId, psutil.Process]]:
    for process in psutil.process_iter(["environ", "status"]):
        words = (process.info["environ"] or {}).get(MARK, "").split()
        if words[:1] == [run] and process.info["status"] != psutil.STATUS_ZOMBIE:
            yield JobId(words[1], int(words[2])), process
