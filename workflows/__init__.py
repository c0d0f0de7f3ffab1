"""Luigi tasks for inference with Triton."""

from workflows._settings import NEEDED, apply_settings
from workflows.inference import InferenceTask
from workflows.server import EndpointTarget, TritonServerTask

__all__ = ["EndpointTarget", "InferenceTask", "TritonServerTask"]

apply_settings(NEEDED)
