"""Shared-memory regions, which a server on this host can map."""

from __future__ import annotations

import mmap
import os
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hermes._processes import SHARED_MEMORY
from hermes._shared_memory import new_region_name


class Registry(Protocol):
    """A server with which regions are registered."""

    def register(self, name: str, size: int) -> None:
        """Register the file ``/dev/shm/NAME`` as a region of the server."""

    def unregister(self, name: str) -> bool:
        """Unregister a region; return False if that has to be tried again."""


class Region:
    """A shared-memory region that is registered with a server.

    Triton maps a region when it is registered. Its file in ``/dev/shm`` is removed right after
    that, so nothing remains of it however the two processes end.

    Parameters
    ----------
    size
        In bytes.
    registry
        The server.

    Attributes
    ----------
    name
        Its name on the server; `renew` changes it.
    buffer
        The memory, uint8 of shape ``(size,)``.

    Raises
    ------
    OSError
        There is not enough shared memory.
    InferenceError
        The server rejects the region.
    """

    name: str
    buffer: NDArray[Any]

    def __init__(self, size: int, registry: Registry) -> None:
        self.size = size
        self._registry = registry
        self._open()

    def renew(self) -> None:
        """Replace the region by a new one with the same content, for a restarted server."""
        before = self.buffer
        self._open()
        self.buffer[:] = before

    def close(self) -> bool:
        """Unregister the region; return False if that has to be tried again.

        No request in flight may use it.
        """
        return self._registry.unregister(self.name)

    def _open(self) -> None:
        name = new_region_name()
        path = SHARED_MEMORY / name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Reserve the memory: otherwise, where it runs out, access to it kills the process.
            os.posix_fallocate(descriptor, 0, self.size)
            memory = mmap.mmap(descriptor, self.size)
            self._registry.register(name, self.size)
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)
        self.name = name
        self.buffer = np.frombuffer(memory, np.uint8)
