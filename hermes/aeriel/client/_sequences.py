"""Sequences of updates for models that keep a state between requests."""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.client._dispatcher import Dispatcher, PendingRequest, owned
from hermes.aeriel.client._failures import is_unknown_region
from hermes.aeriel.client._specification import Arrays, ModelSpecification
from hermes.aeriel.client._transports import Outputs, PreparedRequest
from hermes.errors import InferenceError, RequestError, RequestTimeoutError

logger = logging.getLogger(__name__)

Update = Arrays | NDArray[Any]
Updates = Iterable[Update] | Callable[[], Iterable[Update]]

# Updates of an iterator are kept for a restart, up to this size.
KEPT_BYTES = 64 << 20
# Deadline of the request that ends a sequence which the caller did not finish.
END_S = 0.5


class Sequence:
    """A sequence on the server; get it from `InferenceClient.sequence`.

    The server keeps a limited number of sequences at once. A further one waits in the client until
    another one ends.

    Parameters
    ----------
    dispatcher
        The client's.
    free_sequences
        Counts the further sequences that the server can keep.
    """

    def __init__(self, dispatcher: Dispatcher, free_sequences: threading.Semaphore) -> None:
        self._dispatcher = dispatcher
        self._free_sequences = free_sequences
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def stream(self, updates: Updates, *, deadline_s: float = math.inf) -> Iterator[Outputs]:
        """Send the updates of one sequence in order, and give each result once, in order.

        An update is sent after the answer to the one before it: the server processes the updates of
        a sequence as they arrive. If the server was lost, or ended the sequence, all updates are
        sent again under a new id, and the results that the caller has seen are skipped: a model has
        to give the same results for the same updates.

        Parameters
        ----------
        updates
            The arguments of `InferenceClient.infer`, one for each request; or a function that
            returns them, which is called again for a restart. The updates of an iterator are kept
            for a restart, up to `KEPT_BYTES`. Updates are read two ahead of the results.
        deadline_s
            Seconds that the whole sequence may take.

        Yields
        ------
        dict of numpy.ndarray
            The outputs for each update by name.

        Raises
        ------
        InputError, RequestError, RequestTimeoutError
            An update failed, or the sequence was lost and cannot be restarted.
        """
        stream = self._stream(_source(updates, self._dispatcher.specification), deadline_s)
        # Leaving the block ends a stream that was not read to its end.
        self._stack.callback(stream.close)
        return stream

    def _stream(
        self, source: Callable[[], Iterable[Arrays]], deadline_s: float
    ) -> Generator[Outputs, None, None]:
        self._dispatcher.check_usable()
        seen = to_skip = 0
        run: Generator[Outputs, None, None] | None = None
        failure = ""

        def advance() -> Outputs | None:
            nonlocal run, to_skip, failure
            if run is None:
                if failure:
                    logger.info("a sequence is sent again from its first update: %s", failure)
                run = self._run(iter(source()), deadline)
                to_skip = seen
            try:
                for _ in range(to_skip):
                    next(run)
                to_skip = 0
                return next(run, None)
            except InferenceError as error:
                run, failure = None, str(error)
                raise

        with self._dispatcher.within(deadline_s) as deadline, self._reserved(deadline):
            try:
                while (outputs := self._advance_or_restart(advance, source, deadline)) is not None:
                    seen += 1
                    yield outputs
            finally:
                if run is not None:
                    run.close()

    def _advance_or_restart(
        self, advance: Callable[[], Outputs | None], source: object, deadline: float
    ) -> Outputs | None:
        try:
            return advance()
        except InferenceError as error:
            if isinstance(source, _Kept) and source.is_lost:
                self._dispatcher.recorder.failed()
                raise
            failures = [error]
        return self._dispatcher.again(failures, advance, deadline)

    def _run(self, updates: Iterator[Arrays], deadline: float) -> Generator[Outputs, None, None]:
        """Send the sequence once."""
        dispatcher = self._dispatcher
        sequence_id = secrets.randbelow(2**63 - 1) + 1  # random: unique among all clients
        pending: PendingRequest | None = None
        blank: dict[str, NDArray[Any]] = {}
        try:
            # The next request is prepared while the one before it is in flight.
            for prepared in self._prepared_requests(updates, sequence_id, blank):
                outputs = None
                if pending is not None:
                    outputs = owned(self._finish(pending, deadline))
                    dispatcher.drop(pending)
                    pending = None
                pending = dispatcher.start(prepared, deadline)
                if outputs is not None:
                    yield outputs
                    dispatcher.check_usable()
            if pending is not None:
                blank.clear()  # the sequence has ended
                yield owned(self._finish(pending, deadline))
        except BaseException as error:
            # The server itself ends a sequence whose update failed, after its idle time.
            is_lost = isinstance(error, RequestError | RequestTimeoutError) and pending is not None
            is_over = dispatcher.connection.is_closing or dispatcher.is_inherited()
            if blank and not is_lost and not is_over:
                self._end(sequence_id, blank)
            raise
        finally:
            if pending is not None:
                dispatcher.drop(pending)

    def _prepared_requests(
        self, updates: Iterator[Arrays], sequence_id: int, blank: dict[str, NDArray[Any]]
    ) -> Iterator[PreparedRequest]:
        coming = next(updates, None)
        starts = True
        while coming is not None:
            # A copy: the next update may be in the same arrays. It is read first, because this one
            # has to say whether it is the last.
            update = {name: array.copy() for name, array in coming.items()}
            coming = next(updates, None)
            if starts:
                blank.update({name: _blank(array) for name, array in update.items()})
            flags = {"sequence_start": starts, "sequence_end": coming is None}
            yield self._dispatcher.pack(update, {"sequence_id": sequence_id, **flags})
            starts = False

    def _end(self, sequence_id: int, blank: Arrays) -> None:
        """Send the last request of the sequence, so that the server frees its slot."""
        parameters = {"sequence_id": sequence_id, "sequence_start": False, "sequence_end": True}
        prepared = self._dispatcher.pack(blank, parameters)
        with contextlib.suppress(InferenceError):
            pending = self._dispatcher.start(prepared, time.monotonic() + END_S)
            try:
                self._dispatcher.finish_once(pending)
            finally:
                self._dispatcher.drop(pending)

    @contextlib.contextmanager
    def _reserved(self, deadline: float) -> Iterator[None]:
        dispatcher = self._dispatcher
        timeout_s = min(dispatcher.timeout_s, deadline - time.monotonic())
        if not self._free_sequences.acquire(timeout=max(0.0, timeout_s)):
            raise RequestTimeoutError(
                model=dispatcher.specification.name,
                address=dispatcher.connection.address,
                timeout_s=timeout_s,
            )
        try:
            yield
        finally:
            if not dispatcher.is_inherited():
                self._free_sequences.release()

    def _finish(self, pending: PendingRequest, deadline: float) -> Outputs:
        try:
            return self._dispatcher.finish_once(pending)
        except RequestError as error:
            # The model has not received the update, so sending it again does not change the state.
            if not is_unknown_region(error):
                raise
        self._dispatcher.resend(pending, deadline)
        return self._dispatcher.finish_once(pending)


def _source(updates: Updates, specification: ModelSpecification) -> Callable[[], Iterable[Arrays]]:
    """Return a function whose every call returns all updates, by input name."""
    if callable(updates):
        return lambda: map(specification.by_name, updates())
    if isinstance(updates, Iterator):
        return _Kept(map(specification.by_name, updates))
    return lambda: map(specification.by_name, updates)


class _Kept:
    """The updates of an iterator, which can be read again while they are below `KEPT_BYTES`."""

    def __init__(self, updates: Iterator[Arrays]) -> None:
        self._updates = updates
        self._kept: list[Arrays] = []
        self._bytes = 0
        self.is_lost = False

    def __call__(self) -> Iterator[Arrays]:
        yield from self._kept
        for update in self._updates:
            self._keep(update)
            yield update

    def _keep(self, update: Arrays) -> None:
        self._bytes += sum(array.nbytes for array in update.values())
        if self._bytes > KEPT_BYTES:
            self.is_lost = True
            self._kept.clear()
        if not self.is_lost:
            self._kept.append({name: array.copy() for name, array in update.items()})


def _blank(array: NDArray[Any]) -> NDArray[Any]:
    return np.full(array.shape, b"", object) if array.dtype.kind in "OSU" else np.zeros_like(array)
