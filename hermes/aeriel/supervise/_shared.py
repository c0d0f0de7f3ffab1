"""A supervised server for as long as a block lasts, shared by all who ask for the same one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hermes._processes import ProcessIdentity
from hermes.aeriel.supervise._client import ensure_server
from hermes.aeriel.supervise._spec import ServerSpec
from hermes.aeriel.supervise._state import Lease, ServerState, Wishes

# Beyond the time that the server has to get ready.
MARGIN_S = 60.0


@contextmanager
def shared_server(spec: ServerSpec, *, what: str, wishes: Wishes) -> Iterator[Path]:
    """Yield the endpoint file of a ready server, which all that ask for the same one share.

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
        ensure_server(spec, driver=driver, timeout_s=spec.timeout_s + MARGIN_S)
        yield state.endpoint_file
    finally:
        state.release_all(driver)
        state.tidy()
