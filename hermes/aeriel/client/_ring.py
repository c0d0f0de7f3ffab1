"""Buffers in shared memory, into which rows are read directly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.client._slots import (
    RegionPool,
    RegionRequest,
    Slot,
    aligned,
    offsets_of,
    output_key,
    view,
)
from hermes.aeriel.client._transports import PreparedRequest, RowLayout, requests_of_a_read


class RingBuffers:
    """A ring of slots in one region; the inputs of successive slots are contiguous.

    Parameters
    ----------
    regions
        The pool that the region is from.
    layout, dtypes
        How the rows become requests, and the dtype of each input.
    output_sizes
        Returns, for a number of rows of a request, the size in bytes of each output that is put
        into the region.
    max_in_flight
        The largest number of requests in flight.
    n_rows
        The rows of the stream, which limit the size of the ring.
    when_done
        Called with the ring when its stream has ended; another stream may use it then.
    """

    def __init__(
        self,
        regions: RegionPool,
        *,
        layout: RowLayout,
        dtypes: Mapping[str, np.dtype[Any]],
        output_sizes: Callable[[int], Mapping[str, int]],
        max_in_flight: int,
        n_rows: int,
        when_done: Callable[[RingBuffers], None],
    ) -> None:
        self._regions = regions
        self._layout = layout
        self._dtypes = dtypes
        self._when_done = when_done
        # A power of two, so that streams of similar lengths share a ring.
        needed = 1 << max(0, n_rows - 1).bit_length()
        self._per_request = per_request = min(layout.rows_per_request, needed)
        n_requests = -(-needed // per_request)
        per_read = min(requests_of_a_read(layout, self._dtypes), n_requests)
        self.block_rows = per_read * per_request
        # One block is filled while the requests of the others are in flight.
        most_blocks = 1 + -(-max_in_flight // per_read)
        self._blocks = min(most_blocks, -(-n_requests // per_read))
        self._most_rows = math.inf if self._blocks == most_blocks else needed
        slots = self._blocks * per_read
        inputs = {
            name: per_request * dtype.itemsize * math.prod(layout.shapes[name])
            for name, dtype in self._dtypes.items()
            if dtype.kind != "O" and 0 not in layout.shapes[name]
        }
        outputs = output_sizes(per_request)
        offsets, size = offsets_of(
            {
                **{name: slots * n for name, n in inputs.items()},
                **{output_key(name): slots * aligned(n) for name, n in outputs.items()},
            }
        )
        self._region = regions.open(size)
        self._offsets = offsets
        self._slots = [
            Slot(
                region=self._region,
                inputs={name: offsets[name] + index * n for name, n in inputs.items()},
                outputs={
                    name: (offsets[output_key(name)] + index * aligned(n), n)
                    for name, n in outputs.items()
                },
            )
            for index in range(slots)
        ]
        regions.keep(self._slots)
        self._next = 0
        self._inline: dict[str, NDArray[Any]] = {}

    def fits(self, layout: RowLayout, n_rows: int) -> bool:
        """Return whether a stream of `n_rows` rows with this layout can use this ring."""
        return layout == self._layout and n_rows <= self._most_rows

    def is_free(self) -> bool:
        """Return whether the server has finished all requests of this ring."""
        return all(slot.is_free() for slot in self._slots)

    def lend(self, rows: int) -> dict[str, NDArray[Any]]:
        first = self._next * self.block_rows
        lent = {}
        for name, dtype in self._dtypes.items():
            shape = self._layout.shapes[name]
            if name not in self._offsets:
                lent[name] = self._inline[name] = np.empty((rows, *shape), dtype)
                continue
            offset = self._offsets[name] + first * dtype.itemsize * math.prod(shape)
            lent[name] = view(self._region.buffer, offset, (rows, *shape), dtype)
        return lent

    def prepared_requests(self, rows: int) -> Iterator[PreparedRequest]:
        layout, per_request = self._layout, self._per_request
        slot_number = self._next * (self.block_rows // per_request)
        self._next = (self._next + 1) % self._blocks
        row_bytes = sum(
            dtype.itemsize * math.prod(layout.shapes[name]) for name, dtype in self._dtypes.items()
        )
        for begin in range(0, rows, per_request):
            n_rows = min(per_request, rows - begin)
            axis = (n_rows,) if layout.with_row_axis else ()
            inline = {name: array[begin : begin + n_rows] for name, array in self._inline.items()}
            if not layout.with_row_axis:
                inline = {name: array[0] for name, array in inline.items()}
            slot = self._slots[slot_number + begin // per_request]
            yield RegionRequest(
                rows=n_rows,
                n_bytes=n_rows * row_bytes,
                slot=slot,
                shapes={name: (*axis, *layout.shapes[name]) for name in slot.inputs},
                inline=inline,
            )

    def close(self) -> None:
        self._when_done(self)

    def retire(self) -> None:
        """Release the region."""
        self._regions.retire(self._region)
