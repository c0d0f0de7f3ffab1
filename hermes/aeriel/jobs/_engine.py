"""The seam to batch systems: submit, list and cancel jobs by the system's own commands."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from hermes._captured import run_captured
from hermes.errors import EngineError

COMMAND_TIMEOUT_S = 60.0
# The program of a run's processes; ``infer``, ``serve`` or ``reap`` and its arguments follow.
PROGRAM = (sys.executable, "-P", "-m", "hermes.aeriel.jobs")

Phase = Literal["queued", "running", "held"]


class JobId(NamedTuple):
    """A job: the id of what was submitted, and which of its jobs it is, from 0."""

    submission: str
    number: int


@dataclass(frozen=True, kw_only=True)
class JobState:
    """A job that has not ended.

    Parameters
    ----------
    phase
        Whether it waits in the queue, runs, or is held and never goes on.
    reason
        Why it waits or is held, in the system's words.
    """

    phase: Phase
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Some jobs of one run that are submitted together.

    Parameters
    ----------
    run
        The unique name of the run; all of its jobs are found by it.
    command
        What each of them runs. Its last argument is to be the number of the job, from 0.
    n_jobs
        How many they are.
    directory
        A directory on the shared file system for what the engine has to write. A job's log is
        ``NUMBER.log`` in it.
    partition, walltime, arguments
        What the user said: see `JobOptions`.
    n_gpus
        How many GPUs each job gets.
    """

    run: str
    command: tuple[str, ...]
    n_jobs: int
    directory: Path
    partition: str = ""
    walltime: str = ""
    arguments: tuple[str, ...] = ()
    n_gpus: int = 0

    @property
    def description(self) -> Path:
        """A file for what the engine submits."""
        return self.directory / "job.sh"


class Engine(Protocol):
    """A batch system. A new one is a class like `Slurm` in a module beside it."""

    def check(self, submission: Submission) -> None:
        """Raise ParameterError or EngineError where the system cannot run such jobs."""

    def submit(self, submission: Submission) -> str:
        """Submit jobs, and return the id of the submission."""

    def states(self, run: str) -> Mapping[JobId, JobState]:
        """Return the jobs of a run that have not ended."""

    def cancel(self, run: str) -> None:
        """Cancel all jobs of a run."""


def run_command(command: Sequence[str]) -> str:
    """Return what a command of a batch system writes.

    Raises
    ------
    EngineError
        It is not there, fails, or does not end in time.
    """
    try:
        done = run_captured(command, timeout_s=COMMAND_TIMEOUT_S)
    except OSError as error:
        problem = f"cannot be run: {error.strerror}; is this a host of the batch system?"
        raise EngineError(command=tuple(command), problem=problem) from error
    except subprocess.TimeoutExpired as error:
        problem = f"did not end within {COMMAND_TIMEOUT_S:.0f} s"
        raise EngineError(command=tuple(command), problem=problem) from error
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip() or "it wrote nothing"
        problem = f"ended with exit code {done.returncode}: {said}"
        raise EngineError(command=tuple(command), problem=problem)
    return done.stdout
