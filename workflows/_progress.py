"""Progress where people look for it: in Luigi's status, and as a bar in a terminal."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

INTERVAL_S = 1.0


class Progress:
    """Shows how far a task has come; call it with the rows done and the rows in all.

    Parameters
    ----------
    label
        Stands before the bar.
    set_message, set_percentage
        A running Luigi task's own methods; None where it runs without a scheduler.
    """

    def __init__(
        self,
        label: str,
        set_message: Callable[[str], object] | None,
        set_percentage: Callable[[float], object] | None,
    ) -> None:
        self._label = label
        self._set_message = set_message
        self._set_percentage = set_percentage
        self._bar: tqdm[Any] | None = None
        self._stack = ExitStack()
        self._first: tuple[float, int] | None = None
        self._shown = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` rows are there."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
            if _takes_the_terminal(self._stack):
                self._bar = tqdm(
                    total=total, initial=done, desc=self._label, unit=" rows", leave=False
                )
                self._stack.callback(self._bar.close)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        if now - self._shown < INTERVAL_S and done < total:
            return
        self._shown = now
        started, before = self._first
        rate = (done - before) / (now - started) if now > started else 0.0
        left = f", {_duration((total - done) / rate)} left" if rate and done < total else ""
        if self._set_message is not None and self._set_percentage is not None:
            self._set_message(f"{done} of {total} rows, {rate:.0f} rows/s{left}")
            self._set_percentage(100.0 * done / total)


def _takes_the_terminal(stack: ExitStack) -> bool:
    """Tell whether this process may draw a bar: one of the workers on a terminal at a time."""
    if not sys.stderr.isatty():
        return False
    descriptor = os.open(os.ttyname(sys.stderr.fileno()), os.O_WRONLY | os.O_NOCTTY)
    stack.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
