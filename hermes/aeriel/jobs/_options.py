"""The options of batch jobs, each once: name, default, help text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hermes.aeriel._options import option
from hermes.errors import ParameterError

EngineName = Literal["local", "slurm", "slurm-steps", "htcondor"]
ServerPlace = Literal["driver", "job"]


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Which batch system runs the clients and the server, and how; none of it changes results.

    The parameters of the tasks that submit jobs are made of these fields. Their help texts say
    what they are.
    """

    engine: EngineName = option(  # noqa: RUF009 (a field)
        "What runs the inference: this process, or a batch system.", "local", changes_result=False
    )
    server_place: ServerPlace = option(  # noqa: RUF009 (a field)
        "Where the server of batch jobs runs: on the driver's node, or as a job of its own.",
        "driver",
        changes_result=False,
    )
    servers: int = option(
        "Servers, each in a job of its own; the jobs of clients are spread over them.",
        1,
        changes_result=False,
    )
    files_per_job: int = option(
        "Input files of a job; 0: what makes jobs of a few minutes.", 0, changes_result=False
    )
    job_retries: int = option(
        "How often files are submitted again whose job ended early.", 3, changes_result=False
    )
    partition: str = option("Slurm's partition of the jobs.", "", changes_result=False)
    walltime: str = option(
        "Time limit of a job, as the batch system writes it.", "", changes_result=False
    )
    job_args: tuple[str, ...] = option(
        "Further arguments of sbatch, or lines of HTCondor's submit description.",
        (),
        changes_result=False,
    )
    server_job_args: tuple[str, ...] = option(
        "The same for the job of the server, in place of job_args.", (), changes_result=False
    )

    def __post_init__(self) -> None:
        if self.servers < 1:
            raise ParameterError("servers", f"{self.servers} is less than 1")
        if self.servers > 1 and (self.engine == "local" or self.server_place != "job"):
            where = "without a batch system" if self.engine == "local" else "on the driver's host"
            problem = f"there is one server {where}; {self.servers} servers take"
            raise ParameterError("servers", f"{problem} --engine and --server-place job")
