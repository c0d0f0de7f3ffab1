"""Start Triton in a Singularity/Apptainer container or on this machine, and stop it."""

from typing import TYPE_CHECKING

from hermes._lazy import import_on_use

if TYPE_CHECKING:
    from hermes.aeriel.endpoint import Endpoint
    from hermes.aeriel.serve._gpus import GPURequest
    from hermes.aeriel.serve._instance import TritonInstance
    from hermes.aeriel.serve._leases import GPULease, gpu_warnings
    from hermes.aeriel.serve._nvml import why_no_gpu
    from hermes.aeriel.serve._ports import Ports
    from hermes.aeriel.serve._repository import check_model_repository
    from hermes.aeriel.serve._serve import serve
    from hermes.aeriel.serve._watchdog import run_with_restarts, stop_signal
    from hermes.aeriel.serve.runtimes import LocalInstance, SingularityInstance
else:
    __getattr__, __dir__ = import_on_use(__name__)

__all__ = [
    "Endpoint",
    "GPULease",
    "GPURequest",
    "LocalInstance",
    "Ports",
    "SingularityInstance",
    "TritonInstance",
    "check_model_repository",
    "gpu_warnings",
    "run_with_restarts",
    "serve",
    "stop_signal",
    "why_no_gpu",
]
