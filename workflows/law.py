r"""A law workflow on Slurm whose branches are inferences that share a server.

::

    law run workflows.law.Predictions --model-repository models --model-name classifier \
        --inputs 'data/*.h5' --output-dir results --poll-interval 10s
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any, get_args

import law
import luigi
from law.contrib.slurm import SlurmWorkflow
from luigi.freezing import FrozenOrderedDict

from hermes.aeriel._options import InputMap
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.files import Server, find_inputs, output_names
from hermes.aeriel.jobs import JobOptions, ServedRun, ServerPlace, served_run, server_of_run
from hermes.aeriel.repository import check_model, read_model
from hermes.aeriel.supervise import ServerSpec
from workflows._endpoints import EndpointTarget
from workflows.inference import InferenceTask
from workflows.parameters import AbsolutePath, Choice, FilePatterns, Text
from workflows.server import ServerParameters, TritonServerTask


class AbsolutePatterns(FilePatterns):
    """Paths and globs, made absolute: a job has another working directory than the driver."""

    def _checked(self, value: Any) -> tuple[str, ...] | InputMap:
        checked = super()._checked(value)
        if isinstance(checked, Mapping):
            return FrozenOrderedDict({name: _absolute(each) for name, each in checked.items()})
        return tuple(map(_absolute, checked))


def _absolute(pattern: Any) -> Any:
    if isinstance(pattern, str):
        return str(Path(pattern).expanduser().absolute())
    return tuple(map(_absolute, pattern))


class RunEndpoint(EndpointTarget):
    """The endpoint of the server of a run, in one of its jobs.

    Parameters
    ----------
    server
        The server.
    spec
        The specification of the server.
    """

    def __init__(self, server: Server, spec: ServerSpec) -> None:
        self._server = server
        self._spec = spec

    @property
    def endpoint(self) -> Endpoint:
        """Where the server listens, after waiting for it."""
        return self._server.endpoint

    def current(self) -> Endpoint | None:
        """Return where the server listens just now, or None while it cannot be used."""
        return self._server.current()

    def model_stamp(self, model_name: str, model_version: str) -> str:
        """Return what changes when a file of the model does."""
        return read_model(self._spec.model_repository, model_name, model_version).stamp

    def provenance(self) -> dict[str, str]:
        """Return where the models come from."""
        return self._spec.provenance()


class Predictions(ServerParameters, InferenceTask, SlurmWorkflow):  # type: ignore[misc] # law has no types
    """The predictions for some files: a branch for each, and one server for all of the branches.

    The driver, which is the command ``law run``, has the server beside it or in a job of its own.
    Server and jobs end when the driver does, however that ends. A subclass may define the hooks of
    an `InferenceTask`.

    Parameters
    ----------
    inputs : list of str, or dict
        HDF5 files, as `Validate` takes them.
    output_dir : str
        A directory on the file system that the hosts share. It gets ``predictions``, with a file
        for each input, and ``jobs``, with what law keeps of its jobs. The other parameters are
        those of `InferenceTask`, `TritonServerTask` and of law's workflows.
    server_place : str
        ``driver`` or ``job``.
    """

    inputs = AbsolutePatterns(description="HDF5 files: paths and globs, as a JSON list")
    output_dir = AbsolutePath(description="directory for everything that is written")
    server_place = Choice(
        default="driver",
        choices=get_args(ServerPlace),
        significant=False,
        description="where the server runs: on the driver's node, or as a job of its own",
    )
    # Jobs on other hosts cannot reach the sockets that are the default elsewhere.
    listen = Text(default="0.0.0.0", description="address that the server listens on")  # noqa: S104
    run_directory = Text(default="", significant=False, description="set in jobs, by the driver")
    transfer_logs = luigi.BoolParameter(default=True, significant=False)
    # The jobs of an earlier driver have ended with it.
    ignore_submission = luigi.BoolParameter(default=True, significant=False)

    _server: Server
    _run: ServedRun

    def create_branch_map(self) -> dict[int, tuple[Path, ...]]:
        """Return the file, or files, of each input."""
        check_model(self.model_repository, self.model_name, self.model_version)
        model = read_model(self.model_repository, self.model_name, self.model_version)
        found = find_inputs(self.inputs, self.options, model.specification)
        return dict(enumerate(found.inputs))

    @property
    def input_files(self) -> tuple[Path, ...]:
        """The HDF5 files that the branch reads."""
        files: tuple[Path, ...] = self.branch_data
        return files

    def output(self) -> law.LocalFileTarget:
        """Return the file with the predictions of the branch."""
        names = output_names(list(self.branch_map.values()))
        return law.LocalFileTarget(str(Path(self.output_dir) / "predictions" / names[self.branch]))

    @property
    def server(self) -> EndpointTarget:
        """The endpoint of the server."""
        return RunEndpoint(self._server, self._spec)

    @property
    def _spec(self) -> ServerSpec:
        task: TritonServerTask = self.clone(TritonServerTask)
        return task.spec

    def _model_stamp(self) -> str:
        return read_model(self.model_repository, self.model_name, self.model_version).stamp

    def run(self) -> None:
        """Stream the file of the branch, in a job."""
        with server_of_run(Path(self.run_directory), wait_s=self.retry_for_s) as self._server:
            super().run()

    # What law calls in the driver.

    @contextmanager
    def slurm_workflow_run_context(self) -> Iterator[None]:
        """Have a server while there are jobs, and no job after the driver."""
        options = JobOptions(
            engine="slurm",
            server_place=self.server_place,
            partition="" if self.slurm_partition == law.NO_STR else self.slurm_partition,
        )
        with served_run(self._spec, options, Path(self.output_dir) / "jobs") as self._run:
            yield

    def slurm_poll_callback(self, poll_data: Any) -> None:  # noqa: ARG002 (law's)
        """Keep the server running."""
        self._run.tend()

    def slurm_job_config(self, config: Any, *_: Any) -> Any:
        """Give a job the name of the run, this Python, and a directory that goes with the run."""
        config.job_name = self._run.name
        config.render_variables |= {
            "bootstrap_command": f"export PATH={quote(str(Path(sys.executable).parent))}:$PATH",
            "law_job_base": str(self._run.directory),
            "law_job_tmp": "",
        }
        return config

    def slurm_cmdline_args(self) -> dict[str, str]:
        """Return what a job has to know of the run."""
        return {"--run-directory": str(self._run.directory)}

    def slurm_output_directory(self) -> law.LocalDirectoryTarget:
        """Return where law keeps what it knows of the jobs, and their logs."""
        return law.LocalDirectoryTarget(str(Path(self.output_dir) / "jobs"))

    def slurm_use_local_scheduler(self) -> bool:
        """Have jobs do without a scheduler."""
        return True

    def slurm_post_submit_delay(self) -> float:
        """Return 0: the first poll is due after the interval."""
        return 0.0
