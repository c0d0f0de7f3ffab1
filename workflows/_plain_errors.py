"""Errors in Luigi's log as they are meant to be read: in their own words, and last.

Luigi prints a traceback wherever a task fails. An error that hermes raises on purpose says itself
what happened and what to do; below its traceback, and above the summary, nobody finds that.

Luigi logs an error before it fires the event of the failure, and fires none that has the error of
a task's `complete`. So both what is written to the log and what is shown at the end are made here,
of the log's records.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import luigi
from luigi.parameter import ParameterException
from luigi.rpc import RPCError

from hermes.errors import HermesError, ParameterError, RequirementError

# The one whose messages Luigi shows.
logger = logging.getLogger("luigi-interface")

_NO_SCHEDULER = (
    "Luigi's scheduler is not there: {}; start luigid again and repeat the command, which goes on "
    "where it stopped, or add --local-scheduler"
)
_RETRY = "Failed connecting to remote scheduler"
_MEMORY = " (SIGKILL, as the kernel sends it when memory runs out)"
# Stands for a requirement that was missed: the report has its words.
REQUIREMENT_MISSED = "\x01"
# At the end of the output.
MOST_ERRORS = 5
_SUMMARY = "===== Luigi Execution Summary ====="
# Of an error while it schedules, Luigi logs the traceback as text.
_TRACEBACK = re.compile(
    r"\nTraceback \(most recent call last\):\n.*"
    r"\nhermes\.errors\.\w+: (?P<words>(?:(?!\nTraceback ).)*)\Z",
    re.DOTALL,
)
_ANY_TRACEBACK = re.compile(
    r"\nTraceback \(most recent call last\):\n.*\n(?P<words>\S[^\n]*)\Z", re.DOTALL
)


class PlainErrors(logging.Filter):
    """Leaves the traceback of a known error out, and says the error again after the summary.

    At the log level DEBUG tracebacks stay. Those of any other error always do.

    Attributes
    ----------
    closing
        Returns the lines that the output of a build ends with where all of it succeeded.
    log_file
        The file that takes the log, with every traceback, while a display shows the run; it is
        the display's part then to end with the errors.
    """

    def __init__(self) -> None:
        super().__init__()
        # Without a name, and shared with the workers that Luigi forks.
        self._errors = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (open while Luigi logs)
        self.closing: Callable[[], list[str]] = list
        self.log_file: Path | None = None
        self._succeeded = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record that tells of an error, or sums up."""
        text, words = _text_and_words(record)
        if self.log_file is not None:
            self._hold_back(record, text, words)
        elif words:
            self.add(words)
            if not logger.isEnabledFor(logging.DEBUG):
                record.msg, record.args, record.exc_info = f"{text}\nhermes: {words}", (), None
        elif text.startswith(_RETRY) and not logger.isEnabledFor(logging.DEBUG):
            record.exc_info = None
        elif _SUMMARY in text:
            errors = self.take()
            # Errors of a build that succeeded were overcome.
            last = self.closing() if ":)" in text else [f"hermes: {error}" for error in errors]
            record.msg, record.args = "\n".join([text, *last]), ()
        return True

    def add(self, words: str) -> None:
        """Keep what an error says for the end."""
        self._errors.write(f"{words}\0".encode())

    def take(self) -> list[str]:
        """Return what the errors so far say, each once but no more than a few, and forget them."""
        self._errors.seek(0)
        errors = list(dict.fromkeys(self._errors.read().decode().split("\0")[:-1]))
        self._errors.seek(0)
        self._errors.truncate()
        if len(errors) > MOST_ERRORS:
            errors[MOST_ERRORS:] = [f"and {len(errors) - MOST_ERRORS} more errors, in the log"]
        return errors

    @property
    def succeeded(self) -> bool:
        """Whether Luigi has summed up that everything is done."""
        return self._succeeded

    def _hold_back(self, record: logging.LogRecord, text: str, words: str) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, RequirementError):
            self.add(REQUIREMENT_MISSED)
        elif words:
            self.add(words)
        elif _SUMMARY in text:
            self._succeeded = ":)" in text
        elif text.startswith(_RETRY):
            return
        elif error is not None:
            self.add(f"{type(error).__name__}: {error}; the traceback is in {self.log_file}")
        elif found := _ANY_TRACEBACK.search(text):
            self.add(f"{found['words']}; the traceback is in {self.log_file}")


def install_plain_errors() -> PlainErrors:
    """Let Luigi's log have known errors in their own words; handlers and levels stay."""
    for each in logger.filters:
        if isinstance(each, PlainErrors):
            return each
    errors = PlainErrors()
    logger.addFilter(errors)

    def add(_: luigi.Task, problem: str) -> None:
        errors.add(f"{problem.removeprefix('Task ')}{_MEMORY if '-9' in problem else ''}")

    luigi.Task.event_handler(luigi.Event.PROCESS_FAILURE)(add)
    luigi.Task.event_handler(luigi.Event.TIMEOUT)(add)
    return errors


def _text_and_words(record: logging.LogRecord) -> tuple[str, str]:
    """Return what a record says, and what the known error says that it tells of."""
    text = record.getMessage()
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and isinstance(error.__cause__, ParameterError):
        error = error.__cause__  # Luigi adds only that the value was a default, or in a file
    if isinstance(error, HermesError | ParameterException):
        return text, str(error)
    if isinstance(error, RPCError):
        return text, _NO_SCHEDULER.format(error)
    found = _TRACEBACK.search(text)
    return (text[: found.start()], found["words"].strip()) if found else (text, "")
