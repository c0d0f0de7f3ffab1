"""The protocols that carry requests and answers: their interface, and code that they share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from hermes.aeriel.client._messages import Answer, Message
from hermes.errors import InferenceError, RequestTimeoutError

# How often a wait checks whether its carrier was closed.
STEP_S = 0.2
# How long close() waits for abandoned requests, before they are left to the background.
CLOSE_WAIT_S = 0.1

Errors = Callable[[str, str], InferenceError]


class Call(Protocol):
    """One request that was sent."""

    def answer(self) -> Answer:
        """Wait for the answer.

        Raises
        ------
        RequestError
            The server refused the request or failed, the connection broke, or the carrier was
            closed.
        RequestTimeoutError
            The answer did not come in time; it may still come.
        """

    def is_done(self) -> bool:
        """Return whether the server has finished the request, with an answer or without."""

    def cancel(self) -> None:
        """Abandon the request; the server still answers, and the answer is discarded."""


class Carrier(Protocol):
    """A connection that carries requests.

    Attributes
    ----------
    error
        Returns an error for a gRPC status and a reason.
    closing
        Set when every wait has to end.
    """

    error: Errors
    closing: threading.Event

    def encode(self, message: Message) -> Any:
        """Return a message as `send` takes it."""

    def send(self, encoded: Any, timeout_s: float) -> Call:
        """Send a request; an error is raised by the call's `answer`."""

    def close(self) -> None:
        """End every wait within `STEP_S`; `is_done` of the calls still works."""


def wait_until(is_true: Callable[[], bool], timeout_s: float) -> bool:
    """Wait until a condition is true; return False if it is not within `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def check(carrier: Carrier, deadline: float, timeout_s: float) -> None:
    """Raise an error if the carrier was closed or the deadline has passed."""
    if carrier.closing.is_set():
        raise carrier.error("CANCELLED", "the client was closed")
    if time.monotonic() >= deadline:
        raise timed_out(carrier, timeout_s)


def timed_out(carrier: Carrier, timeout_s: float) -> InferenceError:
    """Return the error for a deadline that has passed."""
    error = carrier.error("DEADLINE_EXCEEDED", "")
    if isinstance(error, RequestTimeoutError):
        error.timeout_s = timeout_s
    return error
