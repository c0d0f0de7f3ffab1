"""What tasks find out that they need while they run: Luigi's dynamic dependencies."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import luigi
from luigi.task_register import load_task

logger = logging.getLogger(__name__)


class SharedPairs:
    """Pairs of texts that a driver and all its workers write and read.

    Luigi forks each worker from the driver, so a worker does not see what another one has found.
    They share a file without a name, which the kernel removes with the last of them.

    Parameters
    ----------
    name
        The name of the file in ``/proc``.
    """

    def __init__(self, name: str) -> None:
        self._file = os.memfd_create(name)
        fcntl.fcntl(self._file, fcntl.F_SETFL, os.O_APPEND)

    def add(self, first: str, seconds: Sequence[str]) -> None:
        """Add pairs; the texts have no white space."""
        os.write(self._file, "".join(f"{first} {each}\n" for each in seconds).encode())

    def read(self) -> list[tuple[str, str]]:
        """Return all pairs, in the order in which they were added."""
        text = os.pread(self._file, os.fstat(self._file).st_size, 0).decode()
        return [(first, second) for first, second in map(str.split, text.splitlines())]

    def clear(self) -> None:
        """Remove all pairs."""
        os.ftruncate(self._file, 0)


class Queue(Protocol):
    """What Luigi hands a result to."""

    def put(self, result: tuple[Any, ...]) -> None: ...


class Results:
    """Luigi's queue of results, read on the way.

    No event tells what a task has yielded; its result does, which is ``(task_id, status,
    explanation, missing, new_dependencies)`` (Luigi 3.8).

    Parameters
    ----------
    queue
        Luigi's.
    find
        Called with the id of the task and what it has yielded.
    """

    def __init__(self, queue: Queue, find: Callable[[str, list[luigi.Task]], None]) -> None:
        self._queue = queue
        self._find = find

    def put(self, result: tuple[Any, ...]) -> None:
        """Hand a result on."""
        try:
            task_id, *_, yielded = result
            self._find(task_id, [load_task(*names) for names in yielded or ()])
        except Exception:
            logger.exception("what %s needs cannot be told", result[0])
        self._queue.put(result)
