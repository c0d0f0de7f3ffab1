"""The channel to one server: calls, deadlines, retries, and errors in hermes's words."""

from __future__ import annotations

import logging
import math
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import tenacity
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hermes.aeriel.client._forks import grpc_call, this_process
from hermes.aeriel.client._specification import ModelSpecification
from hermes.aeriel.endpoint import Endpoint
from hermes.errors import (
    InferenceError,
    ModelLoadError,
    ModelNotFoundError,
    RequestError,
    RequestTimeoutError,
    ServerTimeoutError,
)

logger = logging.getLogger(__name__)

# How long a server is waited for at first without a word.
SILENCE_S = 2.0

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A server that comes back is found within a second, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
# Files that a connection takes beside its socket.
SPARE_FILES = 8
_TRANSIENT = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
# What a server says, as an internal error, while it replaces a Python model that was killed.
_TRANSIENT_REASONS = ("Stub process", "is not ready to receive")
# What it says when it let a sequence end since its last request, or was started again since.
_LOST_SEQUENCE = "must specify the START flag"
# What it says of a region that it never knew, or forgot when it was started again.
_UNKNOWN_REGION = "Unable to find shared memory region"
# What Triton 2.50 and 2.51 say of a region while a request holds it, which a request may still do
# for a moment when its answer has come.
_REGION_IN_USE = "it is currently in use"
# What it says of an output that is larger than the model's configuration has it.
_SMALL_REGION = "bytes to hold the results"


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """What a server says of itself.

    Parameters
    ----------
    name
        Its ``--id``.
    version
        The version of Triton.
    extensions
        What it can do beyond KServe's protocol.
    """

    name: str
    version: str
    extensions: frozenset[str]


