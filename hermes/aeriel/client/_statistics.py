"""What a client has done so far, as one value."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

# Latencies are counted in bins of 2 %: exact enough for a percentile, and a few kB for any number.
_BIN = math.log(1.02)


@dataclass(frozen=True, kw_only=True)
class ClientStatistics:
    """What a client has done between its first request and its last answer.

    Parameters
    ----------
    rows, failures, retries
        Rows that were answered; requests that failed for good; that were sent again.
    seconds
        From the first request to the last answer.
    megabytes
        Sent and received tensors, in units of 1e6 bytes.
    latencies
        How many answers took between ``1.02**(bin - 1)`` and ``1.02**bin`` seconds, retries
        included, by bin.
    """

    rows: int = 0
    failures: int = 0
    retries: int = 0
    seconds: float = 0.0
    megabytes: float = 0.0
    latencies: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def sum(cls, statistics: Iterable[ClientStatistics]) -> ClientStatistics:
        """Return the statistics of several clients together; their seconds are added up."""
        parts = list(statistics)
        latencies: Counter[int] = Counter()
        for part in parts:
            latencies.update(part.latencies)
        return cls(
            rows=sum(part.rows for part in parts),
            failures=sum(part.failures for part in parts),
            retries=sum(part.retries for part in parts),
            seconds=sum(part.seconds for part in parts),
            megabytes=sum(part.megabytes for part in parts),
            latencies=dict(latencies),
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
        """Return the time within which this share of the answers came, within 2 %.

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
    """Collects a client's numbers; its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
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
            self._rows += rows
            self._bytes += n_bytes
            self._latencies[math.ceil(math.log(max(now - started, 1e-9)) / _BIN)] += 1

    def failed(self) -> None:
        """Count a request that failed for good."""
        with self._lock:
            self._failures += 1

    def retried(self) -> None:
        """Count a request that is sent again."""
        with self._lock:
            self._retries += 1

    def snapshot(self) -> ClientStatistics:
        """Return the numbers so far."""
        with self._lock:
            return ClientStatistics(
                rows=self._rows,
                failures=self._failures,
                retries=self._retries,
                seconds=self._ended - (self._started or self._ended),
                megabytes=self._bytes / 1e6,
                latencies=dict(self._latencies),
            )
