"""Where the server of a run is: what keeps it, and has the jobs see where it listens."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hermes._files import write_whole
from hermes.aeriel._addresses import is_only_here
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.jobs._engine import Engine, JobId, JobState, Submission
from hermes.aeriel.jobs._files import RunDirectory
from hermes.aeriel.jobs._options import JobOptions
from hermes.aeriel.supervise import ServerSpec
from hermes.errors import JobsError, ParameterError, log_tail

logger = logging.getLogger(__name__)

# A server that was ready for so long has its failures before that forgiven.
FORGIVE_S = 120.0
LOG_LINES = 20


@dataclass(frozen=True, kw_only=True)
class ServerRequest:
    """A server that is to run in a job.

    Parameters
    ----------
    spec
        What it is to be.
    log_file, monitor_file
        Files on the shared file system that take its output, and what it does; empty for none.
    """

    spec: ServerSpec
    log_file: str = ""
    monitor_file: str = ""

    def write(self, path: Path) -> None:
        """Write it to a file, for `read`."""
        facts = {
            "spec": self.spec.to_json(),
            "log_file": self.log_file,
            "monitor_file": self.monitor_file,
        }
        write_whole(path, json.dumps(facts), mode=0o600, durable=False)

    @classmethod
    def read(cls, path: Path) -> ServerRequest:
        """Return what was written to a file."""
        facts = json.loads(path.read_text())
        return cls(**{**facts, "spec": ServerSpec.from_json(facts["spec"])})


class RunServer(Protocol):
    """The server of a run, as the driver sees it."""

    def tend(self, states: Mapping[JobId, JobState]) -> bool:
        """Keep the server running, and tell whether it is ready.

        Parameters
        ----------
        states
            The run's jobs that have not ended.
        """


class ServerElsewhere:
    """A server that something else keeps, such as the supervisor on the driver's host.

    Parameters
    ----------
    run
        The run.
    current
        Returns where it listens just now; None while it does not.
    is_advertised
        Whether the user has named the address: it is believed then.
    """

    def __init__(
        self, run: RunDirectory, current: Callable[[], Endpoint | None], *, is_advertised: bool
    ) -> None:
        self._run = run
        self._current = current
        self._is_advertised = is_advertised
        self._published: Endpoint | None = None

    def tend(self, states: Mapping[JobId, JobState]) -> bool:  # noqa: ARG002 (no job of these)
        """Have the jobs see where it listens, and tell whether it does."""
        endpoint = self._current()
        if endpoint != self._published:
            if endpoint is None:
                self._run.endpoint.unlink(missing_ok=True)
            else:
                check_reachable(endpoint, is_advertised=self._is_advertised)
                endpoint.write(self._run.endpoint)
            self._published = endpoint
        return endpoint is not None


class ServerJob:
    """A server in a job of its own, which is submitted again when it ends, a few times at most.

    Parameters
    ----------
    run, engine, options
        The run.
    request
        What the server is to be.
    """

    def __init__(
        self, run: RunDirectory, engine: Engine, options: JobOptions, request: ServerRequest
    ) -> None:
        self._run = run
        self._engine = engine
        self._options = options
        self._spec = request.spec
        self._job: JobId | None = None
        self._n_submissions = 0
        self._failures = 0
        self._ready_at: float | None = None
        request.write(run.server)

    def tend(self, states: Mapping[JobId, JobState]) -> bool:
        """Submit the server where no job has it, and tell whether it is ready.

        Raises
        ------
        JobsError
            It has ended too often.
        """
        if self._job is None or self._job not in states:
            if self._job is not None:
                self._note_end()
            self._submit()
            return False
        is_ready = self._run.endpoint.exists()
        if is_ready and self._ready_at is None:
            self._ready_at = time.monotonic()
        return is_ready

    def _note_end(self) -> None:
        self._run.endpoint.unlink(missing_ok=True)  # of a server that was killed
        was_well = self._ready_at is not None and time.monotonic() > self._ready_at + FORGIVE_S
        self._failures = 1 if was_well else self._failures + 1
        self._ready_at = None
        log = self._run.submission(f"server-{self._n_submissions - 1}").log(0)
        tail = log_tail(log, LOG_LINES)
        tail = f"the job of the server has ended; its log, {log}, ends with:\n{tail}"
        if self._failures > self._options.job_retries:
            raise JobsError((f"{tail}\nIt was submitted {self._n_submissions} times",))
        logger.warning(
            "it is submitted again (%d of %d): %s", self._failures, self._options.job_retries, tail
        )

    def _submit(self) -> None:
        files = self._run.submission(f"server-{self._n_submissions}")
        files.path.mkdir()
        submission = server_submission(self._options, self._spec, self._run.name, files.path)
        self._job = JobId(self._engine.submit(submission), 0)
        self._n_submissions += 1
        logger.info("submitted the server of %s as %s", self._run.name, self._job.submission)


def server_submission(
    options: JobOptions, spec: ServerSpec, run: str, directory: Path
) -> Submission:
    """Return the job of a server.

    Parameters
    ----------
    options
        The batch system, and what to ask of it.
    spec
        What the server is to be.
    run
        The name of the run.
    directory
        The directory of the submission, in that of the run.

    Raises
    ------
    ParameterError
        The server asks for certain GPUs, of which the batch system has the choice.
    """
    if spec.gpus:
        problem = "the batch system chooses the GPUs of a job; give n_gpus, how many"
        raise ParameterError("gpus", problem)
    return Submission(
        run=run,
        command=(
            *(sys.executable, "-P", "-m", "hermes.aeriel.jobs"),
            *("serve", str(directory.parent)),
        ),
        n_jobs=1,
        directory=directory,
        partition=options.partition,
        walltime=options.walltime,
        arguments=options.server_job_args or options.job_args,
        n_gpus=spec.n_gpus or 0,
    )


def check_reachable(endpoint: Endpoint, *, is_advertised: bool) -> None:
    """Raise ParameterError where only the server's own host can use an endpoint."""
    if is_advertised or not is_only_here(endpoint.grpc):
        return
    problem = (
        f"jobs on other hosts cannot reach the server at {endpoint.grpc}. Have it listen on an "
        "address of the network (listen=0.0.0.0), and name its host as other hosts know it: "
        "--advertise HOST"
    )
    raise ParameterError("advertise", problem)
