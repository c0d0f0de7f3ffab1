"""Requests over gRPC."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from hermes.aeriel.client._carriers import STEP_S, Call, Errors, check, timed_out
from hermes.aeriel.client._forks import grpc_call
from hermes.aeriel.client._messages import Answer, Message, decode_grpc, encode_grpc
from hermes.errors import InferenceError

_ANSWER = service_pb2.ModelInferResponse.FromString
_INFER = "/inference.GRPCInferenceService/ModelInfer"


class GrpcCarrier:
    """Requests over a gRPC channel.

    A thread waits for the answer to each call, which is the fastest way with gRPC for Python.

    Abandoned calls are not cancelled; their answers are discarded. Triton, up to 25.02 at least,
    can crash when a call is cancelled while it ends
    (https://github.com/triton-inference-server/server/issues/8034).

    Parameters
    ----------
    channel
        The channel, which belongs to the caller.
    error
        Returns an error for a gRPC status and a reason.

    Attributes
    ----------
    infer
        Sends a serialized request and returns the answer.
    """

    def __init__(self, channel: grpc.Channel, error: Errors) -> None:
        self.error = error
        self.closing = threading.Event()
        self.infer: Callable[[bytes], Any] = channel.unary_unary(
            _INFER, response_deserializer=_ANSWER
        )
        self._handed_over: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._under_way: set[GrpcCall] = set()

    def encode(self, message: Message) -> bytes:
        """Return a serialized ``ModelInferRequest``."""
        return encode_grpc(message)

    def send(self, encoded: bytes, timeout_s: float) -> Call:
        """Send a request."""
        call = GrpcCall(self, timeout_s)
        self._under_way.add(call)
        self._handed_over.put(functools.partial(call.carry, self.infer, encoded))
        if not self._idle.acquire(blocking=False):
            # A daemon thread: a server that does not answer must not delay interpreter exit.
            threading.Thread(target=self._work, name="hermes-grpc", daemon=True).start()
        return call

    def ended(self, call: GrpcCall) -> None:
        """Record that a call is over."""
        self._under_way.discard(call)

    def is_quiet(self) -> bool:
        """Return whether every call is over."""
        return not self._under_way

    def close(self) -> None:
        """End every wait."""
        self.closing.set()
        while self._idle.acquire(blocking=False):
            self._handed_over.put(None)

    def _work(self) -> None:
        while (work := self._handed_over.get()) is not None:
            work()
            del work  # free the request
            self._idle.release()
            # Unless a sender has reserved this thread.
            if self.closing.is_set() and self._idle.acquire(blocking=False):
                return


class GrpcCall:
    """One request over gRPC, which a thread waits for."""

    def __init__(self, carrier: GrpcCarrier, timeout_s: float) -> None:
        self._carrier = carrier
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._result: Any = None
        self._ended = threading.Lock()
        self._ended.acquire()

    def carry(self, infer: Callable[[bytes], Any], encoded: bytes) -> None:
        """Send the request, and store its answer or its error."""
        try:
            with grpc_call():
                # No gRPC deadline: gRPC would cancel the call.
                self._result = infer(encoded)
        except (grpc.RpcError, ValueError) as error:  # ValueError: the channel is closed
            self._result = error.with_traceback(None)  # a traceback would make a cycle
        self._carrier.ended(self)
        self._ended.release()

    def answer(self) -> Answer:
        """Wait for the answer."""
        while not self._ended.acquire(timeout=self._step_s()):
            check(self._carrier, self._deadline, self._timeout_s)
        self._ended.release()
        if isinstance(self._result, Exception):
            raise _failure(self._carrier, self._result, self._timeout_s) from self._result
        return decode_grpc(self._result)

    def is_done(self) -> bool:
        """Return whether the server has answered."""
        return not self._ended.locked()

    def cancel(self) -> None:
        """Abandon the request; its thread waits for the answer."""

    def _step_s(self) -> float:
        return max(0.0, min(STEP_S, self._deadline - time.monotonic()))


def _failure(carrier: GrpcCarrier, error: Exception, timeout_s: float) -> InferenceError:
    """Return gRPC's error as an error of hermes."""
    if not isinstance(error, grpc.RpcError):
        return carrier.error("CANCELLED", str(error))
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return timed_out(carrier, timeout_s)
    return carrier.error(error.code().name, error.details() or "no details")
