"""The driver of a run: submits jobs, watches them, and submits again what was lost."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.files import Request
from hermes.aeriel.jobs._beacon import Beacon
from hermes.aeriel.jobs._chunks import Chunk, Progress, chunks
from hermes.aeriel.jobs._engine import Engine, JobId, JobState, Submission
from hermes.aeriel.jobs._engines import find_engine
from hermes.aeriel.jobs._files import RunDirectory, SubmissionDirectory, Work, is_done, refresh
from hermes.aeriel.jobs._options import JobOptions
from hermes.aeriel.jobs._reaper import Reaper
from hermes.aeriel.jobs._server_request import ServerRequest, server_submission
from hermes.aeriel.jobs._servers import RunServers, ServerElsewhere, ServerJobs
from hermes.aeriel.supervise import ServerSpec
from hermes.errors import EngineError, JobsError, ParameterError, log_tail

logger = logging.getLogger(__name__)

# Slurm's MaxArraySize, by default; also as many as are submitted at a time.
MOST_JOBS = 1001
FIRST_POLL_S, LONGEST_POLL_S = 0.5, 10.0
# A batch system that does not answer for so long is given up.
PATIENCE_S = 600.0
LOG_LINES = 5


@dataclass(frozen=True, kw_only=True)
class _Job:
    chunk: Chunk
    files: SubmissionDirectory
    number: int
    server: int

    @property
    def log(self) -> Path:
        return self.files.log(self.number)


def infer_in_jobs(
    requests: Sequence[Request],
    options: JobOptions,
    directory: Path,
    *,
    server: Callable[[], Endpoint | None] | ServerRequest,
    is_advertised: bool = False,
    on_progress: Callable[[Progress], object],
) -> None:
    """Stream files through a model in batch jobs, and return when all of them are done.

    The jobs end when this process does, however it ends: a reaper cancels them, and where that
    is gone too, they find that the driver's beacon stands still.

    Parameters
    ----------
    requests
        The files that are to be done.
    options
        The batch system, and what to ask of it.
    directory
        On a file system that the hosts of the jobs share; gets a directory for the run.
    server
        A function that returns where a server listens just now, None while it does not; or what
        the servers are to be that run in jobs of their own, as many as `options` says.
    is_advertised
        Whether the user has named the address of a server that is not in a job.
    on_progress
        Called once in a while.

    Raises
    ------
    JobsError
        Files could not be done, while those of other jobs are; or each server's job ends each time.
    ParameterError
        Jobs on other hosts cannot reach the server, or there are hooks, which jobs do not have.
    EngineError
        The batch system cannot be used.
    """
    if any(request.hooks.given for request in requests):
        raise ParameterError("engine", "batch jobs do not have the hooks of a task; use local")
    with started_run(options, directory) as (run, engine):
        todo = chunks(_anywhere(requests), options.files_per_job, options.servers)
        servers: RunServers = (
            ServerJobs(run, engine, options, server, min(options.servers, len(todo)))
            if isinstance(server, ServerRequest)
            else ServerElsewhere(run, server, is_advertised=is_advertised)
        )
        _Driver(run, engine, options, servers, on_progress).drive(todo)


@contextmanager
def started_run(options: JobOptions, directory: Path) -> Iterator[tuple[RunDirectory, Engine]]:
    """Yield a run, whose jobs end with the block, or with this process.

    Parameters
    ----------
    options
        The batch system.
    directory
        On a file system that the hosts of the jobs share; gets a directory for the run.
    """
    engine = find_engine(options.engine)
    run = RunDirectory.create(directory)
    with Reaper(run, options.engine, engine):
        with Beacon(run):
            yield run, engine
        run.finish()


def _anywhere(requests: Sequence[Request]) -> list[Request]:
    """Return requests that mean the same in any working directory."""
    return [
        replace(
            request,
            input_files=tuple(file.absolute() for file in request.input_files),
            output_file=request.output_file.absolute(),
        )
        for request in requests
    ]


def check_jobs(options: JobOptions, server: ServerSpec | None = None) -> None:
    """Have the batch system look at jobs as they are going to be, and submit none.

    Parameters
    ----------
    options
        The batch system, and what to ask of it.
    server
        A server that is to run in a job.

    Raises
    ------
    EngineError
        The batch system is not here, or refuses the jobs.
    ParameterError
        An option is not for this batch system, or the server asks for certain GPUs.
    """
    engine = find_engine(options.engine)
    with TemporaryDirectory(prefix="hermes-") as directory:
        if server is not None:
            engine.check(server_submission(options, server, "check", Path(directory), 0))
        engine.check(_client_submission(options, "check", Path(directory), "", 1))


def _client_submission(
    options: JobOptions, run: str, directory: Path, name: str, n_jobs: int
) -> Submission:
    return Submission(
        run=run,
        command=(
            *(sys.executable, "-P", "-m", "hermes.aeriel.jobs"),
            *("infer", str(directory), name),
        ),
        n_jobs=n_jobs,
        directory=directory / name,
        partition=options.partition,
        walltime=options.walltime,
        arguments=options.job_args,
    )


class _Driver:
    """Keeps jobs in the queue until their files are done."""

    def __init__(
        self,
        run: RunDirectory,
        engine: Engine,
        options: JobOptions,
        servers: RunServers,
        on_progress: Callable[[Progress], object],
    ) -> None:
        self._run = run
        self._engine = engine
        self._options = options
        self._servers = servers
        self._on_progress = on_progress
        self._jobs: dict[JobId, _Job] = {}
        self._n_submissions = 0
        self._n_done = 0
        self._rows = 0
        self._problems: list[str] = []

    def drive(self, waiting: list[Chunk]) -> None:
        """Return when all files are done, or raise JobsError."""
        began = answered_at = time.monotonic()
        n_files = sum(len(chunk.requests) for chunk in waiting)
        while waiting or self._jobs:
            try:
                states = self._engine.states(self._run.name)
                for job_id in self._jobs.keys() - states.keys():
                    waiting += self._conclude(self._jobs.pop(job_id))
                needed = self._servers.numbers if waiting else set(self._clients())
                if self._servers.tend(states, needed) and waiting and len(self._jobs) < MOST_JOBS:
                    n = MOST_JOBS - len(self._jobs)
                    self._submit(waiting[:n])
                    del waiting[:n]
            except EngineError as error:
                # It may be busy, or take no more jobs just now; else it has never worked.
                if not self._jobs or time.monotonic() > answered_at + PATIENCE_S:
                    raise
                logger.warning("%s", error)
            else:
                answered_at = time.monotonic()
                self._report(states, waiting, n_files, time.monotonic() - began)
            time.sleep(min(LONGEST_POLL_S, FIRST_POLL_S + (time.monotonic() - began) / 60))
        # A server that nobody needs any more may still be in the queue.
        states = self._engine.states(self._run.name)
        if any(state.phase != "running" for state in states.values()):
            self._engine.cancel(self._run.name)
        if self._problems:
            raise JobsError(tuple(self._problems))

    def _clients(self) -> Counter[int]:
        """Return how many jobs each server has."""
        return Counter(job.server for job in self._jobs.values())

    def _submit(self, waiting: Sequence[Chunk]) -> None:
        name = str(self._n_submissions)
        files = self._run.submission(name)
        files.path.mkdir(exist_ok=True)
        servers = []
        clients = self._clients()
        for index, chunk in enumerate(waiting):
            servers.append(min(self._servers.numbers, key=lambda server: clients[server]))
            clients[servers[-1]] += 1
            files.write_work(index, Work(requests=chunk.requests, server=servers[-1]))
        submission = _client_submission(
            self._options, self._run.name, self._run.path, name, len(waiting)
        )
        job_id = self._engine.submit(submission)
        self._n_submissions += 1
        logger.info("submitted %d jobs of %s as %s", len(waiting), self._run.name, job_id)
        self._jobs |= {
            JobId(job_id, index): _Job(chunk=chunk, files=files, number=index, server=server)
            for index, (chunk, server) in enumerate(zip(waiting, servers, strict=True))
        }

    def _conclude(self, job: _Job) -> list[Chunk]:
        """Return what is left to do of a job that has ended."""
        refresh(job.files.path)
        status = job.files.read_status(job.number)
        self._rows += status.rows
        left = []
        for request in job.chunk.requests:
            failure = status.failures.get(str(request.output_file))
            if failure is not None:
                self._problems.append(f"{request.output_file}: {failure} (log: {job.log})")
            elif not is_done(request):
                left.append(request)
        if not left:
            self._n_done += 1
            return []
        again = Chunk(requests=tuple(left), attempts=job.chunk.attempts + 1)
        tail = log_tail(job.log, LOG_LINES)
        if again.attempts > self._options.job_retries:
            self._n_done += 1
            files = f"{len(left)} file{'s' * (len(left) != 1)} from {left[0].input_files[0]} on"
            ended = f"jobs ended before they were done, {again.attempts} times"
            self._problems.append(f"{files}: {ended}; the last log, {job.log}, ends with:\n{tail}")
            return []
        logger.warning(
            "a job ended early and is submitted again (%d of %d); its log, %s, ends with:\n%s",
            again.attempts,
            self._options.job_retries,
            job.log,
            tail,
        )
        return [again]

    def _report(
        self,
        states: Mapping[JobId, JobState],
        waiting: Sequence[Chunk],
        n_files: int,
        seconds: float,
    ) -> None:
        running = [job for job in self._jobs if job in states and states[job].phase == "running"]
        rows = self._rows + sum(
            self._jobs[job].files.read_status(self._jobs[job].number).rows for job in running
        )
        left = sum(len(job.chunk.requests) for job in self._jobs.values())
        left += sum(len(chunk.requests) for chunk in waiting)
        reasons = (state.reason for state in states.values() if state.phase == "queued")
        self._on_progress(
            Progress(
                queued=len(self._jobs) - len(running) + len(waiting),
                running=len(running),
                done=self._n_done,
                files_done=n_files - left,
                files=n_files,
                rows=rows,
                rows_per_s=rows / seconds if seconds else 0.0,
                reason=next(reasons, ""),
            )
        )
