"""A Triton server as a process of this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

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

    def _server_command(self) -> list[str]:
        return [
            str(self._triton.binary),
            *self._triton.arguments,
            *self._settings.arguments(self._ports),
        ]

    def _server_environment(self) -> Mapping[str, str]:
        return {**os.environ, **self._triton.environment, **self._settings.environment}
