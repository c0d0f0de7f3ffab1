"""Start Triton in a Singularity/Apptainer container or on this machine, and stop it."""

from hermes.aeriel.serve._instance import TritonInstance
from hermes.aeriel.serve._local import LocalInstance
from hermes.aeriel.serve._ports import Ports
from hermes.aeriel.serve._serve import serve
from hermes.aeriel.serve._singularity import SingularityInstance

__all__ = ["LocalInstance", "Ports", "SingularityInstance", "TritonInstance", "serve"]
