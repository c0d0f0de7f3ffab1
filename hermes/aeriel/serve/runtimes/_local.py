"""A Triton server as a process of this machine."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Mapping
from pathlib import Path

from hermes import _launch
from hermes.aeriel.serve._command import ServerSettings
from hermes.aeriel.serve._instance import TritonInstance
from hermes.runtime import LocalTriton, find_triton


class LocalInstance(TritonInstance):
    """A Triton server that runs as a process of this machine.

    Raises
    ------
    TritonNotFoundError
        This machine has no tritonserver.
    """

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings)
        self._triton: LocalTriton = find_triton()

    def _open_container(self) -> None:
        for path, link in self._links.items():
            link.unlink(missing_ok=True)
            link.symlink_to(path)

    @property
    def _links(self) -> dict[str, Path]:
        """Links for the paths that a shell would interpret, by path.

        The Python backend starts its stub through a shell and quotes neither the stub's path nor
        the model's: a blank would end the path, a semicolon would start a command.
        """
        directory = self._settings.directory
        links = {
            self._settings.served_repository: directory.models_link,
            str(self._triton.backend_directory or ""): directory.backends_link,
        }
        return {
            path: link
            for path, link in links.items()
            if path.startswith("/") and shlex.quote(path) != path
        }

    def _server_command(self) -> list[str]:
        links = self._links
        repository, backends = self._settings.served_repository, self._triton.backend_directory
        command = [*_bound_to_this_process(), str(self._triton.binary)]
        if backends is not None:
            command.append(f"--backend-directory={links.get(str(backends), backends)}")
        return [
            *command,
            *self._settings.arguments(self._ports, str(links.get(repository, repository))),
        ]

    def _server_environment(self) -> Mapping[str, str]:
        return {**os.environ, **self._triton.environment, **self._settings.environment}


def _bound_to_this_process() -> list[str]:
    """Return a command that runs another one, which the kernel ends when this process ends.

    For the kernel the parent is the thread that starts the command. Other threads may end before
    the process, so the command is bound in the main thread only.
    """
    is_bound = threading.current_thread() is threading.main_thread()
    parent = str(os.getpid() if is_bound else 0)
    return _launch.isolated(_launch.__file__, "serving", parent)
