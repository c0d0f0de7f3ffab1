"""Runs: files through a model in batch jobs, which end with this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.files import Hooks, Request, file_stamp
from hermes.aeriel.jobs._beacon import Beacon
from hermes.aeriel.jobs._chunks import Progress, chunks
from hermes.aeriel.jobs._engine import Engine
from hermes.aeriel.jobs._engines import find_engine
from hermes.aeriel.jobs._files import RunDirectory
from hermes.aeriel.jobs._job_driver import JobDriver, client_submission
from hermes.aeriel.jobs._options import JobOptions
from hermes.aeriel.jobs._reaper import Reaper
from hermes.aeriel.jobs._server_request import ServerRequest, server_submission
from hermes.aeriel.jobs._servers import RunServers, ServerElsewhere, ServerJobs
from hermes.aeriel.supervise import ServerSpec
from hermes.errors import ParameterError


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
    refuse_hooks(request.hooks for request in requests)
    with started_run(options, directory) as (run, engine):
        todo = chunks(_anywhere(requests), options.files_per_job, options.servers)
        servers: RunServers = (
            ServerJobs(run, engine, options, server, min(options.servers, len(todo)))
            if isinstance(server, ServerRequest)
            else ServerElsewhere(run, server, is_advertised=is_advertised)
        )
        JobDriver(run, engine, options, servers, on_progress).drive(todo)


def refuse_hooks(hooks: Iterable[Hooks]) -> None:
    """Raise ParameterError where there are hooks, which jobs do not have."""
    if any(each.given for each in hooks):
        raise ParameterError("engine", "batch jobs do not have the hooks of a task; use local")


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
    """Return requests that mean the same in any working directory, and any process."""
    return [
        replace(
            request,
            input_files=tuple(file.absolute() for file in request.input_files),
            output_file=request.output_file.absolute(),
            fingerprint=request.fingerprint_of(file_stamp(*request.input_files)),
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
        engine.check(client_submission(options, "check", Path(directory), "", 1))
