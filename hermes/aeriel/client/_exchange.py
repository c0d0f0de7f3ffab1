"""Requests of one client: sent at its pace, counted, and sent again where that helps."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from hermes.aeriel.client._connection import Connection, is_transient
from hermes.aeriel.client._forks import Process, this_process
from hermes.aeriel.client._pace import Pace
from hermes.aeriel.client._specification import Arrays, ModelSpecification
from hermes.aeriel.client._statistics import Recorder
from hermes.aeriel.client._transports import NO_PARAMETERS, Outputs, Parameters, Parcel, Transport
from hermes.aeriel.client._wires import Call
from hermes.errors import InferenceError, RequestTimeoutError


@dataclass(eq=False)
class Exchange:
    """A request, and the call that carries it; None when it was answered."""

    parcel: Parcel
    started: float
    call: Call | None


@dataclass(frozen=True, kw_only=True)
class Exchanges:
    """What one client needs to exchange requests for answers, in the process that opened it."""

    specification: ModelSpecification
    connection: Connection
    transport: Transport
    recorder: Recorder
    pace: Pace
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

    def pack(self, arrays: Arrays, parameters: Parameters = NO_PARAMETERS) -> Parcel:
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

    def start(self, parcel: Parcel, deadline: float = math.inf) -> Exchange:
        """Send a request.

        Raises
        ------
        RequestError, RequestTimeoutError
            It was not sent: the client was closed, or the deadline is over.
        """
        self.pace.wait(deadline)
        self._check(deadline)
        started = self.recorder.start()
        return Exchange(parcel, started, self._send(parcel, deadline))

    def finish(self, exchange: Exchange, deadline: float = math.inf) -> Outputs:
        """Return the outputs of a request, which is sent again where that may help.

        They are good until the request is dropped.

        Raises
        ------
        RequestError, RequestTimeoutError
            The last attempt's failure, or the deadline is over.
        """
        self._check(deadline)
        try:
            outputs = self._received(exchange)
        except InferenceError as error:
            if not is_transient(error):
                self.recorder.failed()
                raise
            outputs = self._again(exchange, [error], deadline)
        self._count(exchange, outputs)
        return outputs

    def finish_once(self, exchange: Exchange) -> Outputs:
        """Return the outputs of a request that is not to be sent again."""
        outputs = self._received(exchange)
        self._count(exchange, outputs)
        return outputs

    def resend(self, exchange: Exchange, deadline: float) -> None:
        """Send a request again that the server did not take."""
        self.recorder.retried()
        exchange.call = self._send(exchange.parcel, deadline)

    def drop(self, exchange: Exchange) -> None:
        """Let go of a request, and of its outputs."""
        if not self.is_inherited():
            self.transport.drop(exchange.parcel, exchange.call)

    def _check(self, deadline: float) -> None:
        # The wire would not find out: it looks when it waits for long, and answers may come soon.
        if time.monotonic() >= deadline:
            raise self.connection.error("DEADLINE_EXCEEDED", "")

    def _again(
        self, exchange: Exchange, failures: list[InferenceError], deadline: float
    ) -> Outputs:
        """Send a request again that failed, as the one failure given says."""

        def attempt() -> Outputs:
            if failures:
                # In no variable of this: its traceback will have this frame and all the callers',
                # which would then stay, with regions in them, until garbage is collected.
                raise failures.pop()
            exchange.call = self._send(exchange.parcel, deadline)
            return self._received(exchange)

        try:
            return self.connection.retrying(lambda _: self.recorder.retried(), deadline)(attempt)
        except InferenceError:
            self.recorder.failed()
            raise

    def _send(self, parcel: Parcel, deadline: float) -> Call:
        self.check_usable()
        return self.transport.send(parcel, min(self.timeout_s, deadline - time.monotonic()))

    def _received(self, exchange: Exchange) -> Outputs:
        assert exchange.call is not None  # noqa: S101 (for the type checker: it was sent)
        outputs = self.transport.receive(exchange.parcel, exchange.call)
        exchange.call = None
        return outputs

    def _count(self, exchange: Exchange, outputs: Outputs) -> None:
        n_bytes = exchange.parcel.n_bytes + sum(array.nbytes for array in outputs.values())
        self.recorder.answered(exchange.started, exchange.parcel.rows, n_bytes)


def owned(outputs: Outputs) -> Outputs:
    """Return outputs that stay as they are, whatever becomes of the memory they came in."""
    return {
        name: _copy(array) if array.flags.writeable else array for name, array in outputs.items()
    }


def _copy(array: NDArray[Any]) -> NDArray[Any]:
    copied = array.copy()
    copied.flags.writeable = False
    return copied
