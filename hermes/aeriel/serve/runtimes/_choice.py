"""The kinds of instances, and which one an image asks for."""

from __future__ import annotations

from collections.abc import Callable

from hermes.aeriel.serve._command import ServerSettings
from hermes.aeriel.serve._instance import TritonInstance
from hermes.aeriel.serve.runtimes._local import LocalInstance
from hermes.aeriel.serve.runtimes._singularity import SingularityInstance

# The kinds of instances by the scheme of the image. No image stands for a Triton of this machine;
# paths, and the schemes that are not listed here, are Singularity's.
INSTANCES: dict[str, Callable[[ServerSettings], TritonInstance]] = {"": LocalInstance}


def new_instance(settings: ServerSettings) -> TritonInstance:
    """Return the server that the settings describe, before it is started.

    Raises
    ------
    ParameterError, ServerError
        It cannot be started here.
    """
    scheme = settings.image.partition(":")[0]
    return INSTANCES.get(scheme, SingularityInstance)(settings)
