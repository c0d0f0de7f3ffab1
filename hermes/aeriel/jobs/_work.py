"""What runs in a batch job: a client for some files, or the server."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path

from hermes.aeriel.client import is_transient
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.files import Request, infer_with_reconnects
from hermes.aeriel.jobs._beacon import BeaconWatch
from hermes.aeriel.jobs._files import JobStatus, RunDirectory, is_done
from hermes.aeriel.jobs._servers import ServerRequest, check_reachable
from hermes.aeriel.monitor import monitored
from hermes.aeriel.serve import (
    GPURequest,
    run_with_restarts,
    serve,
    stop_signal,
)
from hermes.errors import (
    DataError,
    FilesError,
    HermesError,
    ParameterError,
    ServerTimeoutError,
)

logger = logging.getLogger(__name__)

POLL_S = 0.5
STATUS_S = 2.0
# How long a job that has been told to end may take for it.
END_WITHIN_S = 5.0
# A batch system kills a job, with the guard of its server, some seconds after it has told it to end
# (Slurm's KillWait, 30 by default). What the server still computes is for jobs that end as well.
STOP_TIMEOUT_S = 2.0
SERVER_RESTARTS = 5
# How long a server may still answer that has begun to stop.
LASTING_S = 8.0


def infer(run: RunDirectory, submission: str, number: int) -> int:
    """Do the files of a job, and return its exit code.

    A file that cannot be done does not keep the others from it.

    Parameters
    ----------
    run
        The run.
    submission, number
        Which of its jobs this one is.
    """
    if _is_over(run):
        return 0
    files = run.submission(submission)
    failures: dict[str, str] = {}
    count = _RowCount(
        lambda rows: files.write_status(number, JobStatus(rows=rows, failures=failures))
    )
    with _ends_with(run):
        # The files of a call share a client.
        for _, group in groupby(files.read_requests(number), lambda each: each.options.client()):
            pending = list(group)
            while pending:
                pending = _infer(run, pending, count, failures)
        count.write()
    return 1 if failures else 0


def _infer(
    run: RunDirectory, requests: list[Request], count: _RowCount, failures: dict[str, str]
) -> list[Request]:
    """Do files until one fails in a way that ends the call, and return those behind it."""
    begun = 0

    def begin(number: int, request: Request) -> Request:
        nonlocal begun
        begun = number
        logger.info("infers %s", request.output_file)
        count.begin()
        return request

    options = requests[0].options
    try:
        infer_with_reconnects(
            _RunServer(run, options.retry_for_s),
            options,
            [partial(begin, number, request) for number, request in enumerate(requests)],
            lambda _, done, total: count(done, total),
        )
    except (DataError, FilesError) as error:  # the others are done
        problems = error.problems if isinstance(error, FilesError) else (str(error),)
        undone = [request for request in requests if not is_done(request)]
        for request in undone:
            named = (each for each in problems if str(request.input_files[0]) in each)
            failures[str(request.output_file)] = next(named, str(error))
    except HermesError as error:
        logger.error("%s: %s", requests[begun].output_file, error)  # noqa: TRY400 (the sentence says it)
        if is_transient(error):  # for longer than the files may wait: they are submitted again
            return []
        failures[str(requests[begun].output_file)] = str(error)
        count.write()
        return requests[begun + 1 :]
    return []


class _RowCount:
    """Counts the rows that this job has written, over all of its files.

    Parameters
    ----------
    write
        Called with the count, once in a while.
    """

    def __init__(self, write: Callable[[int], None]) -> None:
        self._write = write
        self._written_at = time.monotonic()
        self._rows = 0
        self._seen: int | None = None

    def begin(self) -> None:
        """Begin with another file."""
        self._seen = None

    def __call__(self, done: int, _: int) -> None:
        """Note how many rows of the file are there; at first, those of an earlier run."""
        self._rows += done - (done if self._seen is None else self._seen)
        self._seen = done
        if time.monotonic() > self._written_at + STATUS_S:
            self.write()

    def write(self) -> None:
        """Write the count."""
        self._write(self._rows)
        self._written_at = time.monotonic()


class _RunServer:
    """The server of a run, as its jobs find it."""

    def __init__(self, run: RunDirectory, wait_s: float) -> None:
        self._run = run
        self._wait_s = wait_s

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens, after waiting for it."""
        return _wait_for_endpoint(self._run, self._wait_s)

    def current(self) -> Endpoint | None:
        """Return where it listens, if it goes on doing so."""
        return _lasting_endpoint(self._run)

    def check_models(self) -> None:
        """Do nothing: the driver has done it."""

    def provenance(self) -> dict[str, str]:
        """Return nothing: the requests have it."""
        return {}


