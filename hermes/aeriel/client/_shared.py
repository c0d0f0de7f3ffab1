"""The shared-memory transport: requests name regions, which contain the tensors."""

from __future__ import annotations

import contextlib
import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from hermes._shared_memory import sweep_regions
from hermes.aeriel.client._carriers import Call, Carrier
from hermes.aeriel.client._failures import is_small_region, is_unknown_region
from hermes.aeriel.client._grpc_carrier import GrpcCarrier
from hermes.aeriel.client._http_carrier import HttpCarrier
from hermes.aeriel.client._inline import InlineTransport, end_when
from hermes.aeriel.client._messages import InputTensor, Span
from hermes.aeriel.client._ring import RingBuffers
from hermes.aeriel.client._slots import (
    RegionPool,
    RegionRequest,
    Slot,
    offsets_of,
    output_key,
    view,
)
from hermes.aeriel.client._specification import Arrays, TensorSpecification
from hermes.aeriel.client._transports import (
    NO_PARAMETERS,
    Outputs,
    Parameters,
    PreparedRequest,
    RowBuffers,
    RowLayout,
    dtypes_of,
)
from hermes.errors import InferenceError, RequestError

logger = logging.getLogger(__name__)


class SharedMemoryTransport:
    """Tensors in shared memory; requests name the regions, over HTTP if the server has that.

    Strings, empty inputs, and outputs whose size is not known in advance are in the requests and
    answers themselves.

    Parameters
    ----------
    plain
        The transport for requests and outputs that cannot be in shared memory.
    http
        The HTTP service of the same server, if it has one that can be used.

    Raises
    ------
    OSError, InferenceError
        There is no shared memory, or the server rejects it.
    """

    name = "shm"

    def __init__(self, plain: InlineTransport, http: HttpCarrier | None) -> None:
        self._plain = plain
        self._connection = plain.connection
        self._specification = plain.specification
        self._carrier: Carrier = GrpcCarrier(self._connection.channel, self._connection.error)
        self._outputs = {
            name: self._specification.outputs[name]
            for name in plain.outputs or self._specification.outputs
        }
        self._free: deque[Slot] = deque()  # for `pack`
        self._rings: deque[RingBuffers] = deque()  # for `buffers`: that of the last stream
        self._regions = RegionPool(self._connection)
        self._too_large: set[str] = set()
        sweep_regions()
        probe = self._regions.open(1)
        try:
            if http is not None and http.knows_region(probe.name):
                self._carrier = http
        finally:
            self._regions.retire(probe)

    def pack(
        self, arrays: Arrays, rows: int, parameters: Parameters = NO_PARAMETERS
    ) -> PreparedRequest:
        """Return a request whose tensors are in a slot of shared memory."""
        shapes = {
            name: a.shape for name, a in arrays.items() if a.dtype.kind not in "OSU" and a.size
        }
        inline = {name: array for name, array in arrays.items() if name not in shapes}
        try:
            slot = self._slot(
                {name: arrays[name].nbytes for name in shapes}, self.output_sizes(rows)
            )
        except (OSError, RequestError) as error:
            logger.debug("no shared memory for a request: %s", error)
            return self._plain.pack(arrays, rows, parameters)
        for name in shapes:
            array = arrays[name]
            view(slot.region.buffer, slot.inputs[name], array.shape, array.dtype)[...] = array
        return RegionRequest(
            rows=rows,
            n_bytes=sum(array.nbytes for array in arrays.values()),
            slot=slot,
            shapes=shapes,
            inline=inline,
            parameters=parameters,
        )

    def buffers(self, layout: RowLayout, n_rows: int, max_in_flight: int) -> RowBuffers:
        """Return a ring of slots in one region, that of the last stream if it fits.

        Without shared memory, it is memory of this process.
        """
        with contextlib.suppress(IndexError):
            ring = self._rings.pop()
            if ring.fits(layout, n_rows):
                return ring
            ring.retire()
        try:
            return RingBuffers(
                self._regions,
                layout=layout,
                dtypes=dtypes_of(self._specification, layout),
                output_sizes=self.output_sizes,
                max_in_flight=max_in_flight,
                n_rows=n_rows,
                when_done=self._keep,
            )
        except (OSError, RequestError) as error:
            logger.debug("no shared memory for a stream: %s", error)
            return self._plain.buffers(layout, n_rows, max_in_flight)

    def send(self, prepared: PreparedRequest, timeout_s: float) -> Call:
        """Send a request."""
        if not isinstance(prepared, RegionRequest):
            return self._plain.send(prepared, timeout_s)
        slot = prepared.slot
        prepared.memory = slot.region.buffer
        prepared.output_spans = slot.outputs if slot.is_free() else {}
        call = self._carrier.send(self._encoded(prepared, slot), timeout_s)
        slot.calls.append(call)
        return call

    def receive(self, prepared: PreparedRequest, call: Call) -> Outputs:
        """Return the outputs, those in shared memory as views of it."""
        if not isinstance(prepared, RegionRequest):
            return self._plain.receive(prepared, call)
        slot = prepared.slot
        try:
            answer = call.answer()
        except InferenceError as error:
            call.cancel()
            self._repair(prepared, error)
            raise
        slot.discard_done()
        return self._plain.arrays(answer, prepared.rows, prepared.memory, prepared.output_spans)

    def drop(self, prepared: PreparedRequest, call: Call | None = None) -> None:
        """Free the slot, which keeps a call that is not done."""
        if not isinstance(prepared, RegionRequest):
            self._plain.drop(prepared, call)
            return
        if call is not None:
            call.cancel()
        if prepared.slot.is_pooled and not self._connection.is_closing:
            self._free.append(prepared.slot)

    def stop(self) -> None:
        """End every wait."""
        self._carrier.close()
        self._plain.stop()

    def close(self) -> None:
        """Unregister the regions as soon as no request uses them, then disconnect."""
        self.stop()
        self._regions.retire_all()
        self._rings.clear()
        self._free.clear()  # a reference to the client must not keep its memory
        end_when(self._regions.unregister, self._plain.close)

    def output_sizes(self, rows: int) -> dict[str, int]:
        """Return the size of each output in bytes for a number of rows, if it is known."""
        leading = rows if self._specification.max_batch_size else 1
        return {
            name: leading * tensor.dtype.itemsize * math.prod(tensor.shape)
            for name, tensor in self._outputs.items()
            if name not in self._too_large and _has_known_size(tensor)
        }

    def _keep(self, ring: RingBuffers) -> None:
        """Keep one ring for the next stream, until the client is closed."""
        if self._rings or self._connection.is_closing or not ring.is_free():
            ring.retire()
        else:
            self._rings.append(ring)
            self._regions.unregister()  # those that were in use until now

    def _slot(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Slot:
        """Return a free slot with room for tensors of these sizes."""
        offsets, size = offsets_of(
            {**inputs, **{output_key(name): n for name, n in outputs.items()}}
        )
        try:
            slot = self._free.pop()  # the slot used last: its memory is in the CPU cache
        except IndexError:
            slot = None
        if slot is None or slot.region.size < size:
            region = self._regions.open(size)
            if slot is not None:
                self._regions.retire(slot.region)
            slot = Slot(region=region, is_pooled=True)
            self._regions.keep([slot])
        slot.inputs = {name: offsets[name] for name in inputs}
        slot.outputs = {name: (offsets[output_key(name)], n) for name, n in outputs.items()}
        return slot

    def _encoded(self, prepared: RegionRequest, slot: Slot) -> Any:
        """Return the encoded request, which most requests of a slot have in common."""
        key = (
            slot.region.name,
            tuple(prepared.shapes.items()),
            tuple(slot.inputs.values()),
            tuple(prepared.output_spans.items()),
            tuple(prepared.parameters.items()),
        )
        if not prepared.inline and key == slot.key:
            return slot.encoded
        inputs = [
            InputTensor(
                name=name,
                datatype=self._specification.inputs[name].datatype,
                shape=shape,
                content=Span(slot.region.name, slot.inputs[name], self._size(name, shape)),
            )
            for name, shape in prepared.shapes.items()
        ]
        inputs += [self._plain.tensor(name, array) for name, array in prepared.inline.items()]
        outputs = {
            name: Span(slot.region.name, *prepared.output_spans[name])
            if name in prepared.output_spans
            else None
            for name in self._outputs
        }
        slot.key = key
        slot.encoded = self._carrier.encode(
            self._plain.message(inputs, outputs, prepared.parameters)
        )
        return slot.encoded

    def _size(self, name: str, shape: Sequence[int]) -> int:
        return self._specification.inputs[name].dtype.itemsize * math.prod(shape)

    def _repair(self, prepared: RegionRequest, error: InferenceError) -> None:
        """Repair a slot after an error, so that the next attempt can succeed."""
        slot = prepared.slot
        if is_unknown_region(error):
            if prepared.memory is not slot.region.buffer:
                return  # another request of this region has renewed it
            try:
                slot.region.renew()
            except (OSError, InferenceError) as refused:  # the next attempt raises an error
                logger.debug("cannot register the region again: %s", refused)
        elif is_small_region(error):
            # An output is larger than the configuration says: request them inline.
            self._too_large.update(slot.outputs)
            slot.outputs = {}


def _has_known_size(tensor: TensorSpecification) -> bool:
    return tensor.datatype != "BYTES" and all(length > 0 for length in tensor.shape)
