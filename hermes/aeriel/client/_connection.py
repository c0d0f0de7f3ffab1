"""The gRPC channel to one server: calls, deadlines, retries, and their errors."""

# Over 300 lines: every call to a server besides inference, with the retries that they share.
from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import tenacity
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hermes.aeriel._addresses import other_protocol
from hermes.aeriel._channel import open_channel
from hermes.aeriel.client._failures import (
    is_region_in_use,
    is_transient,
    is_transient_status,
    too_many_files,
)
from hermes.aeriel.client._forks import grpc_call, this_process
from hermes.aeriel.client._specification import ModelSpecification, ServerFacts
from hermes.aeriel.endpoint import Endpoint
from hermes.errors import (
    InferenceError,
    ModelLoadError,
    ModelNotFoundError,
    ParameterError,
    RequestError,
    RequestTimeoutError,
    ServerTimeoutError,
)

logger = logging.getLogger(__name__)

# The wait for a server after which a warning is logged.
SILENCE_S = 2.0

# Part of the error for a proxy's answer that is no error of the server's (5xx).
_REFUSED_BY_PROXY = "HTTP proxy returned response code 4"

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Reconnect to a restarted server within a second; gRPC's default is up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


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
        Seconds for which requests with transient failures are retried.
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
        self._is_encrypted = endpoint.credentials is not None
        self._model_name = model_name
        self._model_version = model_version
        self._timeout_s = timeout_s
        self._closing = threading.Event()
        self._retry_for_s = retry_for_s
        if not this_process().has_grpc:
            reason = (
                "this process was forked while requests were in flight, so gRPC does not work in "
                "it; fork when none is in flight, or start processes with 'spawn' or 'forkserver'"
            )
            raise self.error("FAILED_PRECONDITION", reason)
        if problem := too_many_files():  # gRPC may end the process when it lacks one
            raise self.error("RESOURCE_EXHAUSTED", problem)
        self.channel = open_channel(endpoint, _OPTIONS)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    @property
    def is_closing(self) -> bool:
        """Whether the client is being closed, so that no more requests are sent."""
        return self._closing.is_set()

    def stop_retrying(self) -> None:
        """Send and retry no more requests."""
        self._closing.set()

    def close(self) -> None:
        """Close the channel; requests in flight are cancelled and not retried."""
        self._closing.set()
        self.channel.close()

    def error(self, status: str, reason: str) -> InferenceError:
        """Return the error for a gRPC status."""
        if status == "DEADLINE_EXCEEDED":
            return RequestTimeoutError(
                model=self._model_name, address=self.address, timeout_s=self._timeout_s
            )
        if status == "UNAVAILABLE" and (problem := too_many_files()):
            status, reason = "RESOURCE_EXHAUSTED", f"{problem} ({reason})"
        return RequestError(
            model=self._model_name, address=self.address, status=status, reason=reason
        )

    def specification(self) -> ModelSpecification:
        """Return the model's specification, after loading the model if necessary.

        Raises
        ------
        ModelNotFoundError
            The server has no such model or version.
        ModelLoadError
            The server could not load it.
        ServerTimeoutError
            No server answers.
        ParameterError
            What answers at the address is no GRPC service, or asks for a certificate; or the
            proxy of the environment refuses.
        """
        is_logged = False

        def check_and_log(state: tenacity.RetryCallState) -> None:
            nonlocal is_logged
            if state.outcome is not None and _REFUSED_BY_PROXY in str(state.outcome.exception()):
                problem = f"the proxy of grpc_proxy does not connect to {self.address}"
                advice = "unset that variable, or name the host in no_grpc_proxy"
                raise ParameterError("server", f"{problem}; {advice}")
            if state.attempt_number == 1:
                self._check_protocol()
            if not is_logged and (state.seconds_since_start or 0.0) > SILENCE_S:
                is_logged = True
                message = "the server at %s does not answer; waiting up to %g s"
                logger.warning(message, self.address, self._retry_for_s)

        try:
            return self.retrying(check_and_log)(self._specification)
        except (RequestError, RequestTimeoutError) as error:
            if not is_transient_status(error):
                raise
            raise ServerTimeoutError(
                address=self.address, timeout_s=self._retry_for_s, waiting_for=str(error)
            ) from error

    def _check_protocol(self) -> None:
        protocol = other_protocol(self.address)
        if protocol == "HTTP/1":
            problem = f"{self.address} speaks HTTP/1: Triton's HTTP port, a web server or a proxy"
            raise ParameterError("server", f"{problem}; give the GRPC port, by default 8001")
        if protocol == "TLS" and not self._is_encrypted:
            problem = f"{self.address} asks for TLS; give the server's endpoint file, which has"
            raise ParameterError("server", f"{problem} the certificates, in place of its address")

    def server(self) -> ServerFacts:
        """Return the server's metadata.

        Raises
        ------
        RequestError
            Another server answers at the address.
        """
        metadata = self._call(self._stub.ServerMetadata, service_pb2.ServerMetadataRequest())
        if self._server_id is not None and metadata.name != self._server_id:
            reason = f"another server answers at this address: {metadata.name!r}"
            raise self.error("FAILED_PRECONDITION", reason)
        return ServerFacts(
            name=metadata.name, version=metadata.version, extensions=frozenset(metadata.extensions)
        )

    def model_statistics(self) -> Any:
        """Return the server's ``ModelStatistics`` of the model; None if it does not answer."""
        request = service_pb2.ModelStatisticsRequest(
            name=self._model_name, version=self._model_version
        )
        try:
            # Statistics are not worth a long wait.
            with grpc_call():
                answer = self._stub.ModelStatistics(request, timeout=min(self._timeout_s, 2.0))
        except (grpc.RpcError, ValueError):  # ValueError: the channel is closed
            return None
        return answer.model_stats

    def register(self, name: str, size: int) -> None:
        """Register the file ``/dev/shm/NAME`` as a region of the server."""
        request = service_pb2.SystemSharedMemoryRegisterRequest(
            name=name, key=f"/{name}", offset=0, byte_size=size
        )
        self._call(self._stub.SystemSharedMemoryRegister, request)

    def unregister(self, name: str) -> bool:
        """Unregister a region; return False if that has to be tried again."""
        request = service_pb2.SystemSharedMemoryUnregisterRequest(name=name)
        try:
            with grpc_call():
                self._stub.SystemSharedMemoryUnregister(request, timeout=min(self._timeout_s, 2.0))
        except grpc.RpcError as error:
            is_late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return not is_late and not is_region_in_use(error.details() or "")
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
        """Yield the configurations of an ensemble's steps, and recursively of theirs."""
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
            if is_transient_status(error) and not self._server_is_live():
                raise
        # Some servers answer with UNAVAILABLE for an unknown version; as the server is live, that
        # is the reason.
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
        """Load the model, which needs a server with explicit model control."""
        index = self._call(self._stub.RepositoryIndex, service_pb2.RepositoryIndexRequest())
        known = [model for model in index.models if model.name == self._model_name]
        where = f"the server at {self.address}"
        if not known:
            names = tuple(sorted({model.name for model in index.models}))
            raise ModelNotFoundError(model=self._model_name, where=where, available=names)
        label = f"{self._model_name} version {self._model_version or 'any'}"
        versions = tuple(sorted(f"{m.name} version {m.version}" for m in known if m.version))
        if any(model.state == "READY" for model in known):
            # Other versions are loaded, and loading the model would load them again.
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
        """Return the retry policy of this connection.

        Parameters
        ----------
        before_sleep
            Called before each wait.
        deadline
            A time of the monotonic clock after which there are no retries.
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
        except ValueError as error:  # gRPC's error for a closed channel
            raise self.error("CANCELLED", str(error)) from error
