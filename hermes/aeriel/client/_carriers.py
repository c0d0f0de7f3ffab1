"""How requests reach the server and answers come back: the seam, and what its two sides share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from hermes.aeriel.client._messages import Answer, Message
from hermes.errors import InferenceError, RequestTimeoutError

# How long a wait may go on before it looks whether it has been called off.
STEP_S = 0.2
# How long the end of what was given up is looked for, before more is done about it.
CLOSE_WAIT_S = 0.1

Errors = Callable[[str, str], InferenceError]


class Call(Protocol):
    """One request on its way."""

    def answer(self) -> Answer:
        """Wait for the answer.

        Raises
        ------
        RequestError
            The server refused or failed it, the connection broke, or the carrier was closed.
        RequestTimeoutError
            It was not there in time; it may still come.
        """

    def is_done(self) -> bool:
        """Tell whether the server has done with the request, be it with an answer or not."""

    def cancel(self) -> None:
        """Give the answer up; the server still answers, and nobody hears it."""


class Carrier(Protocol):
    """A connection that carries requests."""

    def encode(self, message: Message) -> Any:
        """Return a message as `send` takes it."""

    def send(self, encoded: Any, timeout_s: float) -> Call:
        """Send a request; what goes wrong shows in the answer."""

    def close(self) -> None:
        """End every wait within `STEP_S`; calls can still be asked whether they are done."""


class Closable(Protocol):
    """What waits, and can be told to stop that."""

    error: Errors
    closing: threading.Event


def wait_until(is_true: Callable[[], bool], timeout_s: float) -> bool:
    """Return when something is true, or the time is over; tell which."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def check(carrier: Closable, deadline: float, timeout_s: float) -> None:
    """Raise the error of a wait that was called off, or that is over."""
    if carrier.closing.is_set():
        raise carrier.error("CANCELLED", "the client was closed")
    if time.monotonic() >= deadline:
        raise timed_out(carrier, timeout_s)


def timed_out(carrier: Closable, timeout_s: float) -> InferenceError:
    """Return the error of a wait that is over."""
    error = carrier.error("DEADLINE_EXCEEDED", "")
    if isinstance(error, RequestTimeoutError):
        error.timeout_s = timeout_s
    return error
