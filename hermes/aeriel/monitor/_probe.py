"""The requests of a monitor to a server."""

from __future__ import annotations

import http.client
import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hermes.aeriel._addresses import http_connection
from hermes.aeriel._channel import open_channel
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.monitor._sample import Metrics, Sample, gpu_rows, model_rows, parse_metrics

logger = logging.getLogger(__name__)

_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    # A new channel after a failure must not wait for the backoff of the previous one.
    ("grpc.use_local_subchannel_pool", 1),
]


class Probe:
    """Requests a server's statistics of its models, and its metrics.

    Parameters
    ----------
    endpoint
        The server. Without an address for metrics, samples have no metrics.
    timeout_s
        Timeout of one request, in seconds.
    """

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self.endpoint = endpoint
        self._timeout_s = timeout_s
        self._connect()

    def close(self) -> None:
        """Close the connection; requests in flight are cancelled."""
        self._channel.close()

    def sample(self) -> Sample | None:
        """Return a sample of the server; None if it does not answer."""
        timeout_s = self._timeout_s
        try:
            request = service_pb2.ModelStatisticsRequest()
            statistics = self._stub.ModelStatistics(request, timeout=timeout_s).model_stats
            request = service_pb2.ServerMetadataRequest()
            server_id = self._stub.ServerMetadata(request, timeout=timeout_s).name
            member_of = self._member_of({model.name for model in statistics})
        except grpc.RpcError as error:
            logger.debug("no statistics: %s", error)
            self._channel.close()
            self._connect()
            return None
        metrics = self._metrics()
        rows = model_rows(statistics, metrics, member_of) + gpu_rows(metrics)
        return Sample(server_id=server_id, rows=rows)

    def _connect(self) -> None:
        self._channel = open_channel(self.endpoint, _OPTIONS)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        # Another server may have other models.
        self._steps: dict[str, tuple[str, ...]] = {}

    def _member_of(self, models: set[str]) -> Mapping[str, set[str]]:
        for name in models - self._steps.keys():
            request = service_pb2.ModelConfigRequest(name=name)
            config = self._stub.ModelConfig(request, timeout=self._timeout_s).config
            self._steps[name] = tuple(step.model_name for step in config.ensemble_scheduling.step)
        member_of: dict[str, set[str]] = defaultdict(set)
        for ensemble in models:
            for member in self._steps[ensemble]:
                member_of[member].add(ensemble)
        return member_of

    def _metrics(self) -> Metrics:
        if self.endpoint.metrics is None:
            return {}
        connection = http_connection(self.endpoint.metrics, self._timeout_s)
        try:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
            return parse_metrics(text) if answer.status == http.client.OK else {}
        except (OSError, http.client.HTTPException, ValueError) as error:
            logger.debug("no metrics: %s", error)
            return {}
        finally:
            connection.close()