class Connection:
    """A channel to one server, for one model.

    Parameters
    ----------
    endpoint
        Where the server listens.
    model_name, model_version
        The model; an empty version lets the server choose.
    timeout_s
        Seconds that one attempt may take.
    retry_for_s
        Seconds within which what failed for a passing reason is tried again.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model_name: str,
        model_version: str,
        *,
        timeout_s: float,
        retry_for_s: float,
    ) -> None:
        self.address = endpoint.grpc
        self._server_id = endpoint.server_id
        self._model_name = model_name
        self._model_version = model_version
        self._timeout_s = timeout_s
        self._closing = threading.Event()
        self._retry_for_s = retry_for_s
        if not this_process().has_grpc:
            reason = (
                "this process was forked while requests were under way, after which gRPC does not "
                "work in it; fork when none is, or start processes by 'spawn' or 'forkserver'"
            )
            raise self.error("FAILED_PRECONDITION", reason)
        self._channel = endpoint.channel(_OPTIONS)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    @property
    def channel(self) -> grpc.Channel:
        """The channel, for requests."""
        return self._channel

    @property
    def is_closing(self) -> bool:
        """Whether nothing is to be sent any more."""
        return self._closing.is_set()

    def stop_retrying(self) -> None:
        """Let nothing be sent, or tried again, from now on."""
        self._closing.set()

    def close(self) -> None:
        """End the channel; what is under way is cancelled and no longer tried again."""
        self._closing.set()
        self._channel.close()

    def error(self, status: str, reason: str) -> InferenceError:
        """Return the error for a gRPC status."""
        if status == "DEADLINE_EXCEEDED":
            return RequestTimeoutError(
                model=self._model_name, address=self.address, timeout_s=self._timeout_s
            )
        if status == "UNAVAILABLE" and (problem := _too_many_files()):
            status, reason = "RESOURCE_EXHAUSTED", f"{problem} ({reason})"
        return RequestError(
            model=self._model_name, address=self.address, status=status, reason=reason
        )

    def specification(self) -> ModelSpecification:
        """Return what the server says of the model, after asking for it if it is not loaded.

        Raises
        ------
        ModelNotFoundError
            The server has no such model or version.
        ModelLoadError
            The server could not load it.
        ServerTimeoutError
            No server answers.
        """
        said = False

        def say(state: tenacity.RetryCallState) -> None:
            nonlocal said
            if not said and (state.seconds_since_start or 0.0) > SILENCE_S:
                said = True
                message = "the server at %s does not answer; it is waited for, %g s at most"
                logger.warning(message, self.address, self._retry_for_s)

        try:
            return self.retrying(say)(self._specification)
        except (RequestError, RequestTimeoutError) as error:
            if _status(error) not in _TRANSIENT:
                raise
            raise ServerTimeoutError(
                address=self.address, timeout_s=self._retry_for_s, waiting_for=str(error)
            ) from error

    def server(self) -> ServerFacts:
        """Return what the server that answers says of itself.

        Raises
        ------
        RequestError
            It is another server than the endpoint's.
        """
        metadata = self._call(self._stub.ServerMetadata, service_pb2.ServerMetadataRequest())
        if self._server_id is not None and metadata.name != self._server_id:
            reason = f"the server {metadata.name!r} answers there, not {self._server_id!r}"
            raise self.error("FAILED_PRECONDITION", reason)
        return ServerFacts(
            name=metadata.name, version=metadata.version, extensions=frozenset(metadata.extensions)
        )

    def model_statistics(self) -> Any:
        """Return the server's ``ModelStatistics`` of the model; None where it does not answer."""
        request = service_pb2.ModelStatisticsRequest(
            name=self._model_name, version=self._model_version
        )
        try:
            # A number to look at is not worth a wait.
            with grpc_call():
                answer = self._stub.ModelStatistics(request, timeout=min(self._timeout_s, 2.0))
        except (grpc.RpcError, ValueError):  # ValueError: the channel is closed
            return None
        return answer.model_stats

    def register(self, name: str, size: int) -> None:
        """Let the server map the file ``/dev/shm/NAME`` and know it by its name."""
        request = service_pb2.SystemSharedMemoryRegisterRequest(
            name=name, key=f"/{name}", offset=0, byte_size=size
        )
        self._call(self._stub.SystemSharedMemoryRegister, request)

    def unregister(self, name: str) -> bool:
        """Let the server forget a region; tell whether it need not be asked again."""
        request = service_pb2.SystemSharedMemoryUnregisterRequest(name=name)
        try:
            with grpc_call():
                self._stub.SystemSharedMemoryUnregister(request, timeout=min(self._timeout_s, 2.0))
        except grpc.RpcError as error:
            is_late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return not is_late and _REGION_IN_USE not in (error.details() or "")
        except ValueError:  # the channel is closed
            return True
        return True

    def _specification(self) -> ModelSpecification:
        if not self._ready():
            self._load()
        asked: dict[str, Any] = {"name": self._model_name, "version": self._model_version}
        metadata = self._call(self._stub.ModelMetadata, service_pb2.ModelMetadataRequest(**asked))
        config = self._call(self._stub.ModelConfig, service_pb2.ModelConfigRequest(**asked))
        steps = list(self._steps(config.config))
        return ModelSpecification.from_server(metadata, config.config, steps)

    def _steps(self, config: Any) -> Iterator[Any]:
        """Yield the configurations of an ensemble's steps, and of theirs."""
        for step in config.ensemble_scheduling.step:
            version = "" if step.model_version < 0 else str(step.model_version)
            request = service_pb2.ModelConfigRequest(name=step.model_name, version=version)
            found = self._call(self._stub.ModelConfig, request).config
            yield found
            yield from self._steps(found)

    def _ready(self) -> bool:
        try:
            return self._model_is_ready()
        except RequestError as error:
            if _status(error) in _TRANSIENT and not self._server_is_live():
                raise
        # Some servers say of an unknown version what gRPC says of a connection that broke: the
        # connection that has just answered tells which it was.
        try:
            return self._model_is_ready()
        except RequestError:
            return False

    def _model_is_ready(self) -> bool:
        request = service_pb2.ModelReadyRequest(name=self._model_name, version=self._model_version)
        return bool(self._call(self._stub.ModelReady, request).ready)

    def _server_is_live(self) -> bool:
        try:
            return bool(self._call(self._stub.ServerLive, service_pb2.ServerLiveRequest()).live)
        except (RequestError, RequestTimeoutError):
            return False

    def _load(self) -> None:
        """Ask for the model, which works under explicit model control only."""
        index = self._call(self._stub.RepositoryIndex, service_pb2.RepositoryIndexRequest())
        known = [model for model in index.models if model.name == self._model_name]
        where = f"the server at {self.address}"
        if not known:
            names = tuple(sorted({model.name for model in index.models}))
            raise ModelNotFoundError(model=self._model_name, where=where, available=names)
        label = f"{self._model_name} version {self._model_version or 'any'}"
        versions = tuple(sorted(f"{m.name} version {m.version}" for m in known if m.version))
        if any(model.state == "READY" for model in known):
            # Other versions are in use: asking again would load them again.
            raise ModelNotFoundError(model=label, where=where, available=versions)
        request = service_pb2.RepositoryModelLoadRequest(model_name=self._model_name)
        try:
            self._call(self._stub.RepositoryModelLoad, request)
        except RequestError as error:
            reasons = {model.reason for model in known if model.reason} or {error.reason}
            raise ModelLoadError(
                model=self._model_name, where=where, reason="; ".join(sorted(reasons))
            ) from error
        if not self._ready():
            raise ModelNotFoundError(model=label, where=where, available=versions)

    def retrying(
        self,
        before_sleep: Callable[[tenacity.RetryCallState], None] | None = None,
        deadline: float = math.inf,
    ) -> tenacity.Retrying:
        """Return what tries again, within the time that this connection has for it.

        Parameters
        ----------
        before_sleep
            Called before each wait.
        deadline
            A time of the monotonic clock that it does not go beyond.
        """
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_transient),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=2.0),
            stop=tenacity.stop_after_delay(min(self._retry_for_s, deadline - time.monotonic()))
            | tenacity.stop_when_event_set(self._closing),
            sleep=tenacity.sleep_using_event(self._closing),
            before_sleep=before_sleep,
            reraise=True,
        )

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            with grpc_call():
                return method(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise self.error(error.code().name, error.details() or "no details") from error
        except ValueError as error:  # what gRPC says of a closed channel
            raise self.error("CANCELLED", str(error)) from error


def _too_many_files() -> str:
    """Return why this process cannot connect, if it has as many files open as it may."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        n_open = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (only counted)
    except OSError:  # which is a file too
        n_open = limit
    if n_open < limit - SPARE_FILES:
        return ""
    return (
        f"this process has {n_open} files open, of {limit} that it may have, "
        "and cannot connect: raise the limit (ulimit -n), or open fewer"
    )


def is_transient(error: BaseException) -> bool:
    """Tell whether a request, or a connection, failed for a reason that may pass."""
    if isinstance(error, ServerTimeoutError):
        return True
    if not isinstance(error, InferenceError):
        return False
    if isinstance(error, RequestError) and error.reason.startswith(_TRANSIENT_REASONS):
        return True
    if is_unknown_region(error) or is_small_region(error) or _is_lost_sequence(error):
        return True
    return _status(error) in _TRANSIENT


def is_unknown_region(error: BaseException) -> bool:
    """Tell whether the server does not know the shared memory that a request lay in."""
    return isinstance(error, RequestError) and _UNKNOWN_REGION in error.reason


def is_small_region(error: BaseException) -> bool:
    """Tell whether an output did not fit into the shared memory that was left for it."""
    return isinstance(error, RequestError) and _SMALL_REGION in error.reason


def _is_lost_sequence(error: BaseException) -> bool:
    return isinstance(error, RequestError) and _LOST_SEQUENCE in error.reason


def _status(error: InferenceError) -> grpc.StatusCode:
    if isinstance(error, RequestError):
        return grpc.StatusCode[error.status]
    return grpc.StatusCode.DEADLINE_EXCEEDED
