"""Slots for the tensors of requests in shared-memory regions, and the regions' lifetimes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.client._carriers import Call
from hermes.aeriel.client._memory import Region, Registry
from hermes.aeriel.client._specification import Arrays
from hermes.aeriel.client._transports import Parameters, PreparedRequest

_ALIGNMENT = 64
_PAGE = 4096


@dataclass(eq=False)
class Slot:
    """The part of a region with the tensors of one request.

    Parameters
    ----------
    region
        The region.
    inputs
        The offset of each input.
    outputs
        The offset and the size of each output in it.
    is_pooled
        Whether it is for requests with arrays, rather than for a stream of rows.
    calls
        The requests that were sent and are not done: the server may still write outputs.
    key, encoded
        The request sent last, encoded, and what it was made from.
    """

    region: Region
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, tuple[int, int]] = field(default_factory=dict)
    is_pooled: bool = False
    calls: list[Call] = field(default_factory=list)
    key: Any = None
    encoded: Any = None

    def is_free(self) -> bool:
        """Return whether the server has finished all requests of this slot."""
        self.discard_done()
        return not self.calls

    def discard_done(self) -> None:
        """Remove the calls that are done, and their answers."""
        for call in list(self.calls):
            if call.is_done():
                with contextlib.suppress(ValueError):  # another thread has removed it
                    self.calls.remove(call)


@dataclass(eq=False, kw_only=True)
class RegionRequest(PreparedRequest):
    """A request whose tensors are in a slot.

    Parameters
    ----------
    slot
        The slot.
    shapes
        The shape of each input in it.
    inline
        The inputs that cannot be in shared memory.
    parameters
        Further parameters of the request.
    memory, output_spans
        The memory of the slot's region when the request was sent, and the offset and size of
        each output that the server puts into it.
    """

    slot: Slot
    shapes: Mapping[str, tuple[int, ...]]
    inline: Arrays = field(default_factory=dict)
    parameters: Parameters = field(default_factory=dict)
    memory: Any = None
    output_spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class RegionPool:
    """The regions of one client, which are unregistered when no request uses them.

    Parameters
    ----------
    registry
        The server.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._slots: dict[Region, Sequence[Slot]] = {}  # of every region in use
        # Regions that are to be unregistered, and the slots that may still be written to.
        self._retired: list[tuple[Region, Sequence[Slot]]] = []
        self._lock = threading.Lock()

    def open(self, size: int) -> Region:
        """Return a new region of at least `size` bytes.

        Raises
        ------
        OSError
            There is not enough shared memory.
        InferenceError
            The server rejects the region.
        """
        region = Region(-(-size // _PAGE) * _PAGE, self._registry)
        self._slots[region] = ()
        return region

    def keep(self, slots: Sequence[Slot]) -> None:
        """Record the slots of a region, which is not unregistered until all of them are free."""
        self._slots[slots[0].region] = slots

    def retire(self, region: Region) -> None:
        """Unregister a region, now or when no request uses it."""
        with self._lock:
            if (slots := self._slots.pop(region, None)) is None:
                return  # `retire_all` has
            self._retired.append((region, slots))
        self.unregister()

    def retire_all(self) -> None:
        """Mark every region for the next call of `unregister`."""
        with self._lock:
            self._retired += self._slots.items()
            self._slots.clear()

    def unregister(self) -> bool:
        """Unregister the retired regions that are not in use; return whether none is left."""
        with self._lock:
            for retired in list(self._retired):
                region, slots = retired
                # Triton can crash when a region in use is unregistered.
                if not all(slot.is_free() for slot in slots):
                    continue
                if not region.close():
                    return False
                self._retired.remove(retired)
            return not self._retired


def view(
    memory: NDArray[Any], offset: int, shape: Sequence[int], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return a part of a region's memory as an array."""
    return np.ndarray(tuple(shape), dtype, memory, offset)


def offsets_of(sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Return the offset of each part in a region, and the total size in bytes."""
    offsets = {}
    end = 0
    for name, size in sizes.items():
        offsets[name] = end
        end += aligned(size)
    return offsets, max(end, 1)


def aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def output_key(name: str) -> str:
    """Return the key of an output among the offsets: an input may have the same name."""
    return f"output {name}"
