"""The kinds of instances, and which one an image asks for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from hermes._cleanup import Plan
from hermes.aeriel.serve._command import ServerSettings
from hermes.aeriel.serve._instance import TritonInstance
from hermes.aeriel.serve.runtimes._local import LocalInstance
from hermes.aeriel.serve.runtimes._singularity import SingularityInstance
from hermes.aeriel.serve.runtimes._spython import COMMANDS

Factory = Callable[[ServerSettings, Path | None, Plan], TritonInstance]

# The kinds of instances by the scheme of the image. No image stands for a Triton of this machine;
# paths, and the schemes that are not listed here, are Singularity's.
INSTANCES: dict[str, Factory] = {"": LocalInstance}


def new_instance(settings: ServerSettings, log_file: Path | None, plan: Plan) -> TritonInstance:
    """Return the server that the settings describe, before it is started.

    Parameters
    ----------
    settings
        What to serve, from which image, and where.
    log_file
        The file that takes the server's output; None for the default.
    plan
        What ending the server takes.

    Raises
    ------
    ParameterError, ServerError
        It cannot be started here.
    """
    scheme = settings.image.partition(":")[0]
    return INSTANCES.get(scheme, SingularityInstance)(settings, log_file, plan)


def container_commands() -> Mapping[str, str]:
    """Return the paths of the container runtimes' commands that are on the PATH, by name."""
    return {name: path for name in COMMANDS if (path := shutil.which(name)) is not None}
