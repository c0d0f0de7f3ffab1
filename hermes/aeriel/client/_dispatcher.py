"""Sends the requests of one client: limits their rate, counts them, and retries."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from numpy.typing import NDArray

from hermes.aeriel.client._carriers import Call
from hermes.aeriel.client._connection import Connection
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

T = TypeVar("T")


@dataclass(eq=False)
class PendingRequest:
    """A request that was sent, and its call; the call is None after the answer."""

    prepared: PreparedRequest
    started: float
    call: Call | None


@dataclass(frozen=True, kw_only=True)
class Dispatcher:
    """Sends requests and receives answers for one client, in the process that opened it."""

    specification: ModelSpecification
    connection: Connection
    transport: Transport
    recorder: Recorder
    rate_limiter: RateLimiter
    timeout_s: float
    process: Process = field(default_factory=this_process)

    def is_inherited(self) -> bool:
        """Return whether this process was forked from the one that opened the client."""
        return self.process is not this_process()

    def check_usable(self) -> None:
        """Raise an error if no request can be sent.

        Raises
        ------
        RequestError
            The client was closed, or a forked process continues a stream of its parent.
        """
        if self.is_inherited():
            reason = (
                "the stream was started in the parent process, before a fork; start a new one in "
                "this process"
            )
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
            See `check_usable`.
        """
        self.check_usable()
        return self.transport.pack(arrays, self.specification.check(arrays), parameters)

    @contextlib.contextmanager
    def within(self, deadline_s: float) -> Iterator[float]:
        """Set a deadline for several requests; an error caused by it has `deadline_s`."""
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
            It was not sent: the client was closed, or the deadline has passed.
        """
        self.rate_limiter.wait(deadline)
        self._check(deadline)
        started = self.recorder.start()
        return PendingRequest(prepared, started, self._send(prepared, deadline))

    def finish(self, pending: PendingRequest, deadline: float = math.inf) -> Outputs:
        """Return the outputs of a request, which is retried after a transient failure.

        They are valid until the request is dropped.

        Raises
        ------
        RequestError, RequestTimeoutError
            The last attempt failed, or the deadline has passed.
        """
        self._check(deadline)
        try:
            outputs = self._received(pending)
        except InferenceError as error:

            def attempt() -> Outputs:
                pending.call = self._send(pending.prepared, deadline)
                return self._received(pending)

            outputs = self.again([error], attempt, deadline)
        self._count(pending, outputs)
        return outputs

    def finish_once(self, pending: PendingRequest) -> Outputs:
        """Return the outputs of a request, without retries."""
        outputs = self._received(pending)
        self._count(pending, outputs)
        return outputs

    def resend(self, pending: PendingRequest, deadline: float) -> None:
        """Send a request again after the server rejected it."""
        self.recorder.retried()
        pending.call = self._send(pending.prepared, deadline)

    def again(self, failures: list[InferenceError], attempt: Callable[[], T], deadline: float) -> T:
        """Return the result of an attempt after one that failed, and of others until one succeeds.

        Parameters
        ----------
        failures
            The failure, alone in a list, from which it is removed.
        attempt
            Makes an attempt.
        deadline
            After which there are no others.

        Raises
        ------
        InferenceError
            The last failure; the one that is given, where it is not transient.
        """

        def next_attempt() -> T:
            if failures:
                # Not kept in a local variable: the traceback refers to this frame. The cycle would
                # keep the callers' frames, and shared memory, until garbage collection.
                raise failures.pop()
            return attempt()

        retrying = self.connection.retrying(lambda _: self.recorder.retried(), deadline)
        try:
            return retrying(next_attempt)
        except InferenceError:
            self.recorder.failed()
            raise

    def drop(self, pending: PendingRequest) -> None:
        """Release a request and its outputs."""
        if not self.is_inherited():
            self.transport.drop(pending.prepared, pending.call)

    def _check(self, deadline: float) -> None:
        # Carriers check the deadline only while they wait.
        if time.monotonic() >= deadline:
            raise self.connection.error("DEADLINE_EXCEEDED", "")

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
    """Return outputs that do not depend on the memory of the request."""
    return {
        name: _copy(array) if array.flags.writeable else array for name, array in outputs.items()
    }


def _copy(array: NDArray[Any]) -> NDArray[Any]:
    copied = array.copy()
    copied.flags.writeable = False
    return copied
