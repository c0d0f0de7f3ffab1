"""What the server of a run is to be, and the job that it runs in."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from hermes._files import write_whole
from hermes.aeriel._addresses import is_only_here
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.jobs._engine import PROGRAM, Submission
from hermes.aeriel.jobs._options import JobOptions
from hermes.aeriel.supervise import ServerSpec
from hermes.errors import ParameterError


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

    def of_server(self, number: int) -> ServerRequest:
        """Return the request of one of several servers: the files of the first are as named."""
        return replace(
            self,
            log_file=file_of_server(self.log_file, number),
            monitor_file=file_of_server(self.monitor_file, number),
        )

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


def server_submission(
    options: JobOptions, spec: ServerSpec, run: str, directory: Path, number: int
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
    number
        Which of the run's servers it is.

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
        command=(*PROGRAM, "serve", str(directory.parent), str(number)),
        n_jobs=1,
        directory=directory,
        partition=options.partition,
        walltime=options.walltime,
        arguments=options.server_job_args or options.job_args,
        n_gpus=spec.n_gpus or 0,
    )


def file_of_server(file: str, number: int) -> str:
    """Return the file that one of several servers writes in place of a file of the first."""
    path = Path(file)
    return str(path.with_stem(f"{path.stem}-{number}")) if file and number else file


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
