"""`InferenceClient`: requests to one model of one server, bounded in flight."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from numpy.typing import NDArray
from typing_extensions import Self

from hermes.aeriel.client._connection import Connection
from hermes.aeriel.client._messages import decode_response, encode_request
from hermes.aeriel.client._specification import Arrays, ModelSpecification
from hermes.aeriel.client._statistics import ClientStatistics, Recorder
from hermes.aeriel.endpoint import Endpoint
from hermes.errors import InferenceError, ParameterError

Outputs = dict[str, "NDArray[Any]"]


class InferenceClient:
    """Asynchronous inference with one model of one Triton server.

    Parameters
    ----------
    endpoint
        The server: an `Endpoint`, or ``host:port`` of its GRPC service.
    model_name
        The model. One that the server has but did not load is asked for.
    model_version
        Its version; by default the server's choice.
    outputs
        The outputs to ask for; all by default.
    max_in_flight
        The most requests under way at once; by default two more than the model has instances.
        `infer` waits for a free place, so memory does not grow with the input.
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
        ``host:port`` of the server's GRPC service.
    server_version
        The version of Triton that answers.

    Raises
    ------
    ServerTimeoutError
        No server answered at the address.
    ModelNotFoundError, ModelLoadError
        The server has no such model, or cannot load it.
    ParameterError
        `outputs` names one that the model does not have, or `max_in_flight` is below 1.

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
        timeout_s: float = 60.0,
        retry_for_s: float = 120.0,
    ) -> None:
        if max_in_flight is not None and max_in_flight < 1:
            raise ParameterError("max_in_flight", f"{max_in_flight} is below 1")
        self._model_version = str(model_version)
        self._connection = Connection(
            endpoint if isinstance(endpoint, Endpoint) else Endpoint(grpc=endpoint),
            model_name,
            self._model_version,
            timeout_s=timeout_s,
            retry_for_s=retry_for_s,
        )
        try:
            self.specification = self._connection.specification()
            self.server_version = self._connection.server_version()
            self._outputs = _check_outputs(self.specification, outputs)
        except BaseException:
            self._connection.close()
            raise
        self.address = self._connection.address
        self.max_in_flight = max_in_flight or self.specification.n_instances + 2
        self._places = threading.BoundedSemaphore(self.max_in_flight)
        self._recorder = Recorder()
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
        self._connection.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    @property
    def statistics(self) -> ClientStatistics:
        """What this client has done so far."""
        return self._recorder.snapshot()

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
        rows = self.specification.check(inputs)
        n_bytes = sum(array.nbytes for array in inputs.values())
        self._places.acquire()
        try:
            request = encode_request(self.specification, self._model_version, inputs, self._outputs)
            future = self._threads.submit(self._answer, request, rows, n_bytes)
        except BaseException:
            self._places.release()
            raise
        future.add_done_callback(lambda _: self._places.release())
        return future

    def stream(self, batches: Iterable[Arrays]) -> Iterator[Outputs]:
        """Send batch after batch, and give the results in the same order.

        Parameters
        ----------
        batches
            What `infer` takes, one request each. It is read ahead of the results by
            `max_in_flight` batches at most.

        Yields
        ------
        dict of numpy.ndarray
            The outputs of each batch by name.

        Raises
        ------
        InputError, RequestError, RequestTimeoutError
            Of the first batch that failed; the others under way are cancelled.
        """
        window: deque[Future[Outputs]] = deque()
        try:
            for batch in batches:
                if len(window) == self.max_in_flight:
                    yield window.popleft().result()
                window.append(self.infer(batch))
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()

    def _answer(self, request: bytes, rows: int, n_bytes: int) -> Outputs:
        started = self._recorder.start()
        try:
            response = self._connection.infer(request, self._recorder.retried)
        except InferenceError:
            self._recorder.failed()
            raise
        outputs = decode_response(response)
        n_bytes += sum(array.nbytes for array in outputs.values())
        self._recorder.answered(started, rows, n_bytes)
        return outputs


def _check_outputs(
    specification: ModelSpecification, outputs: Sequence[str] | None
) -> tuple[str, ...]:
    for name in outputs or ():
        if name not in specification.outputs:
            there = sorted(specification.outputs)
            problem = f"model {specification.name!r} has no output {name!r}; it has {there}"
            raise ParameterError("outputs", problem)
    return tuple(outputs or ())
