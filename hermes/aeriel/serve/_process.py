"""Starts the process of a server, and keeps the log of what it says."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from hermes import _launch
from hermes.errors import ParameterError, TritonNotFoundError, log_tail


class ServerLog:
    """The file that takes a server's output.

    Parameters
    ----------
    wanted
        The file that somebody asked for, which stays.
    default
        The file where nobody did, which is removed when the server ends as it was told to.

    Attributes
    ----------
    path
        The file.
    keep
        Whether a file that nobody asked for stays; None: nobody has decided.
    """

    def __init__(self, wanted: Path | None, default: Path) -> None:
        self.path = wanted or default
        self.keep: bool | None = None
        self._is_wanted = wanted is not None
        self._start = 0

    def check(self) -> None:
        """Raise ParameterError where a file that was asked for cannot be written."""
        if self._is_wanted:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.open("ab").close()
            except OSError as error:
                raise ParameterError("log_file", f"cannot be written: {error}") from error

    def make(self) -> None:
        """Begin with an empty file."""
        if self._is_wanted:
            os.truncate(self.path, 0)
        else:
            self.path.touch(mode=0o600, exist_ok=False)

    def tail(self) -> str:
        """Return what matters at the end of what the last start of the server said."""
        return log_tail(self.path, since=self._start)

    def close(self) -> None:
        """Remove the file, unless it stays."""
        if not (self._is_wanted or self.keep):
            self.path.unlink(missing_ok=True)

    def start(self, command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Run a server's command; its output is added to the file.

        Raises
        ------
        TritonNotFoundError
            The command cannot be started.
        """
        with self.path.open("ab") as log:
            self._start = log.tell()
            try:
                return subprocess.Popen(
                    command,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C reaches this process alone, which then stops the server in good order.
                    start_new_session=True,
                )
            except OSError as error:
                raise TritonNotFoundError(
                    looked_in=(command[0],), advice=f"It cannot be started: {error.strerror}"
                ) from error

    def wait_for_start(self, process: subprocess.Popen[bytes], command: list[str]) -> None:
        """Return when `hermes._launch` has become the server.

        Raises
        ------
        TritonNotFoundError
            The server's program cannot be started.
        """
        # For a moment it has no command line, by which it is found when it is to be stopped, and
        # then that of what it is started by, which is not told to stop.
        command_line = Path(f"/proc/{process.pid}/cmdline")
        while process.poll() is None:
            running = command_line.read_bytes()
            if running and _launch.__file__.encode() not in running:
                return
            time.sleep(0.001)
        if process.returncode == _launch.CANNOT_BE_STARTED:
            program = command[command.index(_launch.__file__) + 3]
            raise TritonNotFoundError(looked_in=(program,), advice=self.tail())
