"""What the command `luigi` shows of a validation: a display in a terminal, and how it ends.

In a terminal one display shows the whole run, and Luigi's own messages go to a file. Elsewhere,
and with ``--log-level``, Luigi's messages are the output. Either ends with the sentence that
matters, also at Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from luigi.cmdline_parser import CmdlineParser

from hermes._closing import closing_lines, short_path
from hermes._directory import Status
from hermes._reports import Reports, is_terminal, report, show_reports_of
from workflows._builds import check_scheduler, is_driven_here
from workflows._plain_errors import REQUIREMENT_MISSED, install_plain_errors

if TYPE_CHECKING:
    from hermes._display import Display

# The one whose messages Luigi shows.
logger = logging.getLogger("luigi-interface")

ExceptHook = Callable[[type[BaseException], BaseException, TracebackType | None], object]

INTERRUPTED = (
    "hermes: interrupted{files}; the server stops too. "
    "The same command goes on where this one stopped."
)


class Terminal:
    """The terminal of one build: from the first question to its tasks until the process ends.

    Parameters
    ----------
    title
        What is shown above the rest.
    output_dir
        The run's output directory.
    server
        Returns what the server's owner says of it.
    """

    def __init__(self, title: str, output_dir: Path, server: Callable[[], Status | None]) -> None:
        self._title = title
        self._output_dir = output_dir
        self._server = server
        self._errors = install_plain_errors()
        self._errors.closing = lambda: closing_lines(output_dir)
        self._pid = os.getpid()
        self._interrupted = threading.Event()
        self._display: Display | None = None
        self._log_file = output_dir / "logs" / "luigi.log"

    def begin(self) -> None:
        """Take the interrupt, and the terminal if there is one for the display."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._interrupt)
            sys.excepthook = _without_interrupts(sys.excepthook)
        if _wants_display() and _moves_log_to(self._log_file):
            from hermes._display import Display  # noqa: PLC0415 (an import of 0.1 s)

            reports = Reports()
            show_reports_of(reports)
            logging.getLogger().addHandler(_Above(logging.WARNING))
            self._errors.log_file = self._log_file
            self._display = Display(self._title, reports, self._server)
            # Not a daemon: the process waits for it, because what it writes is the last.
            threading.Thread(target=self._attend, name="hermes-display").start()

    def expect(self, files: Mapping[str, tuple[str, int | None]]) -> None:
        """Set the input files: a label and the number of rows by path."""
        if self._display is not None:
            self._display.expect(files)

    def _attend(self) -> None:
        assert self._display is not None  # noqa: S101 (else nothing calls it)
        stderr = sys.stderr
        self._display.draw_until(lambda: self._interrupted.is_set() or not is_driven_here())
        if self._interrupted.is_set():
            print(self._interrupted_words(), file=stderr, flush=True)
            return
        threading.main_thread().join()
        print("\n".join(self._closing()), file=stderr, flush=True)

    def _closing(self) -> list[str]:
        errors = self._errors.take()
        if self._errors.succeeded or errors == [REQUIREMENT_MISSED]:
            return closing_lines(self._output_dir, self._log_file)
        if not errors:
            errors = [f"not everything was done; {short_path(self._log_file)} says why"]
        return [f"hermes: {error}" for error in errors]

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if os.getpid() == self._pid:
            self._interrupted.set()
            if self._display is None:
                os.write(2, f"{self._interrupted_words()}\n".encode())
        signal.default_int_handler(number, frame)

    def _interrupted_words(self) -> str:
        if self._display is None:
            return INTERRUPTED.format(files="")
        done, total, under_way = self._display.counts()
        files = f": {done} of {total} files are done, and {under_way} under way are stopped"
        return INTERRUPTED.format(files=files if total else "")


class _Above(logging.Handler):
    """Shows warnings above the display, from whichever process; Luigi's are in its log."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != logger.name:
            report("line", text=f"{record.levelname.lower()}: {record.getMessage()}"[:1000])


_terminal: Terminal | None = None


def expect_files(files: Mapping[str, tuple[str, int | None]]) -> None:
    """Set the input files of the build that this process drives, for the display if there is one.

    Parameters
    ----------
    files
        A label and the number of rows by path.
    """
    if _terminal is not None and is_driven_here():
        _terminal.expect(files)


def warn(text: str) -> None:
    """Warn a person, above the display if there is one, and in Luigi's log."""
    logger.warning(text)
    report("line", text=f"warning: {text}")


def begin_terminal(title: str, output_dir: Path, server: Callable[[], Status | None]) -> None:
    """Have a terminal for the build that this process drives, as its command, from now on.

    Parameters
    ----------
    title, output_dir, server
        As for `Terminal`.

    Raises
    ------
    SystemExit
        Luigi's scheduler is not there.
    """
    global _terminal  # noqa: PLW0603 (a process has one terminal)
    if _terminal is None and is_driven_here() and CmdlineParser.get_instance() is not None:
        check_scheduler()
        _terminal = Terminal(title, output_dir, server)
        _terminal.begin()


def _wants_display() -> bool:
    parser = CmdlineParser.get_instance()
    is_log_wanted = parser is not None and parser.known_args.core_log_level is not None
    return is_terminal() and not is_log_wanted


def _moves_log_to(file: Path) -> bool:
    """Write to a file what Luigi would write to the terminal; tell whether that is possible."""
    streams = [each for each in logger.handlers if type(each) is logging.StreamHandler]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
        handler = logging.FileHandler(file)
    except OSError:
        return False  # the check of the output directory says why
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s"))
    for each in streams:
        logger.removeHandler(each)
    logging.getLogger().addHandler(handler)
    return True


def _without_interrupts(hook: ExceptHook) -> ExceptHook:
    """Return what shows an uncaught exception but an interrupt, of which all is said already."""

    def show(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            hook(kind, error, traceback)

    return show
