"""What outputs say of how they were made, the same in all files of a run."""

from __future__ import annotations

import getpass
import os
import socket
from functools import cache
from importlib.metadata import version
from typing import Any

from hermes.aeriel._options import InferenceOptions
from hermes.aeriel.client import InferenceClient

PACKAGES = ("hermes-aeriel", "luigi", "tritonclient", "h5py", "numpy")


def run_attributes(client: InferenceClient, options: InferenceOptions) -> dict[str, Any]:
    """Return who made an output, where, with which server, model, options and packages."""
    model = client.specification
    return {
        "server": client.address,
        "server_version": client.server_version,
        "model_name": model.name,
        "model_version": model.version,
        "model_platform": model.platform,
        "options": options.facts(),
        "host": socket.gethostname(),
        "user": _user(os.getuid()),
        "versions": versions(),
    }


@cache
def versions() -> dict[str, str]:
    """Return the versions of the packages that a result may depend on."""
    return {package: version(package) for package in PACKAGES}


@cache
def _user(number: int) -> str:
    """Return the name of this process's user, or the number of one who has none, as in a container.

    A site's directory of users may take milliseconds to tell.
    """
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # before and from Python 3.13
        return str(number)
