"""`ServerMonitor`: samples a server's statistics into a CSV file while a block lasts."""

from __future__ import annotations

import csv
import errno
import io
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, Self, TypeVar

from hermes.aeriel._ml4gw import old_keywords
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.monitor._probe import Probe
from hermes.aeriel.monitor._sample import COLUMNS, Row, Sample
from hermes.errors import OutputError, ParameterError

logger = logging.getLogger(__name__)

HEADER = (",".join(COLUMNS) + "\n").encode()
LONGEST_LINE = 1 << 16


class HasEndpoint(Protocol):
    """A server, such as a `TritonInstance`."""

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""


Server = TypeVar("Server", bound=HasEndpoint)


class ServerMonitor:
    """Samples a Triton server's statistics and metrics into a CSV file while the block lasts.

    Each sample is a row for each model and each GPU, with the same time. Counters are those of
    the server: they count from its start. The columns, where they apply to a row:

    - ``time``: ISO 8601, UTC;
    - ``state``: ``ok``; ``restarted`` for the first sample after a restart of the server (or of
      the monitor): differences from the sample before are not meaningful;
      ``unreachable`` for a row without numbers, because the server did not answer;
    - ``kind``: ``model``, ``gpu``, or ``server`` for a row without numbers, in the first sample of
      a server and where there is no answer;
    - ``name``, ``version``: of the model; the GPU's UUID; the address of the server;
    - ``member_of``: the ensembles that the model is a step of, separated by a blank;
    - ``requests``, ``failures``: requests that succeeded and that failed, as the server counts
      them: an error that a Python model returns counts as a success;
    - ``inferences``, ``executions``: rows of all requests, and runs of the model;
    - ``queue_s``, ``compute_input_s``, ``compute_infer_s``, ``compute_output_s``: the total time
      of all requests in the queue and in each step of the computation, in seconds;
    - ``pending``: requests in the queue;
    - ``utilisation`` (0 to 1), ``memory_used_bytes``, ``memory_total_bytes``, ``power_w``: of a
      GPU.

    The last sample is taken when the block ends. Errors of the server or the disk are logged; they
    do not end the monitor.

    Parameters
    ----------
    endpoint
        The server: an `Endpoint`; or ``host:port`` or ``unix:PATH`` of its GRPC service, which has
        no ``pending`` and no GPUs; or a function that returns one of them, where it may change.
    path
        The file. The file of an earlier monitor is continued.
    interval_s
        Seconds from one sample to the next.
    timeout_s
        Timeout of each request to the server, in seconds.

    Raises
    ------
    ParameterError
        `interval_s` or `timeout_s` is not above 0.
    OutputError
        Raised when the block is entered: the file cannot be written, or is not a monitor's table.

    Examples
    --------
    >>> with ServerMonitor(instance.endpoint, Path("server.csv")):  # doctest: +SKIP
    ...     run()
    """

    @old_keywords(
        model_name="the monitor samples all models of the server",
        ips="the server is endpoint; use a monitor for each server",
        filename="the file is path, or the second argument",
        model_version="the monitor samples all versions",
        max_request_rate="give interval_s, the seconds from one sample to the next",
        rate="give interval_s, the seconds from one sample to the next",
    )
    def __init__(
        self,
        endpoint: Endpoint | str | Callable[[], Endpoint | str],
        path: str | Path,
        interval_s: float = 1.0,
        *,
        timeout_s: float = 5.0,
    ) -> None:
        for name, value in (("interval_s", interval_s), ("timeout_s", timeout_s)):
            if not value > 0:
                raise ParameterError(name, f"is {value:g} s; it has to be above 0")
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._interval_s = interval_s
        self.path = Path(path)
        self._ending = threading.Event()
        self._undo = ExitStack()
        self._before: Sample | None = None
        self._is_restarted = False
        self._failed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._where().grpc} to {self.path}>"

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            try:
                self._file, self._is_restarted = _open(self.path)
            except OSError as error:
                raise OutputError(str(self.path), error.strerror or str(error)) from error
            undo.callback(os.close, self._file)
            self._probe = Probe(self._where(), self._timeout_s)
            undo.callback(lambda: self._probe.close())  # noqa: PLW0108 (the probe is replaced)
            # A daemon thread must not delay interpreter exit.
            thread = threading.Thread(target=self._run, name="hermes-monitor", daemon=True)
            thread.start()
            undo.callback(thread.join)
            undo.callback(self._ending.set)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _where(self) -> Endpoint:
        endpoint = self._endpoint() if callable(self._endpoint) else self._endpoint
        return endpoint if isinstance(endpoint, Endpoint) else Endpoint(grpc=endpoint)

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            self._sample()
            if self._ending.is_set():
                return
            # Skip samples that are overdue because the server did not answer.
            now = time.monotonic()
            due = max(due + self._interval_s, now)
            self._ending.wait(due - now)

    def _sample(self) -> None:
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        if self._where() != self._probe.endpoint:
            self._probe.close()
            self._probe = Probe(self._where(), self._timeout_s)
        sample = self._probe.sample()
        if sample is None:
            self._write(when, "unreachable", ())
            return
        if self._before is not None and sample.is_of_another_server(self._before):
            logger.info("%r: the server was replaced or restarted", self)
            self._is_restarted = True
        rows = sample.rows
        if self._before is None or self._is_restarted:
            rows = [{"kind": "server", "name": self._probe.endpoint.grpc}, *rows]
        # If this sample is not written, the next one is marked as restarted.
        if self._write(when, "restarted" if self._is_restarted else "ok", rows):
            self._is_restarted = False
        self._before = sample

    def _write(self, when: str, state: str, rows: Sequence[Row]) -> bool:
        """Append rows completely or not at all; return whether they were written."""
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writerows(
            {"time": when, "state": state, **row} for row in rows or [{"kind": "server"}]
        )
        data = text.getvalue().encode()
        end = os.lseek(self._file, 0, os.SEEK_END)
        try:
            if os.write(self._file, data) < len(data):
                os.ftruncate(self._file, end)
                problem = "no space left on device"
                raise OSError(problem)  # noqa: TRY301 (the next write would raise it)
        except OSError as error:
            if not self._failed:
                logger.warning("cannot write a sample to %s: %s", self.path, error)
            self._failed = True
            return False
        self._failed = False
        return True


def _open(path: Path) -> tuple[int, bool]:
    """Return a descriptor that appends to a table, and whether there is one to continue.

    Raises
    ------
    OSError
        The file cannot be written, or is not a monitor's table.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    with ExitStack() as undo:
        undo.callback(os.close, descriptor)
        size = os.fstat(descriptor).st_size
        head = os.pread(descriptor, len(HEADER), 0)
        if not head:
            os.write(descriptor, HEADER)
        elif head != HEADER:
            raise FileExistsError(errno.EEXIST, "the file exists and is not the table of a monitor")
        # A crash of the machine may have left an incomplete line, which is removed.
        tail = os.pread(descriptor, LONGEST_LINE, max(0, size - LONGEST_LINE))
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - len(tail) + tail.rfind(b"\n") + 1)
        undo.pop_all()
    return descriptor, size > len(HEADER)


@contextmanager
def monitored(server: AbstractContextManager[Server], path: Path | None) -> Iterator[Server]:
    """Yield the server of a context, with a `ServerMonitor` if `path` is given.

    Parameters
    ----------
    server
        The context.
    path
        The monitor's file; None for no monitor.
    """
    # Not the current endpoint: after a restart the server may have other ports.
    with (
        server as instance,
        nullcontext() if path is None else ServerMonitor(lambda: instance.endpoint, path),
    ):
        yield instance
