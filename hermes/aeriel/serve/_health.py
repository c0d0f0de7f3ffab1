"""Checks whether a server is ready, and whether it still works."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hermes._processes import ailing_processes
from hermes.aeriel._addresses import listens
from hermes.aeriel._channel import open_channel
from hermes.aeriel.endpoint import Endpoint

INTERVAL_S = 1.0
DEADLINE_S = 5.0
MOST_MISSES = 3
# Invalid requests fail too. A model is at fault when it has only failures for so many polls.
MOST_ERRORS = 10

_SILENCE = {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}


def is_ready(endpoint: Endpoint) -> bool:
    """Return whether the server at an endpoint has its id, is live and has its models ready.

    Triton opens its HTTP and metrics services after the GRPC service, which reports ready before.
    """
    with _channel(endpoint) as channel:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            metadata = stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=DEADLINE_S)
            answer = stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=DEADLINE_S)
        except grpc.RpcError:
            return False
    if not answer.ready or metadata.name != endpoint.server_id:
        return False
    return all(listens(address) for address in (endpoint.http, endpoint.metrics) if address)


def _channel(endpoint: Endpoint) -> grpc.Channel:
    # The server is on this host: a proxy of the environment cannot reach it.
    return open_channel(endpoint, [("grpc.enable_http_proxy", 0)])


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one poll of a server.

    Parameters
    ----------
    problem
        A description of a problem, or an empty string.
    requests
        The numbers of requests that succeeded and that failed so far, by the model's name and
        version.
    """

    problem: str = ""
    requests: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class Health:
    """The health of a server, from a series of findings.

    Attributes
    ----------
    problem
        Why the server has to be restarted; None while it works.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self._misses = 0
        self._errors: dict[str, int] = {}
        self._requests: Mapping[str, tuple[int, int]] = {}

    def add(self, finding: Finding) -> None:
        """Add a finding."""
        self._misses = self._misses + 1 if finding.problem else 0
        if self._misses >= MOST_MISSES:
            self.problem = finding.problem
        for model, (succeeded, failed) in finding.requests.items():
            succeeded_before, failed_before = self._requests.get(model, (0, 0))
            if succeeded > succeeded_before:
                self._errors[model] = 0
            elif failed > failed_before:
                self._errors[model] = self._errors.get(model, 0) + 1
            if self._errors.get(model, 0) >= MOST_ERRORS:
                self.problem = (
                    f"model {model} has answered only with errors for {MOST_ERRORS} polls"
                )
        self._requests = finding.requests or self._requests


class Probe:
    """Polls a server once a second, without waiting for it.

    Parameters
    ----------
    endpoint
        The server.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._server_id = str(endpoint.server_id)
        self._channel = _channel(endpoint)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._call: Any = None
        self._next_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def poll(self) -> Finding | None:
        """Return the result of the last poll, once; None while there is no new one."""
        if self._call is None:
            if time.monotonic() < self._next_at:
                return None
            self._next_at = time.monotonic() + INTERVAL_S
            if ailing := ailing_processes(self._server_id):
                return Finding(problem="; ".join(ailing))
            self._call = self._stub.ModelStatistics.future(
                service_pb2.ModelStatisticsRequest(), timeout=DEADLINE_S
            )
        if not self._call.done():
            return None
        call, self._call = self._call, None
        self._next_at = time.monotonic() + INTERVAL_S
        if call.code() in _SILENCE:
            return Finding(problem=f"no answer: {call.details()}")
        if call.code() is not grpc.StatusCode.OK:  # it answers, if only with an error
            return Finding()
        return Finding(
            requests={
                f"{model.name} version {model.version}": (
                    model.inference_stats.success.count,
                    model.inference_stats.fail.count,
                )
                for model in call.result().model_stats
            }
        )
