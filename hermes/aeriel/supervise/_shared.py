"""A supervised server while a block lasts, shared by all processes that ask for the same one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hermes._processes import ProcessIdentity
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.supervise._client import ensure_server
from hermes.aeriel.supervise._spec import ServerSpec
from hermes.aeriel.supervise._state import Lease, ServerState, Wishes

# Seconds to wait beyond the server's own timeout.
MARGIN_S = 60.0


@dataclass(frozen=True)
class SharedServer:
    """A server that this process shares with others, and has a lease on.

    Parameters
    ----------
    spec
        The specification of the server.
    driver
        This process.
    """

    spec: ServerSpec
    driver: ProcessIdentity

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint of the ready server, after waiting for a server that is being restarted.

        Raises
        ------
        SupervisorError
            The server did not start, or was stopped.
        ServerTimeoutError
            The server was not ready in time.
        """
        return ensure_server(
            self.spec, driver=self.driver, timeout_s=self.spec.timeout_s + MARGIN_S
        )

    @property
    def endpoint_file(self) -> Path:
        """The endpoint file, which exists while the server is ready."""
        return ServerState.of(self.spec).endpoint_file

    def current(self) -> Endpoint | None:
        """Return the current endpoint; None while the server is not ready."""
        return ServerState.of(self.spec).endpoint()

    def check_models(self) -> None:
        """Raise ServerError where a file of the repository has changed since the server's start."""
        self.spec.check_unchanged()

    def provenance(self) -> dict[str, str]:
        """Return where the models come from."""
        return self.spec.provenance()


@contextmanager
def shared_server(spec: ServerSpec, *, what: str, wishes: Wishes) -> Iterator[SharedServer]:
    """Yield a ready server, which all processes that ask for the same one share.

    Parameters
    ----------
    spec
        The specification of the server.
    what
        The name of the consumer, for `hermes ps`.
    wishes
        The files that this process wants, and how long the server lingers.

    Raises
    ------
    SupervisorError
        The server did not start, or was stopped.
    ServerTimeoutError
        The server was not ready in time.
    """
    state = ServerState.of(spec)
    driver = ProcessIdentity.of(os.getpid())
    state.acquire(driver, Lease(consumer=what, is_running=True), wishes)
    try:
        server = SharedServer(spec, driver)
        _ = server.endpoint  # starts it
        yield server
    finally:
        state.release_all(driver)
        state.tidy()
