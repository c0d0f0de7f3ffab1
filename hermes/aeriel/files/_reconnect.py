"""Files through a model whose server may be lost, and come back elsewhere, on the way."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import tenacity

from hermes.aeriel._options import InferenceOptions
from hermes.aeriel.client import ClientStatistics, InferenceClient, is_transient
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.files._infer import Request, infer_file
from hermes.aeriel.files._publishing import Publisher
from hermes.aeriel.files._servers import Server
from hermes.errors import DataError, FilesError, InferenceError, ModelError, ServerError

logger = logging.getLogger(__name__)

# How long one connection is tried before the server is looked for again.
RECONNECT_S = 5.0


def infer_with_reconnects(
    server: Server,
    options: InferenceOptions,
    requests: Sequence[Callable[[], Request]],
    on_progress: Callable[[Request, int, int], None],
) -> list[ClientStatistics]:
    """Stream files through a model, and go on where that stopped when the server is lost.

    The files share a client. One that cannot be used does not keep the others from being done.

    Parameters
    ----------
    server
        The server; it is asked again for its endpoint each time that it is lost.
    options
        Those of all requests; ``retry_for_s`` says how many seconds to go on without progress.
    requests
        Each returns what to do with a file, as it is when its turn comes.
    on_progress
        Called with a file's request, its rows done and its rows in all.

    Returns
    -------
    list of ClientStatistics
        The numbers of each file. All of them are safe on the disk.

    Raises
    ------
    DataError, FilesError
        One of the files, or several, cannot be used; the others are done.
    HermesError
        What `server`, `InferenceClient` and `infer_file` raise, when it does not pass in time.
    """
    todo = _Todo(deque(requests), on_progress)
    used: Endpoint | None = None

    def is_over(_: tenacity.RetryCallState) -> bool:
        return time.monotonic() - todo.progressed > options.retry_for_s

    def may_pass(error: BaseException) -> bool:
        if is_transient(error) or used is None:
            return is_transient(error)
        # A server that is stopping drops its models first, and then says that it has none.
        may_be_lost = isinstance(error, ServerError | ModelError | InferenceError)
        return may_be_lost and used != server.current()

    def stream() -> None:
        nonlocal used
        used = None
        used = server.endpoint
        server.check_models()  # after it: the server has loaded the models that the requests name
        client_options = replace(options, retry_for_s=RECONNECT_S).client()
        with InferenceClient(used, **client_options) as client, Publisher() as publisher:
            todo.infer(client, publisher)

    tenacity.Retrying(
        retry=tenacity.retry_if_exception(may_pass),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5.0),
        stop=is_over,
        reraise=True,
    )(stream)
    if len(todo.failures) > 1:
        raise FilesError(tuple(map(str, todo.failures)), len(requests))
    if todo.failures:
        raise todo.failures[0]
    return todo.done


class _Todo:
    """The files that are still to do, and what came of the others.

    Parameters
    ----------
    pending, on_progress
        As `infer_with_reconnects` has them.

    Attributes
    ----------
    done
        The numbers of each file that is done.
    failures
        Why the others cannot be used.
    progressed
        When a row was done last that no connection before had done, in seconds of the monotonic
        clock.
    """

    def __init__(
        self,
        pending: deque[Callable[[], Request]],
        on_progress: Callable[[Request, int, int], None],
    ) -> None:
        self._pending = pending
        self._on_progress = on_progress
        self.done: list[ClientStatistics] = []
        self.failures: list[DataError] = []
        self.progressed = time.monotonic()
        self._most_rows = -1  # of the first that is pending

    def infer(self, client: InferenceClient, publisher: Publisher) -> None:
        """Stream one after the other; what raises is left, to be streamed again."""
        while self._pending:
            try:
                request = self._pending[0]()
                show = partial(self._show, request)
                self.done.append(infer_file(client, request, show, publisher))
            except DataError as error:
                self.failures.append(error)
                logger.warning("%s", error)
            self._pending.popleft()
            self._most_rows = -1

    def _show(self, request: Request, done: int, total: int) -> None:
        if done > self._most_rows:
            self._most_rows = done
            self.progressed = time.monotonic()
        self._on_progress(request, done, total)
