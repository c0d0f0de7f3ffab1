"""`InferenceClient`: requests to one model of one server, bounded in flight."""

# Over 300 lines: one public class, half of it documentation.
from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from hermes.aeriel._ml4gw import old_keywords
from hermes.aeriel._options import LATEST, TransportName
from hermes.aeriel.client._dispatcher import Dispatcher, PendingRequest, owned
from hermes.aeriel.client._forks import Process, this_process
from hermes.aeriel.client._sequences import Sequence as UpdateSequence
from hermes.aeriel.client._session import Session, Settings
from hermes.aeriel.client._specification import Arrays, ModelSpecification
from hermes.aeriel.client._statistics import ClientStatistics
from hermes.aeriel.client._transports import Outputs, PreparedRequest, RowLayout
from hermes.aeriel.endpoint import Endpoint
from hermes.errors import ParameterError, RequestError

# Fills arrays of shape (rows, *shape), one for each input, with the rows from one number to
# another.
ReadRows = Callable[[int, int, Mapping[str, "NDArray[Any]"]], None]


class InferenceClient:
    """Asynchronous inference with one model of one Triton server.

    Threads may share a client. A process that was forked from one with a client (a ``Pool``, a
    ``DataLoader``) may use it too. With its first request it opens a connection of its own, for
    which `max_in_flight` and `rate_hz` apply separately. It cannot continue a stream or sequence of
    its parent.

    Parameters
    ----------
    endpoint
        The server: an `Endpoint`, or ``host:port`` or ``unix:PATH`` of its GRPC service.
    model_name
        The model. If the server has not loaded it, the client requests that.
    model_version
        Its version; by default, and as -1, the server's choice, which is the latest.
    outputs
        The outputs to ask for; all by default.
    max_in_flight
        The largest number of requests in flight; by default two more than the model has instances.
        `infer` waits while so many are in flight, so memory does not grow with the input.
    transport
        How tensors travel. ``"auto"``: through shared memory where the server is on this host
        and allows it, else as bytes, over HTTP where the endpoint says where that is and the
        server requires no certificate, else over gRPC. With ``"shm"``, ``"http"`` or ``"grpc"`` it
        is an error if that transport does not work.
    rate_hz
        The largest number of requests per second, for a server that others use too; None for no
        limit.
    timeout_s
        Seconds that one attempt at a request may take.
    retry_for_s
        Seconds within which a request that was lost (a restarted server, a broken connection, a
        server that does not answer) is tried again, with backoff and jitter. Also the time to
        wait for the server at first.

    Attributes
    ----------
    specification
        The model's inputs and outputs, as the server describes them.
    address
        Where the server's GRPC service is: ``host:port`` or ``unix:PATH``.
    outputs
        The names of the outputs that are asked for.
    transport
        How tensors travel: ``"shm"``, ``"http"`` or ``"grpc"``.
    server_version
        The version of Triton that answers.

    Raises
    ------
    ServerTimeoutError
        No server answered at the address.
    ModelNotFoundError, ModelLoadError
        The server has no such model, or cannot load it.
    ParameterError
        `outputs` names one that the model does not have, `max_in_flight` is below 1, `rate_hz`
        is not above 0, or the chosen `transport` does not work.

    Examples
    --------
    >>> with InferenceClient("localhost:8001", "classifier") as client:  # doctest: +SKIP
    ...     for result in client.stream({"x": batch} for batch in batches):
    ...         print(result["y"])
    """

    specification: ModelSpecification

    @old_keywords(
        address="the server is endpoint, or the first argument",
        batch_size="a request has the rows of its arrays, up to the model's max_batch_size",
        callback="infer returns a future: infer(x).add_done_callback(…); or use stream",
        profile="statistics has latencies, of all requests",
    )
    def __init__(
        self,
        endpoint: str | Endpoint,
        model_name: str,
        model_version: str | int = "",
        *,
        outputs: Sequence[str] | None = None,
        max_in_flight: int | None = None,
        transport: TransportName = "auto",
        rate_hz: float | None = None,
        timeout_s: float = 60.0,
        retry_for_s: float = 120.0,
    ) -> None:
        if max_in_flight is not None and max_in_flight < 1:
            raise ParameterError("max_in_flight", f"{max_in_flight} is below 1")
        self._settings = Settings(
            endpoint=endpoint if isinstance(endpoint, Endpoint) else Endpoint(grpc=endpoint),
            model_name=model_name,
            model_version="" if str(model_version) == LATEST else str(model_version),
            outputs=tuple(outputs or ()),
            max_in_flight=max_in_flight,
            transport=transport,
            rate_hz=rate_hz,
            timeout_s=timeout_s,
            retry_for_s=retry_for_s,
        )
        self.address = self._settings.endpoint.grpc
        self._is_closed = False
        # A fork also has the sessions of its parent, and does not use them.
        self._sessions: dict[Process, Session] = {}
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        session = self._sessions.get(this_process())
        if error is None and session is not None:
            session.threads.shutdown(wait=True)
        self.close()

    def close(self) -> None:
        """Cancel the requests in flight and end the connection."""
        self._is_closed = True
        session = self._sessions.get(this_process())
        if session is not None:
            session.close()

    @property
    def statistics(self) -> ClientStatistics:
        """What this client has done in this process, and the server's times for it.

        Both count from its opening, or from `restart_statistics`. The server's times include the
        requests of its other clients.
        """
        session = self._sessions.get(this_process())
        if session is None:
            return ClientStatistics()
        return session.recorder.snapshot(server=session.server_times())

    def restart_statistics(self, server_every_s: float = 0.0) -> None:
        """Start `statistics` again, for the next of many files; no request may be in flight.

        Parameters
        ----------
        server_every_s
            How many seconds have to pass before the server is asked for its times again, which
            takes as long as a small request. Until then they are those of 0 requests; then those
            of all since it was asked last.
        """
        self._session.restart_statistics(server_every_s)

    @old_keywords(
        x="the arrays are inputs, or the first argument",
        request_id="infer returns a future for the request",
        sequence_id="use client.sequence(), which has an id of its own",
        sequence_start="use client.sequence().stream(updates), which begins the sequence",
        sequence_end="use client.sequence().stream(updates), which ends the sequence",
    )
    def infer(self, inputs: Arrays | NDArray[Any]) -> Future[Outputs]:
        """Send one request; wait first if `max_in_flight` are in flight.

        Parameters
        ----------
        inputs
            An array for each input: shape ``(rows, *shape)`` and dtype as in `specification`,
            at most ``max_batch_size`` rows; or the array alone, for a model with one input. They
            may be changed when the method has returned.

        Returns
        -------
        concurrent.futures.Future
            The outputs by name, read-only arrays of shape ``(rows, *shape)``; or a `RequestError`
            or `RequestTimeoutError`.

        Raises
        ------
        InputError
            The arrays do not fit the model; nothing was sent.
        """
        session = self._session
        inputs = session.specification.by_name(inputs)
        session.free_requests.acquire()
        try:
            prepared = session.dispatcher.pack(inputs)
            future = session.threads.submit(_answer, session.dispatcher, prepared)
        except BaseException:
            session.free_requests.release()
            raise
        future.add_done_callback(lambda _: session.free_requests.release())
        return future

    def stream(
        self, batches: Iterable[Arrays | NDArray[Any]], *, deadline_s: float = math.inf
    ) -> Iterator[Outputs]:
        """Send batch after batch, and yield the results in the same order.

        Parameters
        ----------
        batches
            The arguments of `infer`, one for each request. They are read ahead of the results, by
            `max_in_flight` batches at most.
        deadline_s
            Seconds that the whole stream may take.

        Yields
        ------
        dict of numpy.ndarray
            The outputs of each batch by name.

        Raises
        ------
        InputError, RequestError, RequestTimeoutError
            Of the first batch that failed; the others in flight are cancelled.
        """
        dispatcher = self._session.dispatcher

        def prepared_requests() -> Iterator[PreparedRequest]:
            for batch in batches:
                yield dispatcher.pack(dispatcher.specification.by_name(batch))

        for outputs in _stream(dispatcher, prepared_requests(), self.max_in_flight, deadline_s):
            yield owned(outputs)

    def stream_rows(
        self,
        read: ReadRows,
        rows: range,
        layout: RowLayout,
        *,
        deadline_s: float = math.inf,
    ) -> Iterator[Outputs]:
        """Send rows that are read directly into the transport's memory, and yield the results.

        Parameters
        ----------
        read
            ``read(begin, end, arrays)`` fills an array for each input, of shape
            ``(end - begin, *shape)``, with these rows; for several requests at a time, so that
            reads are large.
        rows
            The rows to send; its step is 1.
        layout
            How they become requests.
        deadline_s
            Seconds that the whole stream may take.

        Yields
        ------
        dict of numpy.ndarray
            The outputs of each request by name, in order. **The arrays are valid only until
            the next result** is requested.

        Raises
        ------
        RequestError, RequestTimeoutError
            Of the first request that failed; the others in flight are cancelled.
        """
        dispatcher = self._session.dispatcher
        dispatcher.check_usable()
        buffers = dispatcher.transport.buffers(layout, len(rows), self.max_in_flight)

        def prepared_requests() -> Iterator[PreparedRequest]:
            for begin in range(rows.start, rows.stop, buffers.block_rows):
                end = min(begin + buffers.block_rows, rows.stop)
                read(begin, end, buffers.lend(end - begin))
                yield from buffers.prepared_requests(end - begin)

        try:
            yield from _stream(dispatcher, prepared_requests(), self.max_in_flight, deadline_s)
        finally:
            if not dispatcher.is_inherited():
                buffers.close()

    def sequence(self) -> UpdateSequence:
        """Return a sequence of updates, for a model that keeps a state between requests.

        Several may be open at once, in one thread or in several; as many as the server has
        places for.

        Raises
        ------
        ParameterError
            The model has no sequence batcher.

        Examples
        --------
        >>> with client.sequence() as sequence:  # doctest: +SKIP
        ...     for result in sequence.stream(updates):
        ...         print(result["y"])
        """
        session = self._session
        if not session.specification.stateful:
            problem = "keeps no state: its configuration has no sequence_batching"
            raise ParameterError("model_name", f"model {session.specification.name!r} {problem}")
        return UpdateSequence(session.dispatcher, session.free_sequences)

    @property
    def _session(self) -> Session:
        """The session of this process, which is opened for the first request after a fork."""
        return self._sessions.get(this_process()) or self._open()

    def _open(self) -> Session:
        if self._is_closed:
            raise RequestError(
                model=self._settings.model_name,
                address=self.address,
                status="CANCELLED",
                reason="the client was closed",
            )
        opened = Session(self._settings)
        # Another thread of a fork may have been first.
        session = self._sessions.setdefault(this_process(), opened)
        if session is not opened:
            opened.close()
        self.specification = session.specification
        self.outputs = self._settings.outputs or tuple(session.specification.outputs)
        self.server_version = session.server_version
        self.transport = session.transport.name
        self.max_in_flight = session.max_in_flight
        return session


def _stream(
    dispatcher: Dispatcher,
    prepared_requests: Iterator[PreparedRequest],
    max_in_flight: int,
    deadline_s: float,
) -> Iterator[Outputs]:
    """Yield outputs, which are valid until the next ones are requested."""
    window: deque[PendingRequest] = deque()

    def first() -> Iterator[Outputs]:
        yield dispatcher.finish(window[0], deadline)
        dispatcher.check_usable()  # the caller may have forked
        dispatcher.drop(window.popleft())

    with dispatcher.within(deadline_s) as deadline:
        try:
            for prepared in prepared_requests:
                window.append(dispatcher.start(prepared, deadline))
                if len(window) == max_in_flight:
                    yield from first()
            while window:
                yield from first()
        finally:
            for pending in window:
                dispatcher.drop(pending)


def _answer(dispatcher: Dispatcher, prepared: PreparedRequest) -> Outputs:
    pending = dispatcher.start(prepared)
    try:
        return owned(dispatcher.finish(pending))
    finally:
        dispatcher.drop(pending)
