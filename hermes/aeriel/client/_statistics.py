"""The statistics of a client, as one value."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

# Latencies are counted in bins of 2 %: a few kB for any number of requests.
_BIN = math.log(1.02)


@dataclass(frozen=True, kw_only=True)
class ServerTimes:
    """The server's times, summed over the requests of a model.

    Parameters
    ----------
    requests, executions
        Requests that it answered; runs of the model, each of which may answer several requests.
    queue_s, input_s, infer_s, output_s
        Seconds in which requests waited for an instance, inputs were gathered, the model ran, and
        outputs were sent.
    """

    requests: int = 0
    executions: int = 0
    queue_s: float = 0.0
    input_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0

    @classmethod
    def of(cls, model_statistics: Any) -> ServerTimes:
        """Return the times in a server's ``ModelStatistics`` since its start; zeros for None."""
        versions = [(entry.inference_stats, entry) for entry in model_statistics or ()]
        return cls(
            requests=sum(times.success.count for times, _ in versions),
            executions=sum(entry.execution_count for _, entry in versions),
            queue_s=1e-9 * sum(times.queue.ns for times, _ in versions),
            input_s=1e-9 * sum(times.compute_input.ns for times, _ in versions),
            infer_s=1e-9 * sum(times.compute_infer.ns for times, _ in versions),
            output_s=1e-9 * sum(times.compute_output.ns for times, _ in versions),
        )

    def since(self, before: ServerTimes) -> ServerTimes:
        """Return the difference from `before`; all of it if the server was restarted since."""
        if self.requests < before.requests:
            return self
        return ServerTimes(
            **{
                each.name: getattr(self, each.name) - getattr(before, each.name)
                for each in fields(self)
            }
        )

    @classmethod
    def sum(cls, times: Iterable[ServerTimes]) -> ServerTimes:
        """Return the sum of several."""
        parts = list(times)
        return cls(
            **{each.name: sum(getattr(one, each.name) for one in parts) for each in fields(cls)}
        )


@dataclass(frozen=True, kw_only=True)
class ClientStatistics:
    """The statistics of a client, from its first request to its last answer.

    Parameters
    ----------
    rows, failures, retries
        Rows that were answered; requests that failed after all retries; requests that were sent
        again.
    seconds
        From the first request to the last answer.
    megabytes
        Sent and received tensors, in units of 1e6 bytes.
    latencies
        How many answers took between ``1.02**(bin - 1)`` and ``1.02**bin`` seconds, retries
        included, by bin.
    server
        The server's times since the client began. In the output of one of many small files they
        may be those of 0 requests, as a server is asked ten times a second at most; then the next
        file that has some has those of all since the last one.
    """

    rows: int = 0
    failures: int = 0
    retries: int = 0
    seconds: float = 0.0
    megabytes: float = 0.0
    latencies: Mapping[int, int] = field(default_factory=dict)
    server: ServerTimes = field(default_factory=ServerTimes)

    def __post_init__(self) -> None:
        # JSON has texts as keys, and dicts for dataclasses.
        object.__setattr__(self, "latencies", {int(k): n for k, n in self.latencies.items()})
        if isinstance(self.server, dict):
            object.__setattr__(self, "server", ServerTimes(**self.server))

    @classmethod
    def sum(cls, statistics: Iterable[ClientStatistics]) -> ClientStatistics:
        """Return the sum of the statistics of several clients, their seconds included."""
        parts = list(statistics)
        latencies: Counter[int] = Counter()
        for part in parts:
            latencies.update(part.latencies)
        names = ("rows", "failures", "retries", "seconds", "megabytes")
        return cls(
            **{name: sum(getattr(part, name) for part in parts) for name in names},
            latencies=dict(latencies),
            server=ServerTimes.sum(part.server for part in parts),
        )

    @property
    def requests(self) -> int:
        """Requests that were answered."""
        return sum(self.latencies.values())

    @property
    def rows_per_s(self) -> float:
        """Rows answered per second; NaN without an answer."""
        return self.rows / self.seconds if self.seconds else math.nan

    @property
    def megabytes_per_s(self) -> float:
        """Megabytes sent and received per second; NaN without an answer."""
        return self.megabytes / self.seconds if self.seconds else math.nan

    def latency_ms(self, share: float) -> float:
        """Return a percentile of the latencies, accurate to 2 %.

        Parameters
        ----------
        share
            0.5 for the median, 0.99 for the 99th percentile.

        Returns
        -------
        float
            Milliseconds; NaN without an answer.
        """
        seen = 0
        for bin_number in sorted(self.latencies):
            seen += self.latencies[bin_number]
            if seen >= share * self.requests:
                return 1e3 * math.exp((bin_number - 0.5) * _BIN)
        return math.nan


class Recorder:
    """Collects a client's statistics; its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_answered = 0
        self.restart()

    def restart(self) -> None:
        """Reset the statistics, but for `n_answered`."""
        with self._lock:
            self._started: float | None = None
            self._ended = 0.0
            self._rows = self._bytes = self._failures = self._retries = 0
            self._latencies: Counter[int] = Counter()

    def start(self) -> float:
        """Return the time at which a request starts, for `answered`."""
        now = time.perf_counter()
        if self._started is None:
            self._started = self._ended = now
        return now

    def answered(self, started: float, rows: int, n_bytes: int) -> None:
        """Count an answer."""
        now = time.perf_counter()
        with self._lock:
            self._ended = now
            self._n_answered += 1
            self._rows += rows
            self._bytes += n_bytes
            self._latencies[math.ceil(math.log(max(now - started, 1e-9)) / _BIN)] += 1

    @property
    def n_answered(self) -> int:
        """How many requests were answered, from the beginning."""
        with self._lock:
            return self._n_answered

    def failed(self) -> None:
        """Count a request that failed after all retries."""
        with self._lock:
            self._failures += 1

    def retried(self) -> None:
        """Count a request that is sent again."""
        with self._lock:
            self._retries += 1

    def snapshot(self, server: ServerTimes | None = None) -> ClientStatistics:
        """Return the statistics so far."""
        with self._lock:
            return ClientStatistics(
                rows=self._rows,
                failures=self._failures,
                retries=self._retries,
                seconds=self._ended - (self._started or self._ended),
                megabytes=self._bytes / 1e6,
                latencies=dict(self._latencies),
                server=server or ServerTimes(),
            )
