"""What a client has done so far, as one value."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from dataclasses import dataclass

# Latencies are counted in bins of 2 %: exact enough for a percentile, and a few kB for any number.
_BIN = math.log(1.02)


@dataclass(frozen=True, kw_only=True)
class ClientStatistics:
    """What a client has done between its first request and its last answer.

    Parameters
    ----------
    requests, rows, failures, retries
        How many were answered; failed for good; were sent again.
    seconds
        From the first request to the last answer.
    megabytes
        Sent and received tensors, in units of 1e6 bytes.
    p50_ms, p90_ms, p99_ms
        Percentiles of the time between a request and its answer, retries included, within 2 %.
        NaN where there is no answer yet.
    """

    requests: int
    rows: int
    failures: int
    retries: int
    seconds: float
    megabytes: float
    p50_ms: float
    p90_ms: float
    p99_ms: float

    @property
    def rows_per_s(self) -> float:
        """Rows answered per second."""
        return self.rows / self.seconds if self.seconds else math.nan

    @property
    def megabytes_per_s(self) -> float:
        """Megabytes sent and received per second."""
        return self.megabytes / self.seconds if self.seconds else math.nan


class Recorder:
    """Collects a client's numbers; its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started: float | None = None
        self._ended = 0.0
        self._rows = self._bytes = self._failures = self._retries = 0
        self._bins: Counter[int] = Counter()

    def start(self) -> float:
        """Return the time at which a request starts, for `answered`."""
        now = time.perf_counter()
        if self._started is None:
            self._started = now
        return now

    def answered(self, started: float, rows: int, n_bytes: int) -> None:
        """Count an answer."""
        now = time.perf_counter()
        with self._lock:
            self._ended = now
            self._rows += rows
            self._bytes += n_bytes
            self._bins[math.ceil(math.log(max(now - started, 1e-9)) / _BIN)] += 1

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
            requests = sum(self._bins.values())
            p50, p90, p99 = (self._percentile(share, requests) for share in (0.5, 0.9, 0.99))
            return ClientStatistics(
                requests=requests,
                rows=self._rows,
                failures=self._failures,
                retries=self._retries,
                seconds=max(0.0, self._ended - (self._started or 0.0)) if requests else 0.0,
                megabytes=self._bytes / 1e6,
                p50_ms=p50,
                p90_ms=p90,
                p99_ms=p99,
            )

    def _percentile(self, share: float, requests: int) -> float:
        seen = 0
        for bin_number in sorted(self._bins):
            seen += self._bins[bin_number]
            if seen >= share * requests:
                return 1e3 * math.exp((bin_number - 0.5) * _BIN)
        return math.nan
