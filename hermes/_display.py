"""One live display in a terminal for a whole run, drawn by one process."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from hermes._directory import Status
from hermes._display_lines import File, files_table, one_line
from hermes._reports import Reports, duration, show_reports_of

DRAW_S = 0.2
LOOK_S = 1.0
# Over how long the rate is taken.
RATE_S = 30
MARGIN = 3
# What is left of a bar can be told from what is done on a bright terminal too.
THEME = Theme({"bar.back": "grey62"})
PHASES = {
    "starting": "is starting",
    "waiting": "waits",
    "ready": "is ready",
    "restarting": "has ended, and is started again",
    "stopping": "is stopping",
}


@contextmanager
def displayed(
    title: str,
    files: Mapping[str, tuple[str, int | None]],
    server: Callable[[], Status | None] | None = None,
) -> Iterator[None]:
    """Show in the terminal what the block does.

    Parameters
    ----------
    title, server
        As for `Display`.
    files
        As for `Display.expect`.
    """
    reports = Reports()
    display = Display(title, reports, server)
    display.expect(files)
    is_over = threading.Event()
    drawing = threading.Thread(target=display.draw_until, args=[is_over.is_set])
    show_reports_of(reports)
    drawing.start()
    try:
        yield
    finally:
        show_reports_of(None)
        is_over.set()
        drawing.join()
        reports.close()


def watch(table: Callable[[], str]) -> None:
    """Show a table, as it is from moment to moment, until Ctrl-C."""
    console = Console()
    with (
        suppress(KeyboardInterrupt),
        Live(console=console, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        console.show_cursor(True)
        while True:
            text = Text(table(), no_wrap=True, overflow="ellipsis")
            live.update(Constrain(text, console.width - MARGIN), refresh=True)
            time.sleep(LOOK_S)


class Display:
    """What a run shows while it lasts.

    Parameters
    ----------
    title
        Stands above the rest.
    reports
        Where the run's processes report: ``rows`` (``name``, ``done``, ``total``), ``done`` and
        ``failed`` (``name``), ``step`` and ``line`` (``text``).
    server
        Returns what the server's owner says of it; None where there is no server yet.
    console
        The terminal.
    """

    def __init__(
        self,
        title: str,
        reports: Reports,
        server: Callable[[], Status | None] | None = None,
        console: Console | None = None,
    ) -> None:
        self._title = title
        self._reports = reports
        self._server = server
        self._console = console or Console(stderr=True, theme=THEME)
        self._lock = threading.Lock()
        self._files: dict[str, File] = {}
        self._under_way: dict[str, File] = {}
        self._failed: set[str] = set()
        self._files_done = self._rows_done = self._rows_total = self._n_known = 0
        self._are_rows_known = True
        self._step = ""
        self._status: Status | None = None
        self._restarts = 0
        self._looked = 0.0
        self._history: deque[tuple[float, int]] = deque(maxlen=RATE_S + 1)

    def expect(self, files: Mapping[str, tuple[str, int | None]]) -> None:
        """Set the files of the run: a label and the number of rows, if it is known, by name."""
        with self._lock:
            self._files = {name: File(label, total) for name, (label, total) in files.items()}
            totals = [file.total for file in self._files.values()]
            self._are_rows_known = None not in totals
            self._n_known = len(totals) - totals.count(None)
            self._rows_total = sum(total or 0 for total in totals)

    def counts(self) -> tuple[int, int, int]:
        """Return how many files are done, how many there are, and how many are under way."""
        with self._lock:
            return self._files_done, len(self._files), len(self._under_way)

    def draw_until(self, is_over: Callable[[], bool]) -> None:
        """Draw until something is over, which is asked a few times a second."""
        with Live(
            get_renderable=self._render, console=self._console, auto_refresh=False, transient=True
        ) as live:
            self._console.show_cursor(True)  # else a run that is killed leaves none
            while not is_over():
                drawn = time.monotonic()
                while (left_s := drawn + DRAW_S - time.monotonic()) > 0:
                    for each in self._reports.receive(left_s):
                        self._take(each)
                self._look_at_server()
                live.refresh()

    def _take(self, report: dict[str, Any]) -> None:
        if report["kind"] == "line":
            self._console.print(report["text"], markup=False, highlight=False, soft_wrap=True)
            return
        with self._lock:
            if report["kind"] == "step":
                self._step = report["text"]
                return
            name = report["name"]
            file = self._files.setdefault(name, File(name))
            if report["kind"] == "done":
                self._progress(name, file, file.total or 0, file.total or 0)
            elif report["kind"] == "failed" and file.is_done:
                pass  # another file of its task has failed
            elif report["kind"] == "failed":
                self._failed.add(name)
                self._under_way.pop(name, None)
            else:
                self._failed.discard(name)
                self._progress(name, file, report["done"], report["total"])

    def _progress(self, name: str, file: File, done: int, total: int) -> None:
        if file.total is None:
            file.total = total
            self._n_known += 1
            self._rows_total += total
        if name not in self._under_way and not file.is_done:
            file.began = time.monotonic()
            self._under_way[name] = file
            if not self._history:
                self._history.append((file.began, self._rows_done))
            # What was there already was not done in this run.
            shift = done - file.done
            self._history = deque(
                ((at, rows + shift) for at, rows in self._history), maxlen=RATE_S + 1
            )
        self._rows_done += done - file.done
        file.done = done
        if done == total and not file.is_done:
            file.is_done = True
            self._files_done += 1
            self._under_way.pop(name, None)

    def _look_at_server(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        if self._history:
            with self._lock:
                self._history.append((now, self._rows_done))
        if self._server is not None:
            status = self._server()
            before = "" if self._status is None else self._status.phase
            if status is not None and status.phase == "restarting" != before:
                self._restarts += 1
            self._status = status

    def _render(self) -> RenderableType:
        with self._lock:
            width = self._console.width - MARGIN
            lines: list[RenderableType] = [Text(self._title, style="bold")]
            if self._files:
                lines += [*self._progress_lines(), self._bar()]
            if self._server is not None:
                lines.append(self._server_line())
            if self._under_way:
                lines.append(files_table(self._under_way.values(), width, self._console.height - 8))
            elif self._step:
                lines.append(one_line(self._step))
            # What a terminal echoes, as ^C, stands behind the last line, and must not wrap.
            return Constrain(Group(*lines), width)

    def _progress_lines(self) -> list[Text]:
        rows = f"{self._rows_done:,}"
        rows += f" of {self._rows_total:,} rows" if self._are_rows_known else " rows"
        words = [f"{self._files_done:,} of {len(self._files):,} files", rows]
        if self._failed:
            words.append(f"{len(self._failed):,} failed")
        rate = self._rate()
        speed = []
        if rate and self._files_done < len(self._files):
            speed = [f"{rate:,.0f} rows/s"]
            left = duration(max(0.0, self._rows_expected() - self._rows_done) / rate)
            speed.append(f"{left} left" if self._are_rows_known else f"about {left} left")
        together = " · ".join([*words, *speed])
        if len(together) <= self._console.width - MARGIN:
            return [one_line(together)]
        return [one_line(" · ".join(words)), one_line(" · ".join(speed))]

    def _rows_expected(self) -> float:
        """Return the rows of all files, taking those not opened yet to be like the others."""
        return self._rows_total / max(self._n_known, 1) * len(self._files)

    def _bar(self) -> Table:
        bar = ProgressBar(total=max(self._rows_expected(), 1), completed=self._rows_done)
        table = Table.grid(expand=True)  # a bar by itself does not end its line
        table.add_row(bar)
        return table

    def _rate(self) -> float:
        if len(self._history) < 2:
            return 0.0
        (then, before), (now, after) = self._history[0], self._history[-1]
        return (after - before) / (now - then)

    def _server_line(self) -> Text:
        if self._status is None:
            words, style = ("has ended" if self._files_done else "has not started yet"), ""
        else:
            phase = self._status.phase
            words = PHASES.get(phase, phase)
            style = {"ready": "green", "restarting": "red", "waiting": "magenta"}.get(phase, "")
            if self._status.detail:
                words += f": {self._status.detail}"
        if self._status is not None and self._status.gpus:
            words += f", on GPU {', '.join(self._status.gpus)}"
        if self._restarts and self._status is not None and self._status.phase == "ready":
            times = "once" if self._restarts == 1 else f"{self._restarts} times"
            words += f" (started again {times})"
        return one_line(f"server {words}", style)
