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
            # A daemon: a server that does not answer is no reason for the process to stay.
            threading.Thread(target=self._work, name="hermes-grpc", daemon=True).start()
        return call

    def ended(self, call: GrpcCall) -> None:
        """Note that a call is over."""
        self._under_way.discard(call)

    def is_quiet(self) -> bool:
        """Tell whether every call is over."""
        return not self._under_way

    def close(self) -> None:
        """End every wait."""
        self.closing.set()
        while self._idle.acquire(blocking=False):
            self._handed_over.put(None)

    def _work(self) -> None:
        while (work := self._handed_over.get()) is not None:
            work()
            del work  # and the request with it
            self._idle.release()
            # Unless it is already counted on.
            if self.closing.is_set() and self._idle.acquire(blocking=False):
                return


class GrpcCall:
    """One request over gRPC, which a thread carries."""

    def __init__(self, carrier: GrpcCarrier, timeout_s: float) -> None:
        self._carrier = carrier
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._result: Any = None
        self._ended = threading.Lock()
        self._ended.acquire()

    def carry(self, infer: Callable[[bytes], Any], encoded: bytes) -> None:
        """Send it, and take what comes of it: an answer, or an error."""
        try:
            with grpc_call():
                # No deadline: gRPC would cancel it then.
                self._result = infer(encoded)
        except (grpc.RpcError, ValueError) as error:  # ValueError: the channel is closed
            self._result = error.with_traceback(None)  # which has this frame, and would keep itself
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
        """Tell whether the server has answered."""
        return not self._ended.locked()

    def cancel(self) -> None:
        """Leave it to its thread."""

    def _step_s(self) -> float:
        return max(0.0, min(STEP_S, self._deadline - time.monotonic()))


def _failure(carrier: GrpcCarrier, error: Exception, timeout_s: float) -> InferenceError:
    """Return what gRPC's error is called here."""
    if not isinstance(error, grpc.RpcError):
        return carrier.error("CANCELLED", str(error))
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return timed_out(carrier, timeout_s)
    return carrier.error(error.code().name, error.details() or "no details")
