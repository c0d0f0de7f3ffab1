"""Start Triton in a Singularity/Apptainer container or on this machine, and stop it."""

from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.serve._command import check_model_repository
from hermes.aeriel.serve._gpus import GPURequest
from hermes.aeriel.serve._instance import TritonInstance
from hermes.aeriel.serve._keep import keep
from hermes.aeriel.serve._leases import GPULease
from hermes.aeriel.serve._local import LocalInstance
from hermes.aeriel.serve._ports import Ports
from hermes.aeriel.serve._serve import serve
from hermes.aeriel.serve._singularity import SingularityInstance
from hermes.aeriel.serve._state import Lease, ServerState, Status, state_home
from hermes.aeriel.serve._supervisor import ensure_server, stop_signal, stop_supervisor, supervise

__all__ = [
    "Endpoint",
    "GPULease",
    "GPURequest",
    "Lease",
    "LocalInstance",
    "Ports",
    "ServerState",
    "SingularityInstance",
    "Status",
    "TritonInstance",
    "check_model_repository",
    "ensure_server",
    "keep",
    "serve",
    "state_home",
    "stop_signal",
    "stop_supervisor",
    "supervise",
]
