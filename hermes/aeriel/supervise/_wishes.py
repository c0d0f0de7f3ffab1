"""The log and monitor files that each driver of a shared server wants."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
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
    """

    def __init__(self, state: ServerState) -> None:
        self._endpoint: Endpoint | None = None
        self._state = state
        self._open: dict[str, _LogCopy | _Monitor] = {}
        self._failed: set[str] = set()
        self._is_copied = False

    def __enter__(self) -> Self:
        for wishes in self._state.wishes():
            if wishes.log_file:  # an unwritable file is an error before the server starts
                self._open[wishes.log_file] = self._log(wishes.log_file)
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.popitem()[1].close()
        if self._is_copied:  # otherwise it is the only log, and an error may name it
            self._state.log_file.unlink(missing_ok=True)

    @property
    def first_log(self) -> str | None:
        """A copy of the server's log that a driver wants; None without any."""
        return next((path for path, file in self._open.items() if isinstance(file, _LogCopy)), None)

    def monitor(self, endpoint: Endpoint) -> None:
        """Monitor the server, which is ready, at this endpoint from now on."""
        self._endpoint = endpoint

    def update(self) -> None:
        """Open and close files as drivers come and go, and copy new lines of the log."""
        wanted: dict[str, Callable[[str], _LogCopy | _Monitor]] = {}
        for wishes in self._state.wishes():
            wanted[wishes.log_file] = self._log
            if self._endpoint is not None:
                wanted[wishes.monitor_file] = self._monitor
        wanted.pop("", None)
        for path in self._open.keys() - wanted:
            self._open.pop(path).close()
        for path, begin in wanted.items():
            try:
                if path in self._open:
                    self._open[path].update()
                elif path not in self._failed:
                    self._open[path] = begin(path)
            except (HermesError, OSError) as error:
                if path not in self._failed:
                    logger.warning("cannot write %s: %s", path, error)
                self._failed.add(path)

    def _log(self, path: str) -> _LogCopy:
        copy = _LogCopy(path, self._state.log_file)
        self._is_copied = True
        return copy

    def _monitor(self, path: str) -> _Monitor:
        # Not the current endpoint: after a restart the server may have other ports.
        return _Monitor(ServerMonitor(lambda: self._endpoint or "", path))


class _Monitor(ExitStack):
    """A monitor of the server, until `close`."""

    def __init__(self, monitor: ServerMonitor) -> None:
        super().__init__()
        self.enter_context(monitor)

    def update(self) -> None:
        """Do nothing: the monitor has a thread of its own."""


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
