"""`InferenceJobs`: several inferences as the jobs of a batch system."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import luigi
from luigi.task import flatten

from hermes._reports import report
from hermes.aeriel import jobs
from hermes.aeriel.jobs import JobOptions
from hermes.errors import ParameterError
from workflows._builds import once_per_build
from workflows._readable import ReadableTask
from workflows.inference import InferenceTask
from workflows.parameters import options_of, with_options
from workflows.server import TritonServerTask

logger = logging.getLogger("luigi-interface")


@with_options(JobOptions)
class JobParameters:
    """Whether and how batch jobs are used: a parameter for each field of `JobOptions`."""

    if TYPE_CHECKING:  # the decorator makes them

        def __getattr__(self, name: str) -> Any: ...

    @property
    def job_options(self) -> JobOptions:
        """The parameters as options."""
        return options_of(JobOptions, self)


class InferenceJobs(JobParameters, ReadableTask):
    """The outputs of several tasks (`InferenceTask`), made in the jobs of a batch system.

    A subclass says which tasks in `inferences`; they require the same server. What they require is
    required here, but for a server that is to run in a job of its own. Their outputs are the same
    as if each task had run, so that tasks whose outputs are there are left out.
    """

    _shown_counts: tuple[int, ...] = ()

    def inferences(self) -> Iterable[InferenceTask]:
        """Return the tasks."""
        raise NotImplementedError

    @property
    def job_directory(self) -> Path:
        """A directory on the file system that the hosts share, for what jobs have to know."""
        return next(iter(self.inferences())).file_jobs[0].output_file.parent / "jobs"

    def requires(self) -> list[luigi.Task]:
        """Return what the tasks require, each once; no server that is to run in a job."""
        in_a_job = self.checked_server_in_a_job
        return [each for each in self._requirements() if each != in_a_job]

    def _requirements(self) -> list[luigi.Task]:
        required: dict[luigi.Task, None] = {}
        for task in self.inferences():
            if task.hooks.given:
                problem = f"batch jobs do not have the hooks of {task.task_family}; use local"
                raise ParameterError("engine", problem)
            required |= dict.fromkeys(flatten(task.requires()))
        return list(required)

    @once_per_build
    def checked_server_in_a_job(self) -> TritonServerTask | None:
        """The server that is to run in a job, after the batch system has looked at the jobs."""
        in_a_job = self._server_in_a_job()
        jobs.check_jobs(self.job_options, None if in_a_job is None else in_a_job.spec)
        return in_a_job

    def _server_in_a_job(self) -> TritonServerTask | None:
        if self.server_place == "driver":
            return None
        servers = [each for each in self._requirements() if isinstance(each, TritonServerTask)]
        if len(servers) != 1:
            problem = f"{self.server_place!r} takes tasks that require one TritonServerTask"
            raise ParameterError("server_place", f"{problem}, not {len(servers)}")
        return servers[0]

    def output(self) -> list[luigi.Target]:
        """Return the outputs of the tasks."""
        return [target for task in self.inferences() for target in flatten(task.output())]

    def complete(self) -> bool:
        """Tell whether all of the tasks are complete."""
        return all(task.complete() for task in self.inferences())

    def run(self) -> None:
        """Have jobs do the tasks that are not complete."""
        todo = [
            (task, job)
            for task in self.inferences()
            for job in task.file_jobs
            if not job.is_complete()
        ]
        in_a_job = self.checked_server_in_a_job
        server = todo[0][0].server
        if in_a_job is None:
            server.endpoint  # noqa: B018 (waits for it)
        requests = [task.request(job) for task, job in todo]
        server.check_models()  # after it: the server has loaded the models that they stand for
        jobs.infer_in_jobs(
            requests,
            self.job_options,
            self.job_directory,
            server=server.current
            if in_a_job is None
            else jobs.ServerRequest(
                spec=in_a_job.spec,
                log_file=in_a_job.server_log,
                monitor_file=in_a_job.server_monitor,
            ),
            is_advertised=any(getattr(each, "advertise", "") for each in self._requirements()),
            on_progress=self._show,
        )

    def _show(self, progress: jobs.Progress) -> None:
        counts = progress.queued, progress.running, progress.done
        if counts != self._shown_counts:
            self._shown_counts = counts
            logger.info("%s", progress)
        report("step", text=str(progress))
        if self.set_status_message is not None and self.set_progress_percentage is not None:
            self.set_status_message(str(progress))
            self.set_progress_percentage(100.0 * progress.files_done / progress.files)


def _jobs_are_done(task: InferenceJobs) -> None:
    # The jobs of a driver that died may have done everything: no run follows that would sweep.
    jobs.sweep_runs(task.job_directory)


InferenceJobs.event_handler(luigi.Event.DEPENDENCY_PRESENT)(_jobs_are_done)
