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
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path

from hermes.aeriel.client import is_transient
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.files import Request, infer_with_reconnects
from hermes.aeriel.jobs._beacon import BeaconWatch
from hermes.aeriel.jobs._client_server import ClientServer
from hermes.aeriel.jobs._files import JobStatus, RunDirectory, is_done
from hermes.aeriel.jobs._server_request import ServerRequest, check_reachable
from hermes.aeriel.monitor import monitored
from hermes.aeriel.serve import run_with_restarts, stop_signal
from hermes.errors import (
    DataError,
    FilesError,
    HermesError,
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
    with ends_with(run):
        work = files.read_work(number)
        # The files of a call share a client.
        for _, group in groupby(work.requests, lambda each: each.options.client()):
            pending = list(group)
            server = ClientServer(run, work.server, number, pending[0].options.retry_for_s)
            while pending:
                pending = _infer(server, pending, count, failures)
        count.write()
    return 1 if failures else 0


class _OwnServerIsBackError(Exception):
    """The next files are for the client's own server."""


def _infer(
    server: ClientServer, requests: list[Request], count: _RowCount, failures: dict[str, str]
) -> list[Request]:
    """Do files until something ends the call, and return those that are left to do."""
    begun = 0

    def begin(number: int, request: Request) -> Request:
        nonlocal begun
        begun = number
        if server.own_has_come_back():
            raise _OwnServerIsBackError
        logger.info("infers %s", request.output_file)
        count.begin()
        return request

    options = requests[0].options
    try:
        infer_with_reconnects(
            server,
            options,
            [partial(begin, number, request) for number, request in enumerate(requests)],
            lambda _, done, total: count(done, total),
        )
    except _OwnServerIsBackError:
        return requests[begun:]
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


def run_server(run: RunDirectory, number: int) -> int:
    """Serve while the driver lives and has work for the server, and return the exit code.

    Parameters
    ----------
    run
        The run.
    number
        Which of its servers this one is.
    """
    if _is_over(run) or not run.has_work_for(number):
        return 0
    wanted = ServerRequest.read(run.server(number))
    endpoint_file = run.endpoint(number)
    spec = replace(wanted.spec, stop_timeout_s=min(wanted.spec.stop_timeout_s, STOP_TIMEOUT_S))
    watch = BeaconWatch(run)

    def publish(endpoint: Endpoint) -> None:
        check_reachable(endpoint, is_advertised=bool(spec.advertise))
        endpoint.write(endpoint_file)

    def is_wanted() -> bool:
        return not stopped.is_set() and run.has_work_for(number) and watch.is_moving()

    server = spec.serve(
        gpus=spec.gpus,
        n_gpus=spec.n_gpus,
        gpu_timeout_s=spec.timeout_s,
        log_file=wanted.log_file or None,
        endpoint_file=endpoint_file,
        started_by="command",
    )
    with stop_signal() as stopped:
        run_with_restarts(
            monitored(server, Path(wanted.monitor_file) if wanted.monitor_file else None),
            timeout_s=spec.timeout_s,
            is_wanted=is_wanted,
            publish=publish,
            most_restarts=SERVER_RESTARTS,
        )
    return 0


def _is_over(run: RunDirectory) -> bool:
    """Tell whether the run has ended while this job was in the queue."""
    if run.tombstone.exists() or not run.beacon.exists():
        logger.warning("the run %s is over; there is nothing to do", run.name)
        return True
    return False


@contextmanager
def ends_with(run: RunDirectory) -> Iterator[None]:
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
