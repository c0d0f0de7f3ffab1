"""Tensors in shared memory, which requests only name."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.aeriel._regions import sweep_regions
from hermes.aeriel.client._connection import is_small_region, is_unknown_region
from hermes.aeriel.client._grpc_wire import PatientGrpcWire
from hermes.aeriel.client._http_wire import HttpWire
from hermes.aeriel.client._memory import Region
from hermes.aeriel.client._messages import InputTensor, Span
from hermes.aeriel.client._specification import Arrays, TensorSpecification
from hermes.aeriel.client._transports import (
    NO_PARAMETERS,
    InlineTransport,
    Outputs,
    Parameters,
    Parcel,
    RowBuffers,
    RowLayout,
    dtypes_of,
    end_when,
    requests_of_a_read,
)
from hermes.aeriel.client._wires import Call, Wire
from hermes.errors import InferenceError, RequestError

logger = logging.getLogger(__name__)

_ALIGNMENT = 64
_PAGE = 4096


@dataclass(eq=False)
class Slot:
    """Where the tensors of one request lie in a region.

    Parameters
    ----------
    region
        The region.
    inputs
        The offset of each input.
    outputs
        The offset and the size of each output that has a place.
    is_pooled
        Whether it is for requests with arrays, rather than for a stream of rows.
    calls
        What was sent from here and not answered. Until it is done the server may write outputs.
    key, encoded
        The request sent last, and what it was made from.
    """

    region: Region
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, tuple[int, int]] = field(default_factory=dict)
    is_pooled: bool = False
    calls: list[Call] = field(default_factory=list)
    key: Any = None
    encoded: Any = None

    def is_free(self) -> bool:
        """Tell whether the server has done with everything that was sent from here."""
        self.settle()
        return not self.calls

    def settle(self) -> None:
        """Forget the calls that are done, and their answers with them."""
        for call in list(self.calls):
            if call.is_done():
                with contextlib.suppress(ValueError):  # another thread has found it too
                    self.calls.remove(call)


@dataclass(eq=False, kw_only=True)
class PlacedParcel(Parcel):
    """A request whose tensors lie in a slot.

    Parameters
    ----------
    slot
        The slot.
    shapes
        The shape of each input in it.
    inline
        The inputs that cannot lie there.
    parameters
        What else the server is to know.
    memory, placed
        The memory of the slot's region when the request was sent, and the offsets of the outputs
        that are to be put there.
    """

    slot: Slot
    shapes: Mapping[str, tuple[int, ...]]
    inline: Arrays = field(default_factory=dict)
    parameters: Parameters = field(default_factory=dict)
    memory: Any = None
    placed: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class SharedMemoryTransport:
    """Tensors in shared memory; requests name them, over HTTP if the server has that.

    Strings, empty inputs, and outputs whose length is not known before travel in the requests and
    answers.

    Parameters
    ----------
    plain
        What carries the requests without HTTP, and with the connection.
    http
        The HTTP service of the same server, if it has one that can be used.

    Raises
    ------
    OSError, InferenceError
        There is no shared memory, or the server refuses it.
    """

    name = "shm"

    def __init__(self, plain: InlineTransport, http: HttpWire | None) -> None:
        self._plain = plain
        self._connection = plain.connection
        self._specification = plain.specification
        self._wire: Wire = PatientGrpcWire(self._connection.channel, self._connection.error)
        self._outputs = {
            name: self._specification.outputs[name]
            for name in plain.outputs or self._specification.outputs
        }
        self._free: deque[Slot] = deque()  # of requests with arrays
        self._slots: dict[Region, Sequence[Slot]] = {}  # of every region in use
        # Regions that are to be unregistered, and the slots that may still be written to.
        self._retired: list[tuple[Region, Sequence[Slot]]] = []
        self._retiring = threading.Lock()
        self._misjudged: set[str] = set()
        sweep_regions()
        probe = Region(_PAGE, self._connection)
        try:
            if http is not None and http.knows_region(probe.name):
                self._wire = http
        finally:
            self.keep(probe, ())
            self.retire(probe)

    def pack(self, arrays: Arrays, rows: int, parameters: Parameters = NO_PARAMETERS) -> Parcel:
        """Return a request whose tensors lie in a slot of shared memory."""
        shapes = {
            name: a.shape for name, a in arrays.items() if a.dtype.kind not in "OSU" and a.size
        }
        inline = {name: array for name, array in arrays.items() if name not in shapes}
        try:
            slot = self._slot(
                {name: arrays[name].nbytes for name in shapes}, self.output_sizes(rows)
            )
        except (OSError, RequestError) as error:
            logger.debug("this request goes without shared memory: %s", error)
            return self._plain.pack(arrays, rows, parameters)
        for name in shapes:
            array = arrays[name]
            view(slot.region.buffer, slot.inputs[name], array.shape, array.dtype)[...] = array
        return PlacedParcel(
            rows=rows,
            n_bytes=sum(array.nbytes for array in arrays.values()),
            slot=slot,
            shapes=shapes,
            inline=inline,
            parameters=parameters,
        )

    def buffers(self, layout: RowLayout, max_in_flight: int) -> RowBuffers:
        """Return a ring of slots in one region; plain memory where there is no such region."""
        try:
            return _RingBuffers(self, layout, max_in_flight)
        except (OSError, RequestError) as error:
            logger.debug("this stream goes without shared memory: %s", error)
            return self._plain.buffers(layout, max_in_flight)

    def send(self, parcel: Parcel, timeout_s: float) -> Call:
        """Send a request."""
        if not isinstance(parcel, PlacedParcel):
            return self._plain.send(parcel, timeout_s)
        slot = parcel.slot
        parcel.memory = slot.region.buffer
        parcel.placed = slot.outputs if slot.is_free() else {}
        call = self._wire.send(self._encoded(parcel, slot), timeout_s)
        slot.calls.append(call)
        return call

    def receive(self, parcel: Parcel, call: Call) -> Outputs:
        """Return the outputs, those in shared memory as views of it."""
        if not isinstance(parcel, PlacedParcel):
            return self._plain.receive(parcel, call)
        slot = parcel.slot
        try:
            answer = call.answer()
        except InferenceError as error:
            self._repair(slot, error)
            raise
        slot.settle()
        outputs = {}
        for name, tensor in answer.items():
            if name in parcel.placed:
                dtype = self._outputs[name].dtype
                outputs[name] = view(parcel.memory, parcel.placed[name][0], tensor.shape, dtype)
            else:
                outputs[name] = tensor.array()
        return outputs

    def drop(self, parcel: Parcel, call: Call | None = None) -> None:
        """Free the slot, which remembers a call that is not done."""
        if not isinstance(parcel, PlacedParcel):
            self._plain.drop(parcel, call)
        elif parcel.slot.is_pooled:
            self._free.append(parcel.slot)

    def stop(self) -> None:
        """End every wait."""
        self._wire.close()
        self._plain.stop()

    def close(self) -> None:
        """Unregister the regions as soon as nothing is in flight in them, then disconnect."""
        self.stop()
        with self._retiring:
            self._retired += self._slots.items()
            self._slots.clear()
        end_when(self._unregister, self._plain.close)

    def region(self, size: int) -> Region:
        """Return a new region of the server's."""
        return Region(size, self._connection)

    def keep(self, region: Region, slots: Sequence[Slot]) -> None:
        """Know the slots of a region until it is retired, when the client ends at the latest."""
        self._slots[region] = slots

    def retire(self, region: Region) -> None:
        """Unregister a region, now or when the server has done with it."""
        with self._retiring:
            if (slots := self._slots.pop(region, None)) is None:
                return  # the client was closed
            self._retired.append((region, slots))
        self._unregister()

    def output_sizes(self, rows: int) -> dict[str, int]:
        """Return the bytes of each output for so many rows, where that is known."""
        leading = rows if self._specification.max_batch_size else 1
        return {
            name: leading * tensor.dtype.itemsize * math.prod(tensor.shape)
            for name, tensor in self._outputs.items()
            if name not in self._misjudged and _has_known_size(tensor)
        }

    def dtypes(self, layout: RowLayout) -> dict[str, np.dtype[Any]]:
        """Return the dtype of each input that the rows have."""
        return dtypes_of(self._specification, layout)

    def _slot(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Slot:
        """Return a free slot with room for tensors of these sizes."""
        places, size = _places({**inputs, **{_output(name): n for name, n in outputs.items()}})
        try:
            slot = self._free.pop()  # the one used last: its memory is in the cache
        except IndexError:
            slot = None
        if slot is None or slot.region.size < size:
            region = self.region(-(-size // _PAGE) * _PAGE)
            if slot is not None:
                self.retire(slot.region)
            slot = Slot(region=region, is_pooled=True)
            self.keep(region, [slot])
        slot.inputs = {name: places[name] for name in inputs}
        slot.outputs = {name: (places[_output(name)], n) for name, n in outputs.items()}
        return slot

    def _encoded(self, parcel: PlacedParcel, slot: Slot) -> Any:
        """Return the request; most requests of a slot are the same but for their content."""
        key = (
            slot.region.name,
            tuple(parcel.shapes.items()),
            tuple(slot.inputs.values()),
            tuple(parcel.placed.items()),
            tuple(parcel.parameters.items()),
        )
        if not parcel.inline and key == slot.key:
            return slot.encoded
        inputs = [
            InputTensor(
                name=name,
                datatype=self._specification.inputs[name].datatype,
                shape=shape,
                content=Span(slot.region.name, slot.inputs[name], self._size(name, shape)),
            )
            for name, shape in parcel.shapes.items()
        ]
        inputs += [self._plain.tensor(name, array) for name, array in parcel.inline.items()]
        outputs = {
            name: Span(slot.region.name, *parcel.placed[name]) if name in parcel.placed else None
            for name in self._outputs
        }
        slot.key = key
        slot.encoded = self._wire.encode(self._plain.message(inputs, outputs, parcel.parameters))
        return slot.encoded

    def _size(self, name: str, shape: Sequence[int]) -> int:
        return self._specification.inputs[name].dtype.itemsize * math.prod(shape)

    def _repair(self, slot: Slot, error: InferenceError) -> None:
        """Do what lets the next attempt succeed."""
        if is_unknown_region(error):
            try:
                slot.region.renew()
            except (OSError, InferenceError) as refused:  # the next attempt fails in its own words
                logger.debug("the region could not be registered again: %s", refused)
        elif is_small_region(error):
            # Some output is larger than the configuration says: let them all come by the wire.
            self._misjudged.update(slot.outputs)
            slot.outputs = {}

    def _unregister(self) -> bool:
        """Unregister the retired regions that the server has done with; tell whether all are."""
        with self._retiring:
            for retired in list(self._retired):
                region, slots = retired
                # A server whose regions vanish under its hands may crash.
                if not all(slot.is_free() for slot in slots):
                    continue
                if not region.close():
                    return False
                self._retired.remove(retired)
            return not self._retired


class _RingBuffers:
    """A ring of slots in one region; the inputs of successive slots lie behind each other."""

    def __init__(
        self, transport: SharedMemoryTransport, layout: RowLayout, max_in_flight: int
    ) -> None:
        self._transport = transport
        self._layout = layout
        self._dtypes = transport.dtypes(layout)
        per_read = requests_of_a_read(layout, self._dtypes)
        self.block_rows = per_read * layout.rows_per_request
        # One block is read into while the requests of the others are away.
        self._blocks = 1 + -(-max_in_flight // per_read)
        slots = self._blocks * per_read
        self._rows = self._blocks * self.block_rows
        inputs = {
            name: layout.rows_per_request * dtype.itemsize * math.prod(layout.shapes[name])
            for name, dtype in self._dtypes.items()
            if dtype.kind != "O" and 0 not in layout.shapes[name]
        }
        outputs = transport.output_sizes(layout.rows_per_request)
        places, size = _places(
            {
                **{name: slots * n for name, n in inputs.items()},
                **{_output(name): slots * _aligned(n) for name, n in outputs.items()},
            }
        )
        self._region = transport.region(-(-size // _PAGE) * _PAGE)
        self._places = places
        self._slots = [
            Slot(
                region=self._region,
                inputs={name: places[name] + index * n for name, n in inputs.items()},
                outputs={
                    name: (places[_output(name)] + index * _aligned(n), n)
                    for name, n in outputs.items()
                },
            )
            for index in range(slots)
        ]
        transport.keep(self._region, self._slots)
        self._next = 0
        self._inline: dict[str, NDArray[Any]] = {}

    def lend(self, rows: int) -> dict[str, NDArray[Any]]:
        first = self._next * self.block_rows
        lent = {}
        for name, dtype in self._dtypes.items():
            shape = self._layout.shapes[name]
            if name not in self._places:
                lent[name] = self._inline[name] = np.empty((rows, *shape), dtype)
                continue
            offset = self._places[name] + first * dtype.itemsize * math.prod(shape)
            lent[name] = view(self._region.buffer, offset, (rows, *shape), dtype)
        return lent

    def parcels(self, rows: int) -> Iterator[Parcel]:
        layout = self._layout
        per_request = layout.rows_per_request
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
            yield PlacedParcel(
                rows=n_rows,
                n_bytes=n_rows * row_bytes,
                slot=slot,
                shapes={name: (*axis, *layout.shapes[name]) for name in slot.inputs},
                inline=inline,
            )

    def close(self) -> None:
        self._transport.retire(self._region)


def view(
    memory: NDArray[Any], offset: int, shape: Sequence[int], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return a piece of a region's memory as an array."""
    return np.ndarray(tuple(shape), dtype, memory, offset)


def _has_known_size(tensor: TensorSpecification) -> bool:
    return tensor.datatype != "BYTES" and all(length > 0 for length in tensor.shape)


def _places(sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Return an offset for each piece of memory, and the size of them all."""
    places = {}
    end = 0
    for name, size in sizes.items():
        places[name] = end
        end += _aligned(size)
    return places, max(end, 1)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _output(name: str) -> str:
    """Return the name of an output among the places: an input may have the same."""
    return f"output {name}"
