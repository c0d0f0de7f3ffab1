"""Errors in Luigi's log as they are meant to be read: in their own words, and last.

Luigi prints a traceback wherever a task fails. An error that hermes raises on purpose says itself
what happened and what to do; below its traceback, and above the summary, nobody finds that.
"""

from __future__ import annotations

import logging
import re
import tempfile

from luigi.parameter import ParameterException
from luigi.rpc import RPCError

from hermes.errors import HermesError, ParameterError

# The one whose messages Luigi shows.
logger = logging.getLogger("luigi-interface")

_NO_SCHEDULER = (
    "Luigi's scheduler is not there: {}; start luigid again and repeat the command, which goes on "
    "where it stopped, or add --local-scheduler"
)
_RETRY = "Failed connecting to remote scheduler"
_SUMMARY = "===== Luigi Execution Summary ====="
# Of an error while it schedules, Luigi logs the traceback as text.
_TRACEBACK = re.compile(
    r"\nTraceback \(most recent call last\):\n.*"
    r"\nhermes\.errors\.\w+: (?P<words>(?:(?!\nTraceback ).)*)\Z",
    re.DOTALL,
)


class PlainErrors(logging.Filter):
    """Leaves the traceback of a known error out, and says the error again after the summary.

    At the log level DEBUG tracebacks stay. Those of any other error always do.
    """

    def __init__(self) -> None:
        super().__init__()
        # Without a name, and shared with the workers that Luigi forks.
        self._errors = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (open while Luigi logs)

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record that tells of an error, or sums up."""
        text, words = _text_and_words(record)
        if words:
            self._errors.write(f"{words}\0".encode())
            if not logger.isEnabledFor(logging.DEBUG):
                record.msg, record.args, record.exc_info = f"{text}\nhermes: {words}", (), None
        elif text.startswith(_RETRY) and not logger.isEnabledFor(logging.DEBUG):
            record.exc_info = None
        elif _SUMMARY in text:
            errors = self._take()
            if ":)" not in text:  # else they were overcome
                record.msg, record.args = "\n".join([text, *errors]), ()
        return True

    def _take(self) -> list[str]:
        self._errors.seek(0)
        errors = self._errors.read().decode().split("\0")[:-1]
        self._errors.seek(0)
        self._errors.truncate()
        return [f"hermes: {words}" for words in dict.fromkeys(errors)]


def install_plain_errors() -> None:
    """Let Luigi's log have known errors in their own words; handlers and levels stay."""
    if not any(isinstance(each, PlainErrors) for each in logger.filters):
        logger.addFilter(PlainErrors())


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
