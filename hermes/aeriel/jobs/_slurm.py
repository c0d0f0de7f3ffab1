"""Slurm, by sbatch, squeue and scancel."""

from __future__ import annotations

from collections.abc import Mapping

from hermes.aeriel.jobs._engine import JobId, JobState, Phase, Submission, run_command

# sbatch takes a script, and an array's element learns its number from its environment alone.
SCRIPT = """#!/bin/sh
exec "$@" "$SLURM_ARRAY_TASK_ID"
"""
_QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD"}


class Slurm:
    """Slurm; its accounting (sacct) is not needed."""

    def check(self, submission: Submission) -> None:
        """Have Slurm look at jobs without submitting them."""
        submission.description.write_text(SCRIPT)
        run_command(submit_command(submission, "--test-only"))

    def submit(self, submission: Submission) -> str:
        """Submit jobs as an array, and return its id."""
        submission.description.write_text(SCRIPT)
        return run_command(submit_command(submission)).strip().partition(";")[0]

    def states(self, run: str) -> Mapping[JobId, JobState]:
        """Return the jobs of a run that have not ended."""
        return parse_states(run_command(states_command(run)))

    def cancel(self, run: str) -> None:
        """Cancel all jobs of a run."""
        run_command(cancel_command(run))


def submit_command(submission: Submission, *options: str) -> list[str]:
    """Return the command that submits jobs; its output is the id."""
    gpus = [f"--gres=gpu:{submission.n_gpus}"] if submission.n_gpus else []
    return [
        "sbatch",
        *([f"--partition={submission.partition}"] if submission.partition else []),
        *([f"--time={submission.walltime}"] if submission.walltime else []),
        *gpus,
        *submission.arguments,
        # Ours come last, and win: the run finds its jobs by them.
        "--parsable",
        f"--job-name={submission.run}",
        f"--array=0-{submission.n_jobs - 1}",
        f"--chdir={submission.directory}",
        # % begins a number of the job in the name of this file.
        f"--output={str(submission.directory).replace('%', '%%')}/%a.log",
        # A job that lost its node would wait for minutes; the driver submits its files again.
        "--no-requeue",
        *options,
        str(submission.description),
        *submission.command,
    ]


def states_command(run: str) -> list[str]:
    """Return the command that lists the jobs of a run that have not ended, for `parse_states`."""
    return ["squeue", "--noheader", "--array", f"--name={run}", "--format=%F %K %T %r"]


def parse_states(text: str) -> dict[JobId, JobState]:
    """Return the jobs that squeue lists."""
    states = {}
    for line in text.splitlines():
        submission, number, name, *reason = line.split(maxsplit=3)
        why = "" if reason == ["None"] else "".join(reason)
        phase: Phase = "queued" if name in _QUEUED else "running"
        # A job that another program has submitted, without an array, has N/A for its number.
        index = int(number) if number.isdigit() else 0
        states[JobId(submission, index)] = JobState(phase=phase, reason=why)
    return states


def cancel_command(run: str) -> list[str]:
    """Return the command that cancels all jobs of a run."""
    return ["scancel", f"--name={run}"]
