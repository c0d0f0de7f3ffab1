"""Luigi tasks for inference with Triton."""

from workflows.inference import InferenceTask
from workflows.server import EndpointTarget, TritonServerTask

__all__ = ["EndpointTarget", "InferenceTask", "TritonServerTask"]
