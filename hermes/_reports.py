"""What the processes of a run report to the one that shows it."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from contextlib import suppress
from typing import Any

INTERVAL_S = 0.2
# A reader that does not read for this long loses a report, and delays the run no further.
PATIENCE_MS = 1000
LONGEST = 1000


class Reports:
    """A pipe from any number of forked processes to one, with a report in each line.

    A line is written in one call, of at most ``PIPE_BUF`` bytes, which POSIX does not mix with
    others: a writer that is killed leaves a whole line, or none.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._rest = b""

    def send(self, kind: str, **facts: Any) -> None:
        """Send a report; one that does not fit into the pipe within a second is lost."""
        line = json.dumps({"kind": kind, **facts}).encode() + b"\n"
        room = select.poll()
        room.register(self._writer, select.POLLOUT)
        if len(line) <= select.PIPE_BUF and room.poll(PATIENCE_MS):
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._writer, line)

    def receive(self, timeout_s: float) -> list[dict[str, Any]]:
        """Return the reports that are there, or that come within some seconds."""
        there = select.poll()
        there.register(self._reader, select.POLLIN)
        if not there.poll(1000 * timeout_s):
            return []
        *lines, self._rest = (self._rest + os.read(self._reader, 1 << 16)).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Close both ends, as far as this process has them."""
        os.close(self._reader)
        os.close(self._writer)


class LinesTo:
    """A text file whose lines become reports: what a worker prints, beside a display.

    Parameters
    ----------
    reports
        Where they go.
    """

    encoding = "utf-8"

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._line = ""

    def write(self, text: str) -> int:
        """Send each line that has come to its end."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._reports.send("line", text=line[:LONGEST])
        return len(text)

    def flush(self) -> None:
        """Do nothing: a line is sent at its end."""

    def isatty(self) -> bool:
        """Return False: nothing of a terminal is to be used."""
        return False


_reports: Reports | None = None


def show_reports_of(reports: Reports | None) -> None:
    """Have this process, and those that it forks from now on, send reports; None ends it."""
    global _reports  # noqa: PLW0603 (a process has one display)
    _reports = reports


def is_terminal() -> bool:
    """Tell whether a display can be drawn: standard error is a terminal that moves its cursor."""
    # It is None where the process was started with it closed.
    return bool(sys.stderr and sys.stderr.isatty()) and os.environ.get("TERM") != "dumb"


def report(kind: str, **facts: Any) -> None:
    """Send a report to the display of this run, if it has one."""
    if _reports is not None:
        _reports.send(kind, **facts)


class RowsProgress:
    """Reports how far files have come, a few times a second at most, and the end of each."""

    def __init__(self) -> None:
        self._reported = 0.0

    def __call__(self, name: str, done: int, total: int) -> None:
        """Report one file.

        Parameters
        ----------
        name
            What the display knows the file by: its path.
        done, total
            Rows.
        """
        now = time.monotonic()
        if now - self._reported >= INTERVAL_S or done == total:
            self._reported = now
            report("rows", name=name, done=done, total=total)


def duration(seconds: float) -> str:
    """Return a number of seconds as minutes and seconds, and hours where there are any."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _leave_the_terminal() -> None:
    """In a process that was forked: what it prints goes to the display, which draws alone."""
    if _reports is not None:
        sys.stdout = sys.stderr = LinesTo(_reports)


os.register_at_fork(after_in_child=_leave_the_terminal)
