"""How requests reach the server and answers come back: gRPC, or a plain HTTP connection.

Triton's HTTP service is the cheaper way where it can be had: a small request costs a quarter of the
processor time that Python's gRPC takes for it.
"""

from __future__ import annotations

import http.client
import json
import math
import select
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
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


class _Closable(Protocol):
    error: Errors
    closing: threading.Event


class GrpcWire:
    """Requests over a gRPC channel, each waited for by the thread that wants its answer.

    gRPC's own way to have several calls under way, futures, has one thread wait for all of them,
    and starts that thread anew for a call that is alone, which takes half the time of a small
    request. A stream of answers is read by its caller instead: that the one answer of these calls
    is asked for as a stream is nothing that the server sees.

    Parameters
    ----------
    channel
        The channel, which belongs to the caller, with `CHANNEL_OPTIONS`.
    error
        Makes an error of a gRPC status and a reason.
    """

    CHANNEL_OPTIONS = ((grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),)

    def __init__(self, channel: grpc.Channel, error: Errors) -> None:
        self.error = error
        self.closing = threading.Event()
        self._infer = channel.unary_stream(
            _INFER, response_deserializer=service_pb2.ModelInferResponse.FromString
        )
        self._under_way: weakref.WeakSet[GrpcCall] = weakref.WeakSet()

    def encode(self, message: Message) -> bytes:
        """Return a serialized ``ModelInferRequest``."""
        return encode_grpc(message)

    def send(self, encoded: bytes, timeout_s: float) -> GrpcCall:
        """Send a request."""
        call = GrpcCall(self, self._infer(encoded, timeout=max(0.0, timeout_s)), timeout_s)
        self._under_way.add(call)
        return call

    def close(self) -> None:
        """End every wait."""
        self.closing.set()
        for call in list(self._under_way):
            call.cancel()


class GrpcCall:
    """One request over gRPC, which is over for both sides when its time is."""

    def __init__(self, wire: GrpcWire, answers: Any, timeout_s: float) -> None:
        self._wire = wire
        self._answers = answers
        self._timeout_s = timeout_s

    def answer(self) -> Answer:
        """Wait for the answer."""
        try:
            response = next(self._answers)
            next(self._answers, None)  # the status, which comes after it
        except grpc.RpcError as error:
            _check(self._wire, math.inf, self._timeout_s)
            raise _failure(self._wire, error, self._timeout_s) from error
        return decode_grpc(response)

    def is_done(self) -> bool:
        """Tell whether the server has answered."""
        return bool(self._answers.done())

    def cancel(self) -> None:
        """Cancel the request."""
        self._answers.cancel()


class PatientGrpcWire:
    """Requests over a gRPC channel that can be asked after, when nobody waits for them any more.

    The server may write into shared memory until it has answered, so that has to be known.

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
        self._infer = channel.unary_unary(
            _INFER, response_deserializer=service_pb2.ModelInferResponse.FromString
        )

    def encode(self, message: Message) -> bytes:
        """Return a serialized ``ModelInferRequest``."""
        return encode_grpc(message)

    def send(self, encoded: bytes, timeout_s: float) -> PatientGrpcCall:
        """Send a request."""
        return PatientGrpcCall(self, self._infer.future(encoded), timeout_s)

    def close(self) -> None:
        """End every wait."""
        self.closing.set()


class PatientGrpcCall:
    """One request over gRPC, which goes on for the server when the wait for it is over."""

    def __init__(self, wire: PatientGrpcWire, future: Any, timeout_s: float) -> None:
        self._wire = wire
        self._future = future
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s = timeout_s

    def answer(self) -> Answer:
        """Wait for the answer."""
        while not self._is_done_within(self._deadline - time.monotonic()):
            _check(self._wire, self._deadline, self._timeout_s)
        try:
            return decode_grpc(self._future.result())
        except grpc.FutureCancelledError as error:
            raise self._wire.error("CANCELLED", "the request was cancelled") from error
        except grpc.RpcError as error:
            raise _failure(self._wire, error, self._timeout_s) from error

    def is_done(self) -> bool:
        """Tell whether the server has answered."""
        return bool(self._future.done())

    def cancel(self) -> None:
        """Cancel the request."""
        self._future.cancel()

    def _is_done_within(self, timeout_s: float) -> bool:
        try:
            self._future.exception(timeout=max(0.0, min(STEP_S, timeout_s)))
        except grpc.FutureTimeoutError:
            return False
        except grpc.FutureCancelledError:
            return True
        return True


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


def _check(wire: _Closable, deadline: float, timeout_s: float) -> None:
    """Raise the error of a wait that was called off, or that is over."""
    if wire.closing.is_set():
        raise wire.error("CANCELLED", "the client was closed")
    if time.monotonic() >= deadline:
        raise _timeout(wire, timeout_s)


def _timeout(wire: _Closable, timeout_s: float) -> InferenceError:
    error = wire.error("DEADLINE_EXCEEDED", "")
    if isinstance(error, RequestTimeoutError):
        error.timeout_s = timeout_s
    return error


def _failure(wire: _Closable, error: grpc.RpcError, timeout_s: float) -> InferenceError:
    """Return what a call's status is called here."""
    code = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return _timeout(wire, timeout_s)
    return wire.error(code.name, error.details() or "no details")


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace") or "no details"
