"""A supervised server for as long as a block lasts, shared by all who ask for the same one."""

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

# Beyond the time that the server has to get ready.
MARGIN_S = 60.0


@dataclass(frozen=True)
class SharedServer:
    """A server that this process shares with others, and keeps a lease on.

    Parameters
    ----------
    spec
        What the server is.
    driver
        This process.
    """

    spec: ServerSpec
    driver: ProcessIdentity

    @property
    def endpoint(self) -> Endpoint:
        """Where the ready server listens; it waits for one that is being started again.

        Raises
        ------
        SupervisorError
            It did not start, or somebody stopped it.
        ServerTimeoutError
            It was not ready in time.
        """
        return ensure_server(
            self.spec, driver=self.driver, timeout_s=self.spec.timeout_s + MARGIN_S
        )

    @property
    def endpoint_file(self) -> Path:
        """The file that says where the server listens, while it is ready."""
        return ServerState.of(self.spec).endpoint_file

    def current(self) -> Endpoint | None:
        """Return where the server listens just now, or None while it is not ready."""
        return ServerState.of(self.spec).endpoint()

    def check_models(self) -> None:
        """Raise ServerError where a file of the repository has changed since the server's start."""
        self.spec.check_unchanged()

    def provenance(self) -> dict[str, str]:
        """Return where the models come from."""
        return self.spec.provenance()


@contextmanager
def shared_server(spec: ServerSpec, *, what: str, wishes: Wishes) -> Iterator[SharedServer]:
    """Yield a ready server, which all that ask for the same one share.

    Parameters
    ----------
    spec
        What the server is to be.
    what
        What needs it, for `hermes ps`.
    wishes
        What this process wants of it besides.

    Raises
    ------
    SupervisorError
        It did not start, or somebody stopped it.
    ServerTimeoutError
        It was not ready in time.
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
