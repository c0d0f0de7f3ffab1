"""The interface of a transport, which decides how tensors reach the server and return."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.client._carriers import Call
from hermes.aeriel.client._specification import Arrays, ModelSpecification

# HDF5 reads of 1 MiB and more are nearly as fast as memory; smaller ones are not.
READ_BYTES = 1 << 20
# The largest number of requests in a read: each needs a slot.
READ_REQUESTS = 1024
Outputs = dict[str, "NDArray[Any]"]
Parameters = Mapping[str, "int | bool"]

NO_PARAMETERS: Parameters = {}


@dataclass(frozen=True, kw_only=True)
class RowLayout:
    """How rows become requests.

    Parameters
    ----------
    shapes
        The shape of a row of each input.
    rows_per_request
        The rows of one request; the last one may have fewer.
    with_row_axis
        Whether the tensors of a request have a leading axis of rows; without it, a request is
        one row.
    """

    shapes: Mapping[str, tuple[int, ...]]
    rows_per_request: int
    with_row_axis: bool = True


@dataclass(eq=False)
class PreparedRequest:
    """One request, which can be sent any number of times.

    Parameters
    ----------
    rows, n_bytes
        The rows of its inputs, and their size in bytes.
    """

    rows: int
    n_bytes: int


class RowBuffers(Protocol):
    """Memory into which rows are read, several requests at a time."""

    block_rows: int

    def lend(self, rows: int) -> dict[str, NDArray[Any]]:
        """Return an array of `rows` rows, at most `block_rows`, for each input."""

    def prepared_requests(self, rows: int) -> Iterator[PreparedRequest]:
        """Yield the requests for the rows that were read into the arrays of `lend`."""

    def close(self) -> None:
        """Free the memory."""


class Transport(Protocol):
    """A way for tensors to reach the server and to return."""

    name: str

    def pack(
        self, arrays: Arrays, rows: int, parameters: Parameters = NO_PARAMETERS
    ) -> PreparedRequest:
        """Return a request; the arrays may be changed afterwards."""

    def buffers(self, layout: RowLayout, n_rows: int, max_in_flight: int) -> RowBuffers:
        """Return memory for a stream of `n_rows` rows, with `max_in_flight` requests in flight."""

    def send(self, prepared: PreparedRequest, timeout_s: float) -> Call:
        """Send a request."""

    def receive(self, prepared: PreparedRequest, call: Call) -> Outputs:
        """Return the outputs, which are valid until the prepared request is dropped.

        Raises
        ------
        RequestError, RequestTimeoutError
            The request failed.
        """

    def drop(self, prepared: PreparedRequest, call: Call | None = None) -> None:
        """Release a request; with a call, abandon it before its answer."""

    def stop(self) -> None:
        """End every wait."""

    def close(self) -> None:
        """Free everything, the connection included."""


def dtypes_of(specification: ModelSpecification, layout: RowLayout) -> dict[str, np.dtype[Any]]:
    """Return the dtype of each input that the rows have."""
    return {name: specification.inputs[name].dtype for name in layout.shapes}


def requests_of_a_read(layout: RowLayout, dtypes: Mapping[str, np.dtype[Any]]) -> int:
    """Return the number of requests whose rows are read at once, about `READ_BYTES`."""
    row_bytes = sum(
        dtypes[name].itemsize * math.prod(shape) for name, shape in layout.shapes.items()
    )
    requests = -(-READ_BYTES // max(1, row_bytes * layout.rows_per_request))
    return max(1, min(requests, READ_REQUESTS))
