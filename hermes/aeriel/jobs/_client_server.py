"""Which of a run's servers the client in a job uses."""

from __future__ import annotations

import logging
import time

from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.jobs._files import RunDirectory
from hermes.errors import ServerTimeoutError

logger = logging.getLogger(__name__)

POLL_S = 0.5
# How long a server may still answer that has begun to stop.
LASTING_S = 8.0


class ClientServer:
    """The server of a job's client: its own, or another one as long as that cannot be reached.

    Parameters
    ----------
    run
        The run.
    own
        The number of the client's own server.
    job
        The number of the job: clients of the same lost server go to different ones.
    wait_s
        How many seconds to wait for a server.
    """

    def __init__(self, run: RunDirectory, own: int, job: int, wait_s: float) -> None:
        self._run = run
        self._own = own
        self._job = job
        self._wait_s = wait_s
        self._used: tuple[int, Endpoint] | None = None

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens, after waiting for it.

        Raises
        ------
        ServerTimeoutError
            No server is ready in time.
        """
        deadline = time.monotonic() + self._wait_s
        while not (found := self._by_preference()):
            if time.monotonic() > deadline:
                raise ServerTimeoutError(
                    address=str(self._run.endpoint(self._own)),
                    timeout_s=self._wait_s,
                    waiting_for="its endpoint file",
                )
            time.sleep(POLL_S)
        # Where none can be reached, the client has the words for it.
        self._used = next((each for each in found if each[1].is_reachable()), found[0])
        number, endpoint = self._used
        logger.info("uses server %d at %s", number, endpoint.grpc)
        return endpoint

    def _by_preference(self) -> list[tuple[int, Endpoint]]:
        ready = list(self._run.endpoints().items())
        first = self._job % max(1, len(ready))
        return sorted([*ready[first:], *ready[:first]], key=lambda each: each[0] != self._own)

    def current(self) -> Endpoint | None:
        """Return where it listens, if it goes on doing so.

        What it answers while it stops looks like an error that will not pass, and the driver learns
        of its end later than this job.
        """
        if self._used is None:
            return None
        number, endpoint = self._used
        deadline = time.monotonic() + LASTING_S
        while time.monotonic() < deadline:
            if endpoint != self._run.endpoints().get(number) or not endpoint.is_reachable():
                return None
            time.sleep(POLL_S)
        return endpoint

    def own_has_come_back(self) -> bool:
        """Tell whether the client uses another server, and its own can be reached again."""
        if self._used is None or self._used[0] == self._own:
            return False
        own = self._run.endpoints().get(self._own)
        return own is not None and own.is_reachable()

    def check_models(self) -> None:
        """Do nothing: the driver has done it."""

    def provenance(self) -> dict[str, str]:
        """Return nothing: the requests have it."""
        return {}
