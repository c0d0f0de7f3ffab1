"""The inline transport: requests and answers contain their tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.client._answers import NO_SPANS, arrays_of, misfit_of
from hermes.aeriel.client._carriers import CLOSE_WAIT_S, Call, Carrier, wait_until
from hermes.aeriel.client._connection import Connection
from hermes.aeriel.client._grpc_carrier import GrpcCarrier
from hermes.aeriel.client._http_carrier import HttpCarrier
from hermes.aeriel.client._messages import Answer, InputTensor, Message, Span, content_of
from hermes.aeriel.client._specification import Arrays, ModelSpecification
from hermes.aeriel.client._transports import (
    NO_PARAMETERS,
    Outputs,
    Parameters,
    PreparedRequest,
    RowBuffers,
    RowLayout,
    dtypes_of,
    requests_of_a_read,
)
from hermes.errors import InferenceError

# How long a background thread waits, after close(), for abandoned requests.
LINGER_S = 600.0
# Triton's HTTP service is slow for large requests: at 16 MiB it is half as fast as gRPC. By default
# it rejects those of more than 64 MiB.
HTTP_BYTES = 4 << 20


@dataclass(eq=False, kw_only=True)
class InlineRequest(PreparedRequest):
    """A request that contains its tensors.

    Parameters
    ----------
    carrier, encoded
        The carrier, and the request as encoded for it.
    """

    carrier: Carrier
    encoded: Any


class InlineTransport:
    """Requests and answers that contain their tensors.

    Parameters
    ----------
    connection
        The server, and the gRPC channel to it.
    specification, model_version, outputs
        The model, and the outputs to request; none for all.
    grpc
        Carries the requests over that channel.
    http
        The same server's HTTP service, for requests up to `HTTP_BYTES`; None for gRPC only.
    """

    def __init__(
        self,
        connection: Connection,
        specification: ModelSpecification,
        *,
        model_version: str,
        outputs: Sequence[str],
        grpc: GrpcCarrier,
        http: HttpCarrier | None = None,
    ) -> None:
        self.name = "grpc" if http is None else "http"
        self.connection = connection
        self.specification = specification
        self.model_version = model_version
        self.outputs = outputs
        self._grpc = grpc
        self._http = http

    def pack(
        self, arrays: Arrays, rows: int, parameters: Parameters = NO_PARAMETERS
    ) -> PreparedRequest:
        """Return a request that contains its tensors."""
        message = self.message(
            [self.tensor(name, array) for name, array in arrays.items()],
            dict.fromkeys(self.outputs),
            parameters,
        )
        n_bytes = sum(array.nbytes for array in arrays.values())
        carrier = self._grpc if self._http is None or n_bytes > HTTP_BYTES else self._http
        return InlineRequest(
            rows=rows, n_bytes=n_bytes, carrier=carrier, encoded=carrier.encode(message)
        )

    def buffers(self, layout: RowLayout, n_rows: int, max_in_flight: int) -> RowBuffers:  # noqa: ARG002 (Transport has it)
        """Return memory of this process: a request is copied when it is packed."""
        return _InlineBuffers(self, layout)

    def send(self, prepared: PreparedRequest, timeout_s: float) -> Call:
        """Send a request."""
        assert isinstance(prepared, InlineRequest)  # noqa: S101 (for the type checker: its own)
        return prepared.carrier.send(prepared.encoded, timeout_s)

    def receive(self, prepared: PreparedRequest, call: Call) -> Outputs:
        """Return the outputs."""
        try:
            return self.arrays(call.answer(), prepared.rows)
        except InferenceError:
            call.cancel()
            raise

    def arrays(
        self,
        answer: Answer,
        rows: int,
        memory: Any = None,
        spans: Mapping[str, tuple[int, int]] = NO_SPANS,
    ) -> Outputs:
        """Return the outputs of an answer to a request of `rows` rows.

        Parameters
        ----------
        answer, rows
            The answer, and the rows of its request.
        memory, spans
            The shared memory with outputs, and the offset and size of each of them in it.

        Raises
        ------
        RequestError
            The outputs differ from the server's specification.
        """
        outputs = self.outputs or self.specification.outputs
        if problem := misfit_of(answer, self.specification, outputs, rows):
            raise self.connection.error("INTERNAL", problem)
        try:
            return arrays_of(answer, memory, spans)
        except ValueError as error:
            raise self.connection.error("INTERNAL", str(error)) from error

    def drop(self, prepared: PreparedRequest, call: Call | None = None) -> None:  # noqa: ARG002 (Transport has it)
        """Cancel the request, if it is in flight."""
        if call is not None:
            call.cancel()

    def stop(self) -> None:
        """End every wait."""
        self._grpc.close()
        if self._http is not None:
            self._http.close()

    def close(self) -> None:
        """Close the connection as soon as no gRPC call is in flight; closing would cancel it."""
        self.stop()
        end_when(self._grpc.is_quiet, self.connection.close)

    def tensor(self, name: str, array: NDArray[Any]) -> InputTensor:
        """Return an input with its content."""
        return InputTensor(
            name=name,
            datatype=self.specification.inputs[name].datatype,
            shape=array.shape,
            content=content_of(array),
        )

    def message(
        self,
        inputs: Sequence[InputTensor],
        outputs: Mapping[str, Span | None],
        parameters: Parameters,
    ) -> Message:
        """Return a request for the model."""
        return Message(
            model_name=self.specification.name,
            model_version=self.model_version,
            inputs=inputs,
            outputs=outputs,
            parameters=parameters,
        )


class _InlineBuffers:
    def __init__(self, transport: InlineTransport, layout: RowLayout) -> None:
        self._transport = transport
        self._layout = layout
        dtypes = dtypes_of(transport.specification, layout)
        self.block_rows = layout.rows_per_request * requests_of_a_read(layout, dtypes)
        self._shapes = {name: (dtypes[name], shape) for name, shape in layout.shapes.items()}
        self._arrays: dict[str, NDArray[Any]] = {}

    def lend(self, rows: int) -> dict[str, NDArray[Any]]:
        if not self._arrays:
            self._arrays = {
                name: np.empty((rows, *shape), dtype)
                for name, (dtype, shape) in self._shapes.items()
            }
        return {name: array[:rows] for name, array in self._arrays.items()}

    def prepared_requests(self, rows: int) -> Iterator[PreparedRequest]:
        per_request = self._layout.rows_per_request
        for begin in range(0, rows, per_request):
            end = min(begin + per_request, rows)
            arrays = {name: array[begin:end] for name, array in self._arrays.items()}
            if not self._layout.with_row_axis:
                arrays = {name: array[0] for name, array in arrays.items()}
            yield self._transport.pack(arrays, end - begin)

    def close(self) -> None:
        self._arrays = {}


def end_when(is_quiet: Callable[[], bool], end: Callable[[], None]) -> None:
    """Call `end` when `is_quiet` is true: now, else in a background thread."""

    def end_later() -> None:
        if wait_until(is_quiet, LINGER_S):
            end()

    if wait_until(is_quiet, CLOSE_WAIT_S):
        end()
    else:
        threading.Thread(target=end_later, name="hermes-client-end", daemon=True).start()
