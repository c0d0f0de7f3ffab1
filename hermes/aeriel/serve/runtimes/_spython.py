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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from spython.main import Client

from hermes._processes import marked_processes
from hermes.aeriel.serve.runtimes._singularity_stop import MARK
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


class Instance(Client.instance):  # type: ignore[misc] # spython has no types
    """spython's instance, with the installed command, and with the messages of its failures."""

    def __init__(self, runtime: str, name: str, image: str = "") -> None:
        self._runtime = runtime
        super().__init__(image, start=False, name=name, quiet=True)

    def _init_command(self, action: str | list[str], flags: list[str] | None = None) -> list[str]:
        # spython runs `singularity`, which not every Apptainer installation has a link for.
        command: list[str] = super()._init_command(action, flags)
        return [self._runtime, *command[1:]]

    def start(self, options: list[str], environ: Mapping[str, str]) -> str | None:
        """Start the instance; return None, or the runtime's message if it failed.

        spython's own `start` prints the message to stderr and does not return it.
        """
        command = [*self._init_command(["instance", "start"]), *options, self._image, self.name]
        result: Any = self.run_command(
            command, quiet=True, return_result=True, environ=dict(environ)
        )
        if result["return_code"] == 0:
            return None
        message = result["message"]
        return message if isinstance(message, str) else "".join(message)

    def find(self) -> int | None:
        """Return the id of the first process of the running instance; None if there is none."""
        found = self._list(self.name, quiet=True, return_json=True)
        return int(found["pid"]) if isinstance(found, dict) else None


def find_runtime(image: str) -> str:
    """Return the path of the container runtime's command.

    Raises
    ------
    SingularityNotFoundError
        There is neither a `singularity` nor an `apptainer`; the error names `image`.
    """
    for command in COMMANDS:
        path = shutil.which(command)
        if path is not None:
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
    instance = Instance(runtime, name, image)
    with _hold_name(name):
        if instance.find() is not None:
            raise InstanceExistsError(name)
        failure = instance.start(options, {**os.environ, MARK: server_id})
        if failure is not None:
            raise start_error(image, name, failure)
        pid = instance.find()
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
