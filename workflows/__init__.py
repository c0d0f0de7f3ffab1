"""Luigi tasks for inference with Triton."""

from workflows import _settings
from workflows._endpoints import EndpointTarget
from workflows.inference import InferenceTask
from workflows.jobs import InferenceJobs
from workflows.server import ExternalServer, TritonServerTask

__all__ = ["EndpointTarget", "ExternalServer", "InferenceJobs", "InferenceTask", "TritonServerTask"]

_settings.apply_settings(_settings.NEEDED)
