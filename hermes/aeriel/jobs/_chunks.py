"""The files of each job of a run, and how far the run has come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from hermes.aeriel.files import Request

# What makes a job of a few minutes, and keeps more than one client of each server busy.
BYTES_PER_JOB = 4 << 30
MOST_FILES_PER_JOB = 500
FEWEST_JOBS = 4


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come.

    Parameters
    ----------
    queued, running, done
        Jobs. Those that are not submitted yet are queued too.
    files_done, files
        Files that are done, and all of them.
    rows, rows_per_s
        Rows that this run has written, and how fast.
    reason
        Why the first job in the queue waits, in the batch system's words.
    """

    queued: int
    running: int
    done: int
    files_done: int
    files: int
    rows: int
    rows_per_s: float
    reason: str

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason and not self.running else ""
        return (
            f"jobs: {self.queued} queued{why}, {self.running} running, {self.done} done; "
            f"{self.files_done} of {self.files} files, {self.rows_per_s:.4g} rows/s"
        )


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """The files of a job.

    Parameters
    ----------
    requests
        What to do.
    attempts
        How often jobs for them have ended early.
    """

    requests: tuple[Request, ...]
    attempts: int = 0


def chunks(requests: Sequence[Request], files_per_job: int, n_servers: int = 1) -> list[Chunk]:
    """Return the files of each job.

    Parameters
    ----------
    requests
        All files.
    files_per_job
        How many a job gets; 0: as many as make a few minutes, going by their sizes.
    n_servers
        How many servers are to be kept busy.
    """
    n_bytes = 0 if files_per_job else sum(_size(each) for each in requests)
    n_jobs = max(
        -(-n_bytes // BYTES_PER_JOB),
        -(-len(requests) // MOST_FILES_PER_JOB),
        min(FEWEST_JOBS * n_servers, len(requests)),
    )
    return [
        Chunk(requests=part)
        for part in _parts(requests, files_per_job or -(-len(requests) // n_jobs))
    ]


def _parts(requests: Sequence[Request], size: int) -> Iterator[tuple[Request, ...]]:
    rest = iter(requests)
    while part := tuple(islice(rest, size)):
        yield part


def _size(request: Request) -> int:
    return sum(file.stat().st_size for file in request.input_files)
