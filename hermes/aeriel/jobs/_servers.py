"""Where the servers of a run are: what keeps them, and has the jobs see where they listen."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.jobs._engine import Engine, JobId, JobState
from hermes.aeriel.jobs._files import RunDirectory
from hermes.aeriel.jobs._options import JobOptions
from hermes.aeriel.jobs._server_request import ServerRequest, check_reachable, server_submission
from hermes.errors import JobsError, log_tail

logger = logging.getLogger(__name__)

# A server that was ready for so long has its failures before that forgiven.
FORGIVE_S = 120.0
LOG_LINES = 20


class RunServers(Protocol):
    """The servers of a run, as the driver sees them."""

    @property
    def numbers(self) -> Collection[int]:
        """The numbers of those to which clients may be given."""

    def tend(self, states: Mapping[JobId, JobState], needed: Collection[int]) -> bool:
        """Keep the servers running, and tell whether one is ready.

        Parameters
        ----------
        states
            The run's jobs that have not ended.
        needed
            The numbers of the servers for which there are clients, now or later.
        """


class ServerElsewhere:
    """A server that something else keeps, such as the supervisor on the driver's host.

    Parameters
    ----------
    run
        The run.
    current
        Returns where it listens just now; None while it does not.
    is_advertised
        Whether the user has named the address: it is believed then.
    """

    def __init__(
        self, run: RunDirectory, current: Callable[[], Endpoint | None], *, is_advertised: bool
    ) -> None:
        self._run = run
        self._current = current
        self._is_advertised = is_advertised
        self._published: Endpoint | None = None

    @property
    def numbers(self) -> Collection[int]:
        """The number of the one server."""
        return (0,)

    def tend(
        self,
        states: Mapping[JobId, JobState],  # noqa: ARG002 (no job of these)
        needed: Collection[int],  # noqa: ARG002 (it ends with the tasks that require it)
    ) -> bool:
        """Have the jobs see where it listens, and tell whether it does."""
        endpoint = self._current()
        if endpoint != self._published:
            file = self._run.endpoint(0)
            if endpoint is None:
                file.unlink(missing_ok=True)
            else:
                check_reachable(endpoint, is_advertised=self._is_advertised)
                endpoint.write(file)
            self._published = endpoint
        return endpoint is not None


class ServerJobs:
    """Servers in jobs of their own.

    One that ends too often is given up while there are others. One is stopped when no client needs
    it, neither as its own nor in place of another one that is away.

    Parameters
    ----------
    run, engine, options
        The run.
    request
        What each server is to be.
    n_servers
        How many there are to be.
    """

    def __init__(
        self,
        run: RunDirectory,
        engine: Engine,
        options: JobOptions,
        request: ServerRequest,
        n_servers: int,
    ) -> None:
        self._servers = {
            number: _ServerJob(run, engine, options, request, number) for number in range(n_servers)
        }

    @property
    def numbers(self) -> Collection[int]:
        """The numbers of those that are neither stopped nor given up."""
        return tuple(self._servers)

    def tend(self, states: Mapping[JobId, JobState], needed: Collection[int]) -> bool:
        """Submit servers that no job has, stop those that nobody needs, tell whether one is ready.

        Raises
        ------
        JobsError
            The last of them has ended too often.
        """
        ready = []
        for number, server in list(self._servers.items()):
            try:
                if server.tend(states):
                    ready.append(number)
            except JobsError as error:
                if len(self._servers) == 1:
                    raise
                logger.warning("%s; its clients go to the other servers", error)
                del self._servers[number]
        if all(number in ready for number in needed):
            for number in self._servers.keys() - set(needed):
                self._servers.pop(number).stop()
        return bool(ready)


class _ServerJob:
    """A server in a job of its own, which is submitted again when it ends, a few times at most.

    Parameters
    ----------
    run, engine, options
        The run.
    request
        What the server is to be.
    number
        Which of the run's servers it is.
    """

    def __init__(
        self,
        run: RunDirectory,
        engine: Engine,
        options: JobOptions,
        request: ServerRequest,
        number: int,
    ) -> None:
        self._run = run
        self._number = number
        self._engine = engine
        self._options = options
        self._spec = request.spec
        self._job: JobId | None = None
        self._n_submissions = 0
        self._failures = 0
        self._ready_at: float | None = None
        request.of_server(number).write(run.server(number))

    def tend(self, states: Mapping[JobId, JobState]) -> bool:
        """Submit the server where no job has it, and tell whether it is ready.

        Raises
        ------
        JobsError
            It has ended too often.
        """
        if self._job is None or self._job not in states:
            if self._job is not None:
                self._note_end()
            self._submit()
            return False
        is_ready = self._run.endpoint(self._number).exists()
        if is_ready and self._ready_at is None:
            self._ready_at = time.monotonic()
        return is_ready

    def _note_end(self) -> None:
        self._run.endpoint(self._number).unlink(missing_ok=True)  # of a server that was killed
        was_well = self._ready_at is not None and time.monotonic() > self._ready_at + FORGIVE_S
        self._failures = 1 if was_well else self._failures + 1
        self._ready_at = None
        log = self._run.submission(self._name(self._n_submissions - 1)).log(0)
        tail = log_tail(log, LOG_LINES)
        tail = f"the job of the server has ended; its log, {log}, ends with:\n{tail}"
        if self._failures > self._options.job_retries:
            raise JobsError((f"{tail}\nIt was submitted {self._n_submissions} times",))
        logger.warning(
            "it is submitted again (%d of %d): %s", self._failures, self._options.job_retries, tail
        )

    def stop(self) -> None:
        """Have the server end: no client needs it."""
        logger.info("server %d of %s has no work left", self._number, self._run.name)
        self._run.server(self._number).unlink()

    def _submit(self) -> None:
        files = self._run.submission(self._name(self._n_submissions))
        files.path.mkdir()
        submission = server_submission(
            self._options, self._spec, self._run.name, files.path, self._number
        )
        self._job = JobId(self._engine.submit(submission), 0)
        self._n_submissions += 1
        message = "submitted server %d of %s as %s"
        logger.info(message, self._number, self._run.name, self._job.submission)

    def _name(self, submission: int) -> str:
        return f"server-{self._number}-{submission}"
