"""A server for jobs that another program submits, and the end of these jobs with that program."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hermes.aeriel.files import Server
from hermes.aeriel.jobs._client_server import ClientServer
from hermes.aeriel.jobs._engine import Engine
from hermes.aeriel.jobs._files import RunDirectory
from hermes.aeriel.jobs._options import JobOptions
from hermes.aeriel.jobs._run import started_run
from hermes.aeriel.jobs._server_request import ServerRequest
from hermes.aeriel.jobs._servers import RunServers, ServerElsewhere, ServerJobs
from hermes.aeriel.jobs._work import ends_with
from hermes.aeriel.supervise import ServerSpec, Wishes, shared_server
from hermes.errors import ServerTimeoutError

POLL_S = 0.5


@dataclass(frozen=True)
class ServedRun:
    """A run whose jobs another program submits.

    Parameters
    ----------
    run, engine, server
        The run, its batch system and its server.
    """

    run: RunDirectory
    engine: Engine
    server: RunServers

    @property
    def name(self) -> str:
        """The name that each job has to have: by it the jobs are cancelled."""
        return self.run.name

    @property
    def directory(self) -> Path:
        """The directory of the run, which `server_of_run` takes; it is gone after the run."""
        return self.run.path

    def tend(self) -> bool:
        """Keep the server running, and tell whether it is ready; to be called once in a while.

        Raises
        ------
        JobsError
            The job of the server has ended too often.
        EngineError
            The batch system cannot be used.
        """
        return self.server.tend(self.engine.states(self.run.name), self.server.numbers)


@contextmanager
def served_run(spec: ServerSpec, options: JobOptions, directory: Path) -> Iterator[ServedRun]:
    """Yield a run with a ready server; the jobs of the run end when this process does.

    Parameters
    ----------
    spec
        What the server is to be.
    options
        The batch system, and where the server runs.
    directory
        On a file system that the hosts of the jobs share; gets a directory for the run.

    Raises
    ------
    JobsError, ServerError, EngineError
        The server does not start.
    ParameterError
        Jobs on other hosts cannot reach the server.
    """
    with started_run(options, directory) as (run, engine), ExitStack() as stack:
        server: RunServers
        if options.server_place == "job":
            server = ServerJobs(run, engine, options, ServerRequest(spec=spec), 1)
        else:
            beside = stack.enter_context(shared_server(spec, what=run.name, wishes=Wishes()))
            server = ServerElsewhere(run, beside.current, is_advertised=bool(spec.advertise))
        served = ServedRun(run, engine, server)
        deadline = time.monotonic() + spec.timeout_s
        while not served.tend():
            if time.monotonic() > deadline:
                raise ServerTimeoutError(
                    address=str(run.endpoint(0)),
                    timeout_s=spec.timeout_s,
                    waiting_for="the job of the server",
                )
            time.sleep(POLL_S)
        yield served


@contextmanager
def server_of_run(directory: Path, *, wait_s: float) -> Iterator[Server]:
    """Yield the server of a run, in one of its jobs; the job ends when the driver's beacon stops.

    Parameters
    ----------
    directory
        The directory of the run.
    wait_s
        Seconds to wait for the server, and for one that is started again.
    """
    run = RunDirectory(directory)
    with ends_with(run):
        yield ClientServer(run, 0, 0, wait_s)
