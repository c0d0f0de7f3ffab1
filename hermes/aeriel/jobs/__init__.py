"""Files through a model in the jobs of a batch system, which end when the driver does."""

from hermes.aeriel.jobs._chunks import Progress
from hermes.aeriel.jobs._options import JobOptions
from hermes.aeriel.jobs._run import infer_in_jobs

__all__ = ["JobOptions", "Progress", "infer_in_jobs"]
