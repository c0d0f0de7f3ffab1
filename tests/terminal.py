"""A command in a terminal, for the tests of what a person sees."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import time
from pathlib import Path

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """A command in a terminal of its own, and all that was written to it."""

    def __init__(self, command: list[str], cwd: Path, **variables: str) -> None:
        self._mine, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env={
                **os.environ,
                "TERM": "xterm-256color",
                "COLUMNS": "100",
                "LINES": "30",
                **variables,
            },
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        os.set_blocking(self._mine, False)
        self._written = b""

    @property
    def written(self) -> str:
        """All that was written so far, with what moves the cursor and sets colours."""
        try:
            while chunk := os.read(self._mine, 1 << 16):
                self._written += chunk
        except (BlockingIOError, OSError):  # nothing more now; nobody writes any more
            pass
        return self._written.decode(errors="ignore")

    @property
    def text(self) -> str:
        """All that was written so far, without what moves the cursor and sets colours."""
        return _ESCAPES.sub("", self.written)

    def wait_for(self, text: str, within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        while text not in self.text:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.text[-2000:]}"
            assert self.process.poll() is None or text in self.text, self.text[-2000:]
            time.sleep(0.05)

    def end(self, within_s: float = 120.0) -> list[str]:
        """Return the lines below the display when the command has ended."""
        deadline = time.monotonic() + within_s
        while self.process.poll() is None:
            _ = self.text  # else it would wait until somebody reads
            assert time.monotonic() < deadline, self.text[-2000:]
            time.sleep(0.05)
        # The display was erased last, line by line.
        _ = self.text
        last = self._written.decode().rpartition("\x1b[2K")[2]
        return _ESCAPES.sub("", last).splitlines()

    def interrupt(self) -> None:
        """Press Ctrl-C: the signal goes to all processes of the command."""
        os.killpg(self.process.pid, signal.SIGINT)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._mine)
