"""How the process of a server starts: on this machine, or in a container.

Each module has one kind of `TritonInstance`. Nothing outside of this package knows of a container
runtime's commands, options and messages.
"""

from hermes.aeriel.serve.runtimes._choice import INSTANCES, new_instance
from hermes.aeriel.serve.runtimes._local import LocalInstance
from hermes.aeriel.serve.runtimes._singularity import SingularityInstance
from hermes.aeriel.serve.runtimes._spython import container_commands

__all__ = [
    "INSTANCES",
    "LocalInstance",
    "SingularityInstance",
    "container_commands",
    "new_instance",
]
