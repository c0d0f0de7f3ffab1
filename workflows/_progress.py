"""Progress in Luigi's status."""

from __future__ import annotations

import time
from collections.abc import Callable

from hermes._reports import duration

INTERVAL_S = 1.0


class Progress:
    """Shows how far a task has come; call it with what is done and what there is in all.

    Parameters
    ----------
    set_message, set_percentage
        A running Luigi task's own methods; None where it runs without a scheduler.
    unit
        What is counted.
    """

    def __init__(
        self,
        set_message: Callable[[str], object] | None,
        set_percentage: Callable[[float], object] | None,
        unit: str = "rows",
    ) -> None:
        self._set_message = set_message
        self._set_percentage = set_percentage
        self._unit = unit
        self._first: tuple[float, int] | None = None
        self._shown = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` rows are there."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        if now - self._shown < INTERVAL_S and done < total:
            return
        self._shown = now
        started, before = self._first
        rate = (done - before) / (now - started) if now > started else 0.0
        left = f", {duration((total - done) / rate)} left" if rate and done < total else ""
        if self._set_message is not None and self._set_percentage is not None:
            self._set_message(f"{done} of {total} {self._unit}, {rate:.0f} {self._unit}/s{left}")
            self._set_percentage(100.0 * done / total if total else 100.0)  # no row may be kept
