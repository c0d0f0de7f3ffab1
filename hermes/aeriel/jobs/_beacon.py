"""A file on the shared file system that a driver keeps moving as long as it lives.

Each reader judges by its own clock whether the content changes. No clock, process id, lock or
modification time of another host is believed.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0
LIMIT_S = 30.0


class Beacon:
    """Keeps a file moving while the block lasts.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._over = threading.Event()
        # A daemon: the thread must not keep a process alive that leaves without leaving the block.
        self._thread = threading.Thread(target=self._keep_moving, name="hermes-beacon", daemon=True)

    def __enter__(self) -> Self:
        self._move()
        self._thread.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _keep_moving(self) -> None:
        while not self._over.wait(INTERVAL_S):
            try:
                self._move()
            except OSError as error:
                logger.warning("the beacon %s cannot be moved: %s", self._path, error)

    def _move(self) -> None:
        # Opened and closed each time: that is when NFS has other hosts see what was written.
        self._path.write_text(f"{os.getpid()} {time.monotonic_ns()}")


class BeaconWatch:
    """Judges a beacon by this process's clock.

    Parameters
    ----------
    path
        The beacon.
    limit_s
        Seconds without a change after which the driver counts as dead.
    """

    def __init__(self, path: Path, limit_s: float = LIMIT_S) -> None:
        self._path = path
        self._limit_s = limit_s
        self._seen = ""
        self._changed_at = time.monotonic()

    def is_moving(self) -> bool:
        """Tell whether the beacon has changed within the limit; to be asked once in a while.

        One that has been removed does not move any more.
        """
        try:
            content = self._path.read_text()
        except FileNotFoundError:
            return False
        except OSError as error:  # of a file server that is away; it counts as standing still
            logger.warning("the beacon %s cannot be read: %s", self._path, error)
            content = self._seen
        if content != self._seen:
            self._seen, self._changed_at = content, time.monotonic()
        return time.monotonic() - self._changed_at <= self._limit_s
