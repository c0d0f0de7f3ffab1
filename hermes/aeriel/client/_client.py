"""`InferenceClient`: requests to one model of one server, bounded in flight."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from hermes.aeriel.client._choice import TransportName, open_transport
from hermes.aeriel.client._connection import Connection
from hermes.aeriel.client._exchange import Exchange, Exchanges, owned
from hermes.aeriel.client._pace import Pace
from hermes.aeriel.client._sequences import Sequence as UpdateSequence
from hermes.aeriel.client._specification import Arrays, ModelSpecification
from hermes.aeriel.client._statistics import ClientStatistics, Recorder, ServerTimes
from hermes.aeriel.client._transports import Outputs, Parcel, RowLayout
from hermes.aeriel.endpoint import Endpoint
from hermes.errors import ParameterError

# Fills arrays of shape (rows, *shape), one for each input, with the rows from one number to
# another.
ReadRows = Callable[[int, int, Mapping[str, "NDArray[Any]"]], None]


class InferenceClient:
    """Asynchronous inference with one model of one Triton server.

    Parameters
    ----------
    endpoint
        The server: an `Endpoint`, or ``host:port`` or ``unix:PATH`` of its GRPC service.
    model_name
        The model. One that the server has but did not load is asked for.
    model_version
        Its version; by default the server's choice.
    outputs
        The outputs to ask for; all by default.
    max_in_flight
        The most requests under way at once; by default two more than the model has instances.
        `infer` waits for a free place, so memory does not grow with the input.
    transport
        How tensors travel. ``"auto"``: through shared memory where the server is on this host
        and allows it, else as bytes, over HTTP where the endpoint says where that is and the
        server asks for no certificate, else over gRPC. ``"shm"``, ``"http"`` and ``"grpc"`` insist.
    rate_hz
        The most requests to send in a second, to a server that others need too; None for no
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
        is not above 0, or a transport is insisted on that does not work.

    Examples
    --------
    >>> with InferenceClient("localhost:8001", "classifier") as client:  # doctest: +SKIP
    ...     for result in client.stream({"x": batch} for batch in batches):
    ...         print(result["y"])
    """

    specification: ModelSpecification

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
        endpoint = endpoint if isinstance(endpoint, Endpoint) else Endpoint(grpc=endpoint)
        pace = Pace(rate_hz)
        self._connection = Connection(
            endpoint,
            model_name,
            str(model_version),
            timeout_s=timeout_s,
            retry_for_s=retry_for_s,
        )
        try:
            self.specification = self._connection.specification()
            server = self._connection.server()
            self._transport = open_transport(
                transport,
                endpoint,
                self._connection,
                self.specification,
                model_version=str(model_version),
                outputs=_check_outputs(self.specification, outputs),
                server=server,
            )
        except BaseException:
            self._connection.close()
            raise
        self.address = self._connection.address
        self.server_version = server.version
        self.transport = self._transport.name
        self.max_in_flight = max_in_flight or self.specification.n_instances + 2
        self._places = threading.BoundedSemaphore(self.max_in_flight)
        self._sequence_places = threading.Semaphore(self.specification.sequence_places)
        self._recorder = Recorder()
        self._exchanges = Exchanges(
            specification=self.specification,
            connection=self._connection,
            transport=self._transport,
            recorder=self._recorder,
            pace=pace,
            timeout_s=timeout_s,
        )
        self._server_before = self._server_times()
        self._server_after: ServerTimes | None = None
        self._threads = ThreadPoolExecutor(
            self.max_in_flight, thread_name_prefix=f"hermes-client-{model_name}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._threads.shutdown(wait=True)
        self.close()

    def close(self) -> None:
        """Cancel what is under way and end the connection."""
        self._server_after = self._server_after or self._server_times()
        self._connection.stop_retrying()
        self._transport.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._transport.close()

    @property
    def statistics(self) -> ClientStatistics:
        """What this client has done so far, and how long the server took for it.

        The server counts the requests of all its clients: with others, its times are theirs too.
        """
        after = self._server_after or self._server_times()
        return self._recorder.snapshot(server=after.since(self._server_before))

    def infer(self, inputs: Arrays) -> Future[Outputs]:
        """Send one request; wait first if `max_in_flight` are under way.

        Parameters
        ----------
        inputs
            An array for each input: shape ``(rows, *shape)`` and dtype as in `specification`,
            at most ``max_batch_size`` rows. They may be changed when the method has returned.

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
        self.specification.check(inputs)
        self._places.acquire()
        try:
            parcel = self._exchanges.pack(inputs)
            future = self._threads.submit(self._answer, parcel)
        except BaseException:
            self._places.release()
            raise
        future.add_done_callback(lambda _: self._places.release())
        return future

    def stream(
        self, batches: Iterable[Arrays], *, deadline_s: float = math.inf
    ) -> Iterator[Outputs]:
        """Send batch after batch, and give the results in the same order.

        Parameters
        ----------
        batches
            What `infer` takes, one request each. It is read ahead of the results by
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
            Of the first batch that failed; the others under way are cancelled.
        """

        def parcels() -> Iterator[Parcel]:
            for batch in batches:
                yield self._exchanges.pack(batch)

        for outputs in self._stream(parcels(), deadline_s):
            yield owned(outputs)

    def stream_rows(
        self,
        read: ReadRows,
        rows: range,
        layout: RowLayout,
        *,
        deadline_s: float = math.inf,
    ) -> Iterator[Outputs]:
        """Send rows that are read straight to where they travel from, and give the results.

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
            The outputs of each request by name, in order. **They are lent**: the arrays are good
            until the next result is asked for.

        Raises
        ------
        RequestError, RequestTimeoutError
            Of the first request that failed; the others under way are cancelled.
        """
        buffers = self._transport.buffers(layout, self.max_in_flight)

        def parcels() -> Iterator[Parcel]:
            for begin in range(rows.start, rows.stop, buffers.block_rows):
                end = min(begin + buffers.block_rows, rows.stop)
                read(begin, end, buffers.lend(end - begin))
                yield from buffers.parcels(end - begin)

        try:
            yield from self._stream(parcels(), deadline_s)
        finally:
            buffers.close()

    def sequence(self) -> UpdateSequence:
        """Return a sequence of updates, for a model that keeps a state between requests.

        Several may be under way at once, in one thread or in several; as many as the server has
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
        if not self.specification.stateful:
            problem = "keeps no state: its configuration has no sequence_batching"
            raise ParameterError("model_name", f"model {self.specification.name!r} {problem}")
        return UpdateSequence(self._exchanges, self._sequence_places)

    def _stream(self, parcels: Iterator[Parcel], deadline_s: float) -> Iterator[Outputs]:
        """Yield lent outputs."""
        window: deque[Exchange] = deque()
        with self._exchanges.within(deadline_s) as deadline:
            try:
                for parcel in parcels:
                    window.append(self._exchanges.start(parcel, deadline))
                    if len(window) == self.max_in_flight:
                        yield from self._next(window, deadline)
                while window:
                    yield from self._next(window, deadline)
            finally:
                for exchange in window:
                    self._exchanges.drop(exchange)

    def _next(self, window: deque[Exchange], deadline: float) -> Iterator[Outputs]:
        yield self._exchanges.finish(window[0], deadline)
        self._exchanges.drop(window.popleft())

    def _answer(self, parcel: Parcel) -> Outputs:
        exchange = self._exchanges.start(parcel)
        try:
            return owned(self._exchanges.finish(exchange))
        finally:
            self._exchanges.drop(exchange)

    def _server_times(self) -> ServerTimes:
        return ServerTimes.of(self._connection.model_statistics())


def _check_outputs(
    specification: ModelSpecification, outputs: Sequence[str] | None
) -> tuple[str, ...]:
    for name in outputs or ():
        if name not in specification.outputs:
            there = sorted(specification.outputs)
            problem = f"model {specification.name!r} has no output {name!r}; it has {there}"
            raise ParameterError("outputs", problem)
    return tuple(outputs or ())
