"""Limits the rate of an action."""

from __future__ import annotations

import threading
import time

from hermes.errors import ParameterError


class RateLimiter:
    """Lets callers of all threads pass at a limited rate, without bursts after a pause.

    Parameters
    ----------
    rate_hz
        Times a second; None for no limit.

    Raises
    ------
    ParameterError
        The rate is not above 0.
    """

    def __init__(self, rate_hz: float | None) -> None:
        if rate_hz is not None and not rate_hz > 0:
            raise ParameterError("rate_hz", f"{rate_hz} is not above 0")
        self._interval_s = 0.0 if rate_hz is None else 1 / rate_hz
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self, deadline: float) -> None:
        """Wait for the caller's turn, or until a time of the monotonic clock."""
        if not self._interval_s:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._interval_s
        time.sleep(max(0.0, min(turn, deadline) - now))
