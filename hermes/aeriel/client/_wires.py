"""How requests reach the server and answers come back: gRPC, or a plain HTTP connection.

Triton's HTTP service is the cheaper way where it can be had: a small request costs a quarter of the
processor time that Python's gRPC takes for it.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import math
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol

import grpc
import grpc.experimental
from tritonclient.grpc import service_pb2

from hermes.aeriel.client._messages import (
    Answer,
    Message,
    decode_grpc,
    decode_http,
    encode_grpc,
    encode_http,
)
from hermes.errors import InferenceError, RequestTimeoutError

# How long a wait may go on before it looks whether it has been called off.
STEP_S = 0.2
# How long the end of what was given up is looked for, before more is done about it.
PATIENCE_S = 0.1
_ANSWER = service_pb2.ModelInferResponse.FromString
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_RECEIVE_BYTES = 1 << 16
_STATUS = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

Errors = Callable[[str, str], InferenceError]


class Call(Protocol):
    """One request on its way."""

    def answer(self) -> Answer:
        """Wait for the answer.

        Raises
        ------
        RequestError
            The server refused or failed it, the connection broke, or the wire was closed.
        RequestTimeoutError
            It was not there in time; it may still come.
        """

    def is_done(self) -> bool:
        """Tell whether the server has done with the request, be it with an answer or not."""

    def cancel(self) -> None:
        """Give the answer up."""


class Wire(Protocol):
    """A connection that carries requests."""

    def encode(self, message: Message) -> Any:
        """Return a message as `send` takes it."""

    def send(self, encoded: Any, timeout_s: float) -> Call:
        """Send a request; what goes wrong shows in the answer."""

    def close(self) -> None:
        """End every wait within `STEP_S`; calls can still be asked whether they are done."""


class PatientGrpcWire:
    """Requests over a gRPC channel, of which it is known when the server has done with them.

    A call is carried by a thread until it is answered, which is what Python's gRPC is fastest at.

    What nobody waits for any longer is not cancelled, but answered, and thrown away: Triton up to
    25.02 at least dies of a call that is cancelled while it ends
    (https://github.com/triton-inference-server/server/issues/8034), and others may share it.

    Parameters
    ----------
    channel
        The channel, which belongs to the caller.
    error
        Makes an error of a gRPC status and a reason.
    """

    def __init__(self, channel: grpc.Channel, error: Errors) -> None:
        self.error = error
        self.closing = threading.Event()
        self._infer = channel.unary_unary(_INFER, response_deserializer=_ANSWER)
        self._handed_over: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._under_way: set[CarriedCall | LoneCall] = set()

    def encode(self, message: Message) -> bytes:
        """Return a serialized ``ModelInferRequest``."""
        return encode_grpc(message)

    def send(self, encoded: bytes, timeout_s: float) -> Call:
        """Send a request."""
        call = CarriedCall(self, timeout_s)
        self._under_way.add(call)
        self.hand_over(functools.partial(call.carry, self._infer, encoded))
        return call

    def hand_over(self, work: Callable[[], None]) -> None:
        """Have a thread do something."""
        self._handed_over.put(work)
        if not self._idle.acquire(blocking=False):
            # A daemon: a server that does not answer is no reason for the process to stay.
            thread = threading.Thread(target=self._work, name="hermes-grpc", daemon=True)
            self._threads.append(thread)
            thread.start()

    def ended(self, call: CarriedCall | LoneCall) -> None:
        """Note that a call is over."""
        self._under_way.discard(call)

    def is_quiet(self) -> bool:
        """Tell whether every call is over."""
        return not self._under_way

    def close(self) -> None:
        """End every wait."""
        self.closing.set()
        for _ in self._threads:
            self._handed_over.put(None)

    def _work(self) -> None:
        while (work := self._handed_over.get()) is not None:
            work()
            del work  # and the request with it
            self._idle.release()


class GrpcWire(PatientGrpcWire):
    """Requests over a gRPC channel, the faster where one is alone.

    That one is carried by the thread that waits for it, which saves handing it over: a third of the
    time of a small request. If its time is over, or the client is closed and it does not end soon,
    it is cancelled all the same: there is no other way to end its wait.

    Parameters
    ----------
    channel
        The channel, which belongs to the caller, with `CHANNEL_OPTIONS`.
    error
        Makes an error of a gRPC status and a reason.
    """

    CHANNEL_OPTIONS = ((grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),)

    def __init__(self, channel: grpc.Channel, error: Errors) -> None:
        super().__init__(channel, error)
        # The same call as one with a stream of answers, which a thread of the caller's can read.
        self._begin = channel.unary_stream(_INFER, response_deserializer=_ANSWER)

    def send(self, encoded: bytes, timeout_s: float) -> Call:
        """Send a request."""
        if self._under_way:
            return super().send(encoded, timeout_s)
        call = LoneCall(self, self._begin(encoded, timeout=max(0.0, timeout_s)), timeout_s)
        self._under_way.add(call)
        return call

    def close(self) -> None:
        """End every wait."""
        self.closing.set()
        wait_until(self.is_quiet, PATIENCE_S)
        for call in list(self._under_way):
            if isinstance(call, LoneCall):
                call.abort()
        super().close()


class CarriedCall:
    """One request over gRPC, which a thread carries."""

    def __init__(self, wire: PatientGrpcWire, timeout_s: float) -> None:
        self._wire = wire
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._result: Any = None
        self._ended = threading.Lock()
        self._ended.acquire()

    def carry(self, infer: Callable[[bytes], Any], encoded: bytes) -> None:
        """Send it, and take what comes of it: an answer, or an error."""
        try:
            # No deadline: gRPC would cancel it then.
            self._result = infer(encoded)
        except (grpc.RpcError, ValueError) as error:  # ValueError: the channel is closed
            self._result = error
        self._wire.ended(self)
        self._ended.release()

    def answer(self) -> Answer:
        """Wait for the answer."""
        while not self._ended.acquire(timeout=self._step_s()):
            _check(self._wire, self._deadline, self._timeout_s)
        self._ended.release()
        if isinstance(self._result, Exception):
            raise _failure(self._wire, self._result, self._timeout_s) from self._result
        return decode_grpc(self._result)

    def is_done(self) -> bool:
        """Tell whether the server has answered."""
        return not self._ended.locked()

    def cancel(self) -> None:
        """Leave it to its thread."""

    def _step_s(self) -> float:
        return max(0.0, min(STEP_S, self._deadline - time.monotonic()))


class LoneCall:
    """One request over gRPC, which is carried by who waits for it."""

    def __init__(self, wire: GrpcWire, answers: Any, timeout_s: float) -> None:
        self._wire = wire
        self._answers = answers
        self._timeout_s = timeout_s
        self._is_done = False

    def answer(self) -> Answer:
        """Wait for the answer."""
        try:
            response = next(self._answers)
            next(self._answers, None)  # the status, which comes after it
        except grpc.RpcError as error:
            _check(self._wire, math.inf, self._timeout_s)
            raise _failure(self._wire, error, self._timeout_s) from error
        finally:
            self._is_done = True
            self._wire.ended(self)
        return decode_grpc(response)

    def is_done(self) -> bool:
        """Tell whether it is over."""
        return self._is_done

    def cancel(self) -> None:
        """Leave it to another thread."""
        if not self._is_done:
            self._wire.hand_over(self._finish)

    def abort(self) -> None:
        """Cut it off."""
        self._answers.cancel()

    def _finish(self) -> None:
        with contextlib.suppress(InferenceError):
            self.answer()


class HttpWire:
    """Requests over kept connections to Triton's HTTP service.

    Parameters
    ----------
    address
        ``host:port``.
    error
        Makes an error of a gRPC status and a reason.
    """

    def __init__(self, address: str, error: Errors) -> None:
        self.address = address
        self.error = error
        self.closing = threading.Event()
        self._idle: deque[socket.socket] = deque()

    def leads_to(self, name: str) -> bool:
        """Tell whether a server of this name answers."""
        facts = self._get("/v2")
        return isinstance(facts, dict) and facts.get("name") == name

    def knows_region(self, name: str) -> bool:
        """Tell whether this is the server that a region was registered with."""
        regions = self._get(f"/v2/systemsharedmemory/region/{name}/status")
        return isinstance(regions, list) and any(
            region.get("name") == name for region in regions if isinstance(region, dict)
        )

    def encode(self, message: Message) -> bytes:
        """Return an HTTP request."""
        return encode_http(message, self.address)

    def send(self, encoded: bytes, timeout_s: float) -> HttpCall:
        """Send a request."""
        return HttpCall(self, encoded, timeout_s)

    def take(self) -> socket.socket:
        """Return a connection that nobody uses."""
        try:
            return self._idle.pop()
        except IndexError:
            host, _, port = self.address.rpartition(":")
            connection = socket.create_connection((host.strip("[]"), int(port)), timeout=STEP_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection

    def give(self, connection: socket.socket) -> None:
        """Keep a connection for the next request."""
        if self.closing.is_set():
            connection.close()
        else:
            self._idle.append(connection)

    def forget_idle(self) -> None:
        """End the connections that nobody uses: the server that they led to may be gone."""
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        """End every wait."""
        self.closing.set()
        self.forget_idle()

    def _get(self, path: str) -> Any:
        """Return an answer in JSON; None where there is none."""
        connection = http.client.HTTPConnection(self.address, timeout=5.0)
        try:
            connection.request("GET", path)
            with connection.getresponse() as response:
                return json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()


class HttpCall:
    """One request over HTTP."""

    def __init__(self, wire: HttpWire, encoded: bytes, timeout_s: float) -> None:
        self._wire = wire
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._connection: socket.socket | None = None
        self._failure: InferenceError | None = None
        try:
            self._connection = wire.take()
            self._send(self._connection, encoded)
        except InferenceError as error:
            self._failure = error
        except OSError as error:
            self._failure = self._broken(error)

    def answer(self) -> Answer:
        """Wait for the answer."""
        if self._failure is not None or self._connection is None:
            raise self._failure or self._wire.error("CANCELLED", "the request was cancelled")
        try:
            status, fields, body = self._receive(self._connection)
        except InferenceError:  # of which one is an OSError too
            raise
        except OSError as error:
            raise self._broken(error) from error
        except (ValueError, KeyError) as error:
            raise self._broken(f"no HTTP answer of Triton's: {error}") from error
        connection, self._connection = self._connection, None
        self._wire.give(connection)
        if status != 200:
            reason = _reason(bytes(body))
            raise self._wire.error(_STATUS.get(status, "INTERNAL"), reason)
        length = fields.get(b"inference-header-content-length")
        return decode_http(body, None if length is None else int(length))

    def is_done(self) -> bool:
        """Tell whether the server has answered, or ended the connection."""
        connection = self._connection
        if connection is None:
            return True
        poll = select.poll()
        try:
            poll.register(connection, select.POLLIN)
        except ValueError:  # another thread has just found that out, and closed it
            return True
        if not poll.poll(0):
            return False
        self.cancel()
        return True

    def cancel(self) -> None:
        """End the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _send(self, connection: socket.socket, encoded: bytes) -> None:
        left = memoryview(encoded)
        while left:
            try:
                sent = connection.send(left)
            except TimeoutError:
                _check(self._wire, self._deadline, self._timeout_s)
                continue
            left = left[sent:]

    def _receive(self, connection: socket.socket) -> tuple[int, dict[bytes, bytes], memoryview]:
        data = bytearray()
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._some(connection)
        lines = bytes(data[:end]).split(b"\r\n")
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in lines[1:])
        }
        start = end + 4
        size = int(fields[b"content-length"])
        while len(data) - start < size:
            data += self._some(connection, start + size - len(data))
        return int(lines[0].split()[1]), fields, memoryview(data).toreadonly()[start:]

    def _some(self, connection: socket.socket, expected: int = _RECEIVE_BYTES) -> bytes:
        while True:
            try:
                received = connection.recv(max(_RECEIVE_BYTES, expected))
            except TimeoutError:
                _check(self._wire, self._deadline, self._timeout_s)
                continue
            if not received:
                raise ConnectionResetError("the server ended the connection")
            return received

    def _broken(self, problem: object) -> InferenceError:
        self.cancel()
        self._wire.forget_idle()
        return self._wire.error("UNAVAILABLE", f"HTTP at {self._wire.address}: {problem}")


def wait_until(is_true: Callable[[], bool], timeout_s: float) -> bool:
    """Return when something is true, or the time is over; tell which."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _check(wire: PatientGrpcWire | HttpWire, deadline: float, timeout_s: float) -> None:
    """Raise the error of a wait that was called off, or that is over."""
    if wire.closing.is_set():
        raise wire.error("CANCELLED", "the client was closed")
    if time.monotonic() >= deadline:
        raise _timeout(wire, timeout_s)


def _failure(wire: PatientGrpcWire, error: Exception, timeout_s: float) -> InferenceError:
    """Return what gRPC's error is called here."""
    if not isinstance(error, grpc.RpcError):
        return wire.error("CANCELLED", str(error))
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return _timeout(wire, timeout_s)
    return wire.error(error.code().name, error.details() or "no details")


def _timeout(wire: PatientGrpcWire | HttpWire, timeout_s: float) -> InferenceError:
    error = wire.error("DEADLINE_EXCEEDED", "")
    if isinstance(error, RequestTimeoutError):
        error.timeout_s = timeout_s
    return error


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace") or "no details"
