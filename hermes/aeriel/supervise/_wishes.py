"""The log and monitor files that each driver of a shared server wants."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.monitor import ServerMonitor
from hermes.aeriel.supervise._state import ServerState
from hermes.errors import HermesError, OutputError

logger = logging.getLogger(__name__)

COPY_BYTES = 1 << 20


class WishedFiles:
    """Copies a server's log, and monitors the server, into the files that its drivers want.

    The files of a driver end with its last lease. They do not depend on other drivers.

    Parameters
    ----------
    state
        The server's directory.

    Attributes
    ----------
    endpoint
        The server's endpoint; None until it is ready.
    """

    def __init__(self, state: ServerState) -> None:
        self.endpoint: Endpoint | None = None
        self._state = state
        self._logs: dict[str, _LogCopy] = {}
        self._monitors: dict[str, ExitStack] = {}
        self._failed: set[str] = set()
        self._is_copied = False

    def __enter__(self) -> Self:
        for wishes in self._state.wishes():
            if wishes.log_file:  # an unwritable file is an error before the server starts
                self._begin_log(wishes.log_file)
        return self

    def __exit__(self, *_: object) -> None:
        for path in list(self._monitors):
            self._monitors.pop(path).close()
        for path in list(self._logs):
            self._logs.pop(path).close()
        if self._is_copied:  # otherwise it is the only log, and an error may name it
            self._state.log_file.unlink(missing_ok=True)

    @property
    def first_log(self) -> str | None:
        """A copy of the server's log that a driver wants; None without any."""
        return next(iter(self._logs), None)

    def update(self) -> None:
        """Open and close files as drivers come and go, and copy new lines of the log."""
        wishes = self._state.wishes()
        logs = {each.log_file for each in wishes} - {""}
        monitors = {each.monitor_file for each in wishes} - {""}
        for path in logs - self._logs.keys() - self._failed:
            try:
                self._begin_log(path)
            except OutputError as error:
                self._fail(path, error)
        for path in self._logs.keys() - logs:
            self._logs.pop(path).close()
        for path, log in self._logs.items():
            try:
                log.update()
            except OSError as error:
                self._fail(path, error)
        for path in self._monitors.keys() - monitors:
            self._monitors.pop(path).close()
        if self.endpoint is not None:
            for path in monitors - self._monitors.keys() - self._failed:
                self._begin_monitor(path)

    def _begin_log(self, path: str) -> None:
        self._logs[path] = _LogCopy(path, self._state.log_file)
        self._is_copied = True

    def _begin_monitor(self, path: str) -> None:
        stack = ExitStack()
        try:
            # Not the current endpoint: after a restart the server may have other ports.
            stack.enter_context(ServerMonitor(lambda: self.endpoint or "", path))
        except HermesError as error:
            self._fail(path, error)
        else:
            self._monitors[path] = stack

    def _fail(self, path: str, error: Exception) -> None:
        if path not in self._failed:
            logger.warning("cannot write %s: %s", path, error)
        self._failed.add(path)


class _LogCopy:
    """A copy of a server's log.

    Raises
    ------
    OutputError
        The file cannot be written.
    """

    def __init__(self, path: str, log_file: Path) -> None:
        self._log_file = log_file
        self._position = 0
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._copy = Path(path).open("wb", buffering=0)  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise OutputError(path, f"cannot write the server's log: {error}") from error

    def update(self) -> None:
        """Copy new lines.

        Raises
        ------
        OSError
            The copy cannot be written.
        """
        try:
            size = self._log_file.stat().st_size
            while self._position < size:
                with self._log_file.open("rb") as log:
                    log.seek(self._position)
                    data = log.read(COPY_BYTES)
                self._position += os.write(self._copy.fileno(), data)
        except FileNotFoundError:  # the server has not started, or has stopped
            return

    def close(self) -> None:
        """Copy the rest, and close the file."""
        try:
            self.update()
        except OSError as error:
            logger.warning("%s is incomplete: %s", self._copy.name, error)
        self._copy.close()
