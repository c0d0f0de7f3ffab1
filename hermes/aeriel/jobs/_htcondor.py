"""HTCondor, by condor_submit, condor_q and condor_rm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hermes.aeriel.jobs._engine import JobId, JobState, Phase, Submission, run_command
from hermes.errors import ParameterError

LEASE_S = 120

# JobStatus of a job's ad. A job that is being removed still runs; one that is completed does not.
_PHASES: Mapping[int, Phase] = {
    1: "queued",
    2: "running",
    3: "running",
    5: "held",
    6: "running",
    7: "running",
}


class HTCondor:
    """HTCondor, with a file system that the hosts of submission and execution share."""

    def check(self, submission: Submission) -> None:
        """Have HTCondor look at jobs without submitting them."""
        if submission.partition:
            problem = "is Slurm's; job_args takes lines of HTCondor's submit description"
            raise ParameterError("partition", problem)
        if submission.walltime and not submission.walltime.isdigit():
            problem = f"{submission.walltime!r} is not a number of seconds, as HTCondor takes it"
            raise ParameterError("walltime", problem)
        _write_description(submission)
        run_command(["condor_submit", "-dry-run", "/dev/null", str(submission.description)])

    def submit(self, submission: Submission) -> str:
        """Submit jobs, and return their cluster."""
        _write_description(submission)
        said = run_command(["condor_submit", "-terse", str(submission.description)])
        return said.split(".")[0].strip()  # 12.0 - 12.3

    def states(self, run: str) -> Mapping[JobId, JobState]:
        """Return the jobs of a run that have not ended."""
        return parse_states(run_command(states_command(run)))

    def cancel(self, run: str) -> None:
        """Cancel all jobs of a run."""
        run_command(cancel_command(run))


def _write_description(submission: Submission) -> None:
    submission.description.write_text(description(submission))


def description(submission: Submission) -> str:
    """Return the submit description of jobs."""
    program, *arguments = submission.command
    lines = [
        # Users may say otherwise: some pools do not let all of the environment pass.
        "getenv = true",
        # The jobs of a node that is lost count as running for so long; by default for 40 minutes.
        f"job_lease_duration = {LEASE_S}",
        *([f"allowed_job_duration = {submission.walltime}"] if submission.walltime else []),
        *([f"request_gpus = {submission.n_gpus}"] if submission.n_gpus else []),
        *submission.arguments,
        # Ours come last, and win: the run finds its jobs by them.
        "universe = vanilla",
        f"executable = {_plain(program)}",
        f'arguments = "{" ".join(map(_quoted, arguments))} $(Process)"',
        "transfer_executable = false",
        "should_transfer_files = no",
        f"initialdir = {_plain(str(submission.directory))}",
        "output = $(Process).log",
        "error = $(Process).log",
        f'+HermesRun = "{submission.run}"',
        f"batch_name = {submission.run}",
        # What is held does not go on by itself; the driver submits its files again.
        "periodic_remove = JobStatus == 5",
        f"queue {submission.n_jobs}",
    ]
    return "".join(f"{line}\n" for line in lines)


def _plain(text: str) -> str:
    """Return a text that a submit description takes as it is: $ begins a macro there."""
    return text.replace("$", "$(DOLLAR)")


def _quoted(argument: str) -> str:
    """Return an argument as the new syntax of submit descriptions has it."""
    text = argument.replace("'", "''").replace('"', '""')
    return _plain(f"'{text}'")


def states_command(run: str) -> list[str]:
    """Return the command that lists the jobs of a run that have not ended, for `parse_states`."""
    facts = ["ClusterId", "ProcId", "JobStatus", "HoldReason"]
    return ["condor_q", "-constraint", _constraint(run), "-autoformat:t", *facts]


def parse_states(text: str) -> dict[JobId, JobState]:
    """Return the jobs that condor_q lists."""
    rows: list[Sequence[str]] = [line.split("\t", 3) for line in text.splitlines()]
    return {
        JobId(cluster, int(process)): JobState(
            phase=_PHASES[int(status)], reason=reason if reason != "undefined" else ""
        )
        for cluster, process, status, reason in rows
        if int(status) in _PHASES
    }


def cancel_command(run: str) -> list[str]:
    """Return the command that cancels all jobs of a run."""
    return ["condor_rm", "-constraint", _constraint(run)]


def _constraint(run: str) -> str:
    return f'HermesRun == "{run}"'
