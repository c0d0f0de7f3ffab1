"""The part of a client that belongs to one process: connection, regions and threads."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from hermes.aeriel._options import TransportName
from hermes.aeriel.client._carriers import wait_until
from hermes.aeriel.client._choice import ServerAccess, open_transport
from hermes.aeriel.client._connection import Connection
from hermes.aeriel.client._dispatcher import Dispatcher
from hermes.aeriel.client._rate_limiter import RateLimiter
from hermes.aeriel.client._statistics import Recorder, ServerTimes
from hermes.aeriel.endpoint import Endpoint

# How long a server may take to count its answers. One that was restarted has lost some.
COUNTED_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The parameters of `InferenceClient`."""

    endpoint: Endpoint
    model_name: str
    model_version: str
    outputs: tuple[str, ...]
    max_in_flight: int | None
    transport: TransportName
    rate_hz: float | None
    timeout_s: float
    retry_for_s: float


class _Query(NamedTuple):
    """What a server said of its times, after so many answers, and when, of the monotonic clock."""

    times: ServerTimes
    n_answered: int
    when: float


class Session:
    """The part of a client that belongs to one process.

    Parameters
    ----------
    settings
        The client's parameters.

    Raises
    ------
    ServerTimeoutError, ModelNotFoundError, ModelLoadError, ParameterError
        See `InferenceClient`.
    """

    def __init__(self, settings: Settings) -> None:
        rate_limiter = RateLimiter(settings.rate_hz)
        self.connection = Connection(
            settings.endpoint,
            settings.model_name,
            settings.model_version,
            timeout_s=settings.timeout_s,
            retry_for_s=settings.retry_for_s,
        )
        try:
            self.specification = self.connection.specification()
            self.specification.check_outputs(settings.outputs)
            server = self.connection.server()
            self.transport = open_transport(
                settings.transport,
                ServerAccess(
                    endpoint=settings.endpoint,
                    connection=self.connection,
                    specification=self.specification,
                    model_version=settings.model_version,
                    outputs=settings.outputs,
                    server=server,
                ),
            )
        except BaseException:
            self.connection.close()
            raise
        self.server_version = server.version
        self.max_in_flight = settings.max_in_flight or self.specification.n_instances + 2
        self.free_requests = threading.BoundedSemaphore(self.max_in_flight)
        self.free_sequences = threading.Semaphore(self.specification.max_sequences)
        self.recorder = Recorder()
        self.dispatcher = Dispatcher(
            specification=self.specification,
            connection=self.connection,
            transport=self.transport,
            recorder=self.recorder,
            rate_limiter=rate_limiter,
            timeout_s=settings.timeout_s,
        )
        self._before = self._last = _Query(self._server_times_now(), 0, -math.inf)
        self._server_every_s = 0.0
        self._is_closed = False
        self.threads = ThreadPoolExecutor(
            self.max_in_flight, thread_name_prefix=f"hermes-client-{settings.model_name}"
        )

    def server_times(self) -> ServerTimes:
        """Return the server's times since the last query before the statistics were started."""
        if not self._is_closed:
            if time.monotonic() - self._last.when < self._server_every_s:
                return ServerTimes()
            self._last = self._query()
        return self._last.times.since(self._before.times)

    def restart_statistics(self, server_every_s: float = 0.0) -> None:
        """Start the statistics again; see `InferenceClient.restart_statistics`."""
        self.recorder.restart()
        self._server_every_s = server_every_s
        self._before = self._last

    def close(self) -> None:
        """Cancel the requests in flight, and free everything."""
        if not self._is_closed:
            self.server_times()
            self._is_closed = True
        self.connection.stop_retrying()
        self.transport.stop()
        self.threads.shutdown(wait=True, cancel_futures=True)
        self.transport.close()

    def _query(self) -> _Query:
        n_answered, times = self.recorder.n_answered, self._last.times

        def are_counted() -> bool:  # a server counts what it has answered only afterwards
            nonlocal times
            times = self._server_times_now()
            counted = times.since(self._before.times).requests
            return counted >= n_answered - self._before.n_answered

        wait_until(are_counted, COUNTED_S)
        return _Query(times, n_answered, time.monotonic())

    def _server_times_now(self) -> ServerTimes:
        return ServerTimes.of(self.connection.model_statistics())
