"""Files through a model in the jobs of a batch system, which end when the driver does."""

from typing import TYPE_CHECKING

from hermes._lazy import import_on_use

if TYPE_CHECKING:
    from hermes.aeriel.jobs._chunks import Progress
    from hermes.aeriel.jobs._files import sweep_runs
    from hermes.aeriel.jobs._options import JobOptions, ServerPlace
    from hermes.aeriel.jobs._others import ServedRun, served_run, server_of_run
    from hermes.aeriel.jobs._run import check_jobs, infer_in_jobs, refuse_hooks
    from hermes.aeriel.jobs._server_request import ServerRequest, file_of_server
else:
    __getattr__, __dir__ = import_on_use(__name__)

__all__ = [
    "JobOptions",
    "Progress",
    "ServedRun",
    "ServerPlace",
    "ServerRequest",
    "check_jobs",
    "file_of_server",
    "infer_in_jobs",
    "refuse_hooks",
    "served_run",
    "server_of_run",
    "sweep_runs",
]
