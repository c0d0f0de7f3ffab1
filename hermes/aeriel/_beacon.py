"""Whether a file still moves that a driver keeps changing as long as it lives."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Hashable
from pathlib import Path

logger = logging.getLogger(__name__)

# A driver changes its beacon every few seconds.
LIMIT_S = 30.0


class Movement:
    """Judges by one process's clock whether something that it looks at still changes.

    Parameters
    ----------
    now
        The time, in seconds.
    limit_s
        After how many seconds without a change it stands still.
    """

    def __init__(self, now: float, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._seen: Hashable = None
        self._changed_at = now

    def goes_on(self, seen: Hashable, now: float) -> bool:
        """Tell whether it changed within the limit.

        Parameters
        ----------
        seen
            What it looks like; None where it cannot be looked at just now.
        now
            The time, in seconds.
        """
        if seen is not None and seen != self._seen:
            self._seen, self._changed_at = seen, now
        return now - self._changed_at <= self._limit_s


class BeaconReader:
    """Reads a beacon: no clock, process id or lock of another host is believed.

    Parameters
    ----------
    file
        The beacon, on a file system that the hosts share.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._movement = Movement(time.monotonic())

    def is_moving(self) -> bool:
        """Tell whether its content, or its time of modification, has changed within the limit.

        It has to be asked once in a while. A beacon that is gone does not move.
        """
        try:
            # Opened each time: that is when NFS looks for what another host has written.
            with self._file.open("rb") as opened:
                seen = opened.read(), os.fstat(opened.fileno()).st_mtime_ns
        except FileNotFoundError:
            return False
        except OSError as error:  # of a file server that is away; it counts as standing still
            logger.warning("the beacon %s cannot be read: %s", self._file, error)
            return self._movement.goes_on(None, time.monotonic())
        return self._movement.goes_on(seen, time.monotonic())
