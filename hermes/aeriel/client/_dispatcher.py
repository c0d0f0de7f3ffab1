"""Requests of one client: sent at its pace, counted, and sent again where that helps."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from hermes.aeriel.client._carriers import Call
from hermes.aeriel.client._connection import Connection, is_transient
from hermes.aeriel.client._forks import Process, this_process
from hermes.aeriel.client._rate_limiter import RateLimiter
from hermes.aeriel.client._specification import Arrays, ModelSpecification
from hermes.aeriel.client._statistics import Recorder
from hermes.aeriel.client._transports import (
    NO_PARAMETERS,
    Outputs,
    Parameters,
    PreparedRequest,
    Transport,
)
from hermes.errors import InferenceError, RequestTimeoutError


@dataclass(eq=False)
class PendingRequest:
    """A request, and the call that carries it; None when it was answered."""

    prepared: PreparedRequest
    started: float
    call: Call | None


@dataclass(frozen=True, kw_only=True)
class Dispatcher:
    """What one client needs to exchange requests for answers, in the process that opened it."""

    specification: ModelSpecification
    connection: Connection
    transport: Transport
    recorder: Recorder
    pace: RateLimiter
    timeout_s: float
    process: Process = field(default_factory=this_process)

    def is_inherited(self) -> bool:
        """Tell whether another process has opened this, of which this one is a fork."""
        return self.process is not this_process()

    def check_usable(self) -> None:
        """Say why no request can be sent, if so.

        Raises
        ------
        RequestError
            The client was closed; or a process that was forked goes on with what its parent began.
        """
        if self.is_inherited():
            reason = "it was begun by the process that this one was forked from; begin anew here"
            raise self.connection.error("CANCELLED", reason)
        if self.connection.is_closing:
            raise self.connection.error("CANCELLED", "the client was closed")

    def pack(self, arrays: Arrays, parameters: Parameters = NO_PARAMETERS) -> PreparedRequest:
        """Return a request; the arrays may be changed afterwards.

        Raises
        ------
        InputError
            They do not fit the model.
        RequestError
            As `check_usable` says.
        """
        self.check_usable()
        return self.transport.pack(arrays, self.specification.check(arrays), parameters)

    @contextlib.contextmanager
    def within(self, deadline_s: float) -> Iterator[float]:
        """Give the deadline of several requests; an error that comes of it tells of it."""
        deadline = time.monotonic() + deadline_s
        try:
            yield deadline
        except RequestTimeoutError as error:
            if time.monotonic() >= deadline:
                error.timeout_s = deadline_s
            raise

    def start(self, prepared: PreparedRequest, deadline: float = math.inf) -> PendingRequest:
        """Send a request.

        Raises
        ------
        RequestError, RequestTimeoutError
            It was not sent: the client was closed, or the deadline is over.
        """
        self.pace.wait(deadline)
        self._check(deadline)
        started = self.recorder.start()
        return PendingRequest(prepared, started, self._send(prepared, deadline))

    def finish(self, pending: PendingRequest, deadline: float = math.inf) -> Outputs:
        """Return the outputs of a request, which is sent again where that may help.

        They are good until the request is dropped.

        Raises
        ------
        RequestError, RequestTimeoutError
            The last attempt's failure, or the deadline is over.
        """
        self._check(deadline)
        try:
            outputs = self._received(pending)
        except InferenceError as error:
            if not is_transient(error):
                self.recorder.failed()
                raise
            outputs = self._again(pending, [error], deadline)
        self._count(pending, outputs)
        return outputs

    def finish_once(self, pending: PendingRequest) -> Outputs:
        """Return the outputs of a request that is not to be sent again."""
        outputs = self._received(pending)
        self._count(pending, outputs)
        return outputs

    def resend(self, pending: PendingRequest, deadline: float) -> None:
        """Send a request again that the server did not take."""
        self.recorder.retried()
        pending.call = self._send(pending.prepared, deadline)

    def drop(self, pending: PendingRequest) -> None:
        """Let go of a request, and of its outputs."""
        if not self.is_inherited():
            self.transport.drop(pending.prepared, pending.call)

    def _check(self, deadline: float) -> None:
        # The carrier looks only when it waits for long, and answers may come soon.
        if time.monotonic() >= deadline:
            raise self.connection.error("DEADLINE_EXCEEDED", "")

    def _again(
        self, pending: PendingRequest, failures: list[InferenceError], deadline: float
    ) -> Outputs:
        """Send a request again that failed, as the one failure given says."""

        def attempt() -> Outputs:
            if failures:
                # In no variable of this: its traceback will have this frame and all the callers',
                # which would then stay, with regions in them, until garbage is collected.
                raise failures.pop()
            pending.call = self._send(pending.prepared, deadline)
            return self._received(pending)

        try:
            return self.connection.retrying(lambda _: self.recorder.retried(), deadline)(attempt)
        except InferenceError:
            self.recorder.failed()
            raise

    def _send(self, prepared: PreparedRequest, deadline: float) -> Call:
        self.check_usable()
        return self.transport.send(prepared, min(self.timeout_s, deadline - time.monotonic()))

    def _received(self, pending: PendingRequest) -> Outputs:
        assert pending.call is not None  # noqa: S101 (for the type checker: it was sent)
        outputs = self.transport.receive(pending.prepared, pending.call)
        pending.call = None
        return outputs

    def _count(self, pending: PendingRequest, outputs: Outputs) -> None:
        n_bytes = pending.prepared.n_bytes + sum(array.nbytes for array in outputs.values())
        self.recorder.answered(pending.started, pending.prepared.rows, n_bytes)


def owned(outputs: Outputs) -> Outputs:
    """Return outputs that stay as they are, whatever becomes of the memory they came in."""
    return {
        name: _copy(array) if array.flags.writeable else array for name, array in outputs.items()
    }


def _copy(array: NDArray[Any]) -> NDArray[Any]:
    copied = array.copy()
    copied.flags.writeable = False
    return copied
