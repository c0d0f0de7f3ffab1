"""A Triton server as a process of this machine."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from hermes.aeriel._guard import temporary_path
from hermes.aeriel.serve._command import ServerSettings
from hermes.aeriel.serve._instance import TritonInstance
from hermes.runtime import LocalTriton, find_triton


class LocalInstance(TritonInstance):
    """A Triton server that runs as a process of this machine.

    Raises
    ------
    TritonNotFoundError
        There is no tritonserver here.
    """

    def __init__(self, settings: ServerSettings, log_file: Path | None = None) -> None:
        super().__init__(settings, log_file)
        self._triton: LocalTriton = find_triton()

    def _open_container(self) -> None:
        for path, link in self._links.items():
            link.symlink_to(path)

    def _close_container(self) -> None:
        for link in self._links.values():
            link.unlink(missing_ok=True)

    @property
    def _links(self) -> dict[str, Path]:
        """Links for the paths that a shell does not take as they are, by path.

        The Python backend starts its stub through a shell and quotes neither the stub's path nor
        the model's: a blank in it would be the end of the path, a semicolon the start of a command.
        """
        paths = {
            ".models": self._settings.model_repository,
            ".backends": str(self._triton.backend_directory or ""),
        }
        return {
            path: temporary_path(self.server_id, suffix)
            for suffix, path in paths.items()
            if path.startswith("/") and shlex.quote(path) != path
        }

    def _server_command(self) -> list[str]:
        links = self._links
        repository, backends = self._settings.model_repository, self._triton.backend_directory
        command = [str(self._triton.binary)]
        if backends is not None:
            command.append(f"--backend-directory={links.get(str(backends), backends)}")
        return [
            *command,
            *self._settings.arguments(self._ports, str(links.get(repository, repository))),
        ]

    def _server_environment(self) -> Mapping[str, str]:
        return {**os.environ, **self._triton.environment, **self._settings.environment}
