"""Instances of Singularity and Apptainer: started by spython, identified by a mark.

A name does not identify an instance. Apptainer 1.4 checks a name and takes it in two steps, so that
two instances may start under one name, and after "name taken" spython's object acts on the instance
that was there before. So the first process of every instance, and the command that starts it,
carry the id of the server that the instance is for in their environment.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spython.utils import run_command

from hermes._processes import marked_processes
from hermes.aeriel.serve.runtimes._singularity_stop import MARK, first_process
from hermes.errors import (
    ImageError,
    InstanceExistsError,
    InstanceStartError,
    SingularityNotFoundError,
)

COMMANDS = ("singularity", "apptainer")

_BAD_IMAGE = re.compile(
    r"could not open image|image format not recognized|bad superblock|squashfs|"
    r"while mounting image|image driver mount failure|"
    r"(making|pulling|fetching|building) .*(image|registry)|unable to (pull|handle)",
    re.IGNORECASE,
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def container_commands() -> dict[str, str]:
    """Return the paths of the container runtimes' commands that are on the PATH, by name."""
    return {name: path for name in COMMANDS if (path := shutil.which(name)) is not None}


def find_runtime(image: str) -> str:
    """Return the path of the container runtime's command.

    Raises
    ------
    SingularityNotFoundError
        There is neither a `singularity` nor an `apptainer`; the error names `image`.
    """
    for path in container_commands().values():
        return path
    raise SingularityNotFoundError(image)


def start_instance(runtime: str, image: str, name: str, server_id: str, options: list[str]) -> int:
    """Start a container instance for a server and return the id of its first process.

    Parameters
    ----------
    runtime
        The command, from `find_runtime`.
    image, name
        The image, and the name of the instance.
    server_id
        The server that the instance is for.
    options
        Options of ``instance start``.

    Raises
    ------
    ImageError, InstanceExistsError, InstanceStartError
        The runtime did not start the instance.
    """
    # spython's own `start` prints the message of a failure and does not return it, and runs
    # `singularity`, which not every Apptainer installation has a link for.
    command = [runtime, "--quiet", "instance", "start", *options, image, name]
    environ = {**os.environ, MARK: server_id}
    with _hold_name(name):
        if first_process(runtime, name) is not None:
            raise InstanceExistsError(name)
        done: Any = run_command(command, quiet=True, environ=environ)
        if done["return_code"] != 0:
            raise start_error(image, name, "".join(done["message"]))
        pid = first_process(runtime, name)
    if pid is None:
        raise InstanceStartError(image=image, output="the instance ended at once")
    own = marked_processes(f"{MARK}={server_id}")
    if own and pid not in own:  # a process without this lock started the same name
        raise InstanceExistsError(name)
    return pid


def start_error(
    image: str, name: str, output: str
) -> ImageError | InstanceExistsError | InstanceStartError:
    """Return the error for a failed ``instance start``.

    Parameters
    ----------
    image, name
        The image, and the name of the instance.
    output
        The runtime's output.
    """
    words = runtime_words(output)
    if f"instance {name} already exists" in words:
        return InstanceExistsError(name)
    if _BAD_IMAGE.search(words):
        fatal = [line.removeprefix("FATAL:").strip() for line in words.splitlines()]
        return ImageError(image=image, problem=f"is not a usable image: {' '.join(fatal)}")
    return InstanceStartError(image=image, output=words)


def runtime_words(output: str) -> str:
    """Return a runtime's output, without colours, information and warnings."""
    lines = _COLOUR.sub("", output).splitlines()
    return "\n".join(line for line in lines if line and not line.startswith(("INFO:", "WARNING:")))


@contextmanager
def _hold_name(name: str) -> Iterator[None]:
    """Lock an instance's name, because the runtime itself does not.

    The lock is a socket in Linux's abstract namespace, which leaves no file.
    """
    registry = f"{os.getuid()} {os.environ.get('HOME')} {name}"
    digest = hashlib.sha256(registry.encode(errors="surrogateescape")).hexdigest()
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(f"\0hermes-instance-{digest}")
        except OSError as error:
            raise InstanceExistsError(name) from error
        yield
