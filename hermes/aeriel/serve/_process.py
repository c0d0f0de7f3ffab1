"""Starts the process of a server, and keeps its log."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hermes import _launch
from hermes.errors import ParameterError, TritonNotFoundError, log_tail


class ServerLog:
    """The file with a server's output.

    Parameters
    ----------
    wanted
        The file that the user has named, which is kept.
    default
        The file to use otherwise, which is removed when the server stops without an error.

    Attributes
    ----------
    path
        The file.
    keep
        Whether the default file is kept; None while that is open.
    """

    def __init__(self, wanted: Path | None, default: Path) -> None:
        self.path = wanted or default
        self.keep: bool | None = None
        self._is_wanted = wanted is not None
        self._start = 0

    def check(self) -> None:
        """Raise ParameterError where the file that the user has named is not writable."""
        if self._is_wanted:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.open("ab").close()
            except OSError as error:
                raise ParameterError("log_file", f"cannot be written: {error}") from error

    def make(self) -> None:
        """Make an empty file."""
        if self._is_wanted:
            os.truncate(self.path, 0)
        else:
            self.path.touch(mode=0o600, exist_ok=False)

    def tail(self) -> str:
        """Return the relevant end of the output since the last start."""
        return log_tail(self.path, since=self._start)

    def close(self) -> None:
        """Remove the file, unless it is to be kept."""
        if not (self._is_wanted or self.keep):
            self.path.unlink(missing_ok=True)

    def start(
        self, command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Run a server's command; its output is appended to the file.

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
                    # Ctrl-C reaches this process only, which then stops the server.
                    start_new_session=True,
                )
            except OSError as error:
                raise TritonNotFoundError(
                    looked_in=(command[0],), advice=f"cannot start it: {error.strerror}"
                ) from error

    def wait_for_start(self, process: subprocess.Popen[bytes], command: Sequence[str]) -> None:
        """Return when `hermes._launch` has become the server.

        Raises
        ------
        TritonNotFoundError
            The server's program cannot be started.
        """
        # Until then its command line, by which it is found and stopped, is empty or not its own.
        command_line = Path(f"/proc/{process.pid}/cmdline")
        while process.poll() is None:
            running = command_line.read_bytes()
            if running and _launch.__file__.encode() not in running:
                return
            time.sleep(0.001)
        if process.returncode == _launch.CANNOT_BE_STARTED:
            program = command[command.index(_launch.__file__) + 3]
            raise TritonNotFoundError(looked_in=(program,), advice=self.tail())
