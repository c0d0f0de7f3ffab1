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
        # The Python backend starts its stub through a shell and does not quote the model's path:
        # a blank in it would be the end of the path, a semicolon the start of a command.
        if self._link is not None:
            self._link.symlink_to(self._settings.model_repository)

    def _close_container(self) -> None:
        if self._link is not None:
            self._link.unlink(missing_ok=True)

    @property
    def _link(self) -> Path | None:
        """A name for the model repository that a shell takes as it is, where one is needed."""
        repository = self._settings.model_repository
        if shlex.quote(repository) == repository or not repository.startswith("/"):
            return None
        return temporary_path(self.server_id, ".models")

    def _server_command(self) -> list[str]:
        repository = None if self._link is None else str(self._link)
        return [
            str(self._triton.binary),
            *self._triton.arguments,
            *self._settings.arguments(self._ports, repository),
        ]

    def _server_environment(self) -> Mapping[str, str]:
        return {**os.environ, **self._triton.environment, **self._settings.environment}
