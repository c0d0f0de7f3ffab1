"""One file through a model whose server may be lost, and come back elsewhere, on the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import tenacity

from hermes.aeriel.client import ClientStatistics, InferenceClient, is_transient
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.files._infer import Request, infer_file
from hermes.errors import InferenceError, ModelError, ServerError

# How long one connection is tried before the server is looked for again.
RECONNECT_S = 5.0


def infer_with_reconnects(
    find: Callable[[], tuple[Endpoint, Request]],
    current: Callable[[], Endpoint | None],
    on_progress: Callable[[int, int], None],
    *,
    retry_for_s: float,
) -> ClientStatistics:
    """Stream a file through a model, and go on where it stopped when the server is lost.

    Parameters
    ----------
    find
        Returns where the server listens, after waiting for it, and what to do; called again each
        time that the server is lost.
    current
        Returns where the server listens just now; None while it does not.
    on_progress
        As for `infer_file`.
    retry_for_s
        Seconds to go on without progress.

    Raises
    ------
    HermesError
        What `find`, `InferenceClient` and `infer_file` raise, when it does not pass in time.
    """
    progressed = time.monotonic()
    used: Endpoint | None = None

    def show(done: int, total: int) -> None:
        nonlocal progressed
        progressed = time.monotonic()
        on_progress(done, total)

    def is_over(_: tenacity.RetryCallState) -> bool:
        return time.monotonic() - progressed > retry_for_s

    def may_pass(error: BaseException) -> bool:
        if is_transient(error) or used is None:
            return is_transient(error)
        # A server that is stopping drops its models first, and then says that it has none.
        return isinstance(error, ServerError | ModelError | InferenceError) and used != current()

    def stream() -> ClientStatistics:
        nonlocal used
        used = None
        used, request = find()
        options = replace(request.options, retry_for_s=RECONNECT_S)
        with InferenceClient(used, **options.client()) as client:
            return infer_file(client, request, show)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(may_pass),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5.0),
        stop=is_over,
        reraise=True,
    )
    return retrying(stream)
