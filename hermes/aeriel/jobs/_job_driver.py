"""The driver of a run's jobs: submits them, watches them, and submits again what was lost."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hermes.aeriel.jobs._chunks import Chunk, Progress
from hermes.aeriel.jobs._engine import PROGRAM, Engine, JobId, JobState, Submission
from hermes.aeriel.jobs._files import RunDirectory, SubmissionDirectory, Work, is_done, refresh
from hermes.aeriel.jobs._options import JobOptions
from hermes.aeriel.jobs._servers import RunServers
from hermes.errors import EngineError, JobsError, log_tail

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


class JobDriver:
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
        submission = client_submission(
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


def client_submission(
    options: JobOptions, run: str, directory: Path, name: str, n_jobs: int
) -> Submission:
    """Return the jobs of clients, as many as there are chunks in the submission of this name."""
    return Submission(
        run=run,
        command=(*PROGRAM, "infer", str(directory), name),
        n_jobs=n_jobs,
        directory=directory / name,
        partition=options.partition,
        walltime=options.walltime,
        arguments=options.job_args,
    )