def run_server(run: RunDirectory) -> int:
    """Serve, while the driver lives, and return the exit code."""
    if _is_over(run):
        return 0
    wanted = ServerRequest.read(run.server)
    spec = wanted.spec
    watch = BeaconWatch(run)
    published = None

    def publish(endpoint: Endpoint) -> None:
        nonlocal published
        check_reachable(endpoint, is_advertised=bool(spec.advertise))
        published = endpoint
        endpoint.write(run.endpoint)

    def unpublish() -> None:
        if _endpoint(run) == published:  # else another server has taken over
            run.endpoint.unlink(missing_ok=True)

    request = GPURequest(gpus=spec.gpus, n_gpus=spec.n_gpus, cpu=spec.cpu)
    server = serve(
        spec.model_repository,
        spec.image or None,
        gpus=request.gpus,
        n_gpus=request.n_gpus,
        cpu=request.cpu,
        gpu_timeout_s=spec.timeout_s,
        server_args=spec.server_args,
        log_file=wanted.log_file or None,
        ports="auto",
        listen=spec.listen,
        insecure=spec.insecure,
        advertise=spec.advertise,
        stop_timeout_s=min(spec.stop_timeout_s, STOP_TIMEOUT_S),
        endpoint_file=run.endpoint,
        started_by="command",
    )
    with stop_signal() as stopped:
        run_with_restarts(
            monitored(server, Path(wanted.monitor_file) if wanted.monitor_file else None),
            timeout_s=spec.timeout_s,
            is_wanted=lambda: not stopped.is_set() and watch.is_moving(),
            publish=publish,
            unpublish=unpublish,
            most_restarts=SERVER_RESTARTS,
        )
    return 0


def _endpoint(run: RunDirectory) -> Endpoint | None:
    try:
        return Endpoint.read(run.endpoint)
    except (FileNotFoundError, ParameterError):
        return None


def _lasting_endpoint(run: RunDirectory) -> Endpoint | None:
    """Return where the server listens, if it goes on doing so.

    What it answers while it stops looks like an error that will not pass, and the driver learns
    of its end later than this job.
    """
    endpoint = _endpoint(run)
    deadline = time.monotonic() + LASTING_S
    while time.monotonic() < deadline:
        if endpoint is None or endpoint != _endpoint(run) or not endpoint.is_reachable():
            return None
        time.sleep(POLL_S)
    return endpoint


def _wait_for_endpoint(run: RunDirectory, timeout_s: float) -> Endpoint:
    deadline = time.monotonic() + timeout_s
    while (endpoint := _endpoint(run)) is None:
        if time.monotonic() > deadline:
            raise ServerTimeoutError(
                address=str(run.endpoint), timeout_s=timeout_s, waiting_for="its endpoint file"
            )
        time.sleep(POLL_S)
    return endpoint


def _is_over(run: RunDirectory) -> bool:
    """Tell whether the run has ended while this job was in the queue."""
    if run.tombstone.exists() or not run.beacon.exists():
        logger.warning("the run %s is over; there is nothing to do", run.name)
        return True
    return False


@contextmanager
def _ends_with(run: RunDirectory) -> Iterator[None]:
    """End this process when the driver's beacon stands still, and at SIGTERM in an orderly way."""

    def leave(number: int, _: object) -> None:
        threading.Timer(END_WITHIN_S, os._exit, [128 + number]).start()
        sys.exit(128 + number)

    def follow() -> None:
        watch = BeaconWatch(run)
        while not over.wait(POLL_S):
            if not watch.is_moving():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    over = threading.Event()
    before = signal.signal(signal.SIGTERM, leave)
    threading.Thread(target=follow, name="hermes-beacon", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.signal(signal.SIGTERM, before)
