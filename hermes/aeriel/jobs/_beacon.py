"""A file on the shared file system that a driver keeps moving as long as it lives.

Each reader judges by its own clock whether the content changes. No clock, process id, lock or
modification time of another host is believed.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Self

from hermes._processes import ProcessIdentity
from hermes.aeriel._beacon import LIMIT_S, BeaconReader
from hermes.aeriel.jobs._files import RunDirectory

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0


class Beacon:
    """Keeps a file moving while the block lasts.

    Parameters
    ----------
    run
        Has the file.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._driver = ProcessIdentity.of(os.getpid())
        self._over = threading.Event()
        # A daemon: the thread must not keep a process alive that leaves without leaving the block.
        self._thread = threading.Thread(target=self._keep_moving, name="hermes-beacon", daemon=True)

    def __enter__(self) -> Self:
        self._move()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _keep_moving(self) -> None:
        while not self._over.wait(INTERVAL_S):
            try:
                self._move()
            except OSError as error:
                logger.warning("the beacon %s cannot be moved: %s", self._run.beacon, error)

    def _move(self) -> None:
        # Opened and closed each time: that is when NFS has other hosts see what was written.
        self._run.beacon.write_text(f"{self._driver} {time.monotonic_ns()}")
        # Of jobs that ended while this process was suspended, or the file server away.
        self._run.tombstone.unlink(missing_ok=True)


class BeaconWatch:
    """Judges a beacon by this process's clock.

    Parameters
    ----------
    run
        The run of the driver that is to be judged.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._beacon = BeaconReader(run.beacon)

    def is_moving(self) -> bool:
        """Tell whether the beacon has changed within the limit; to be asked once in a while.

        Where it has not, the run is buried, for other jobs to see. A beacon that has been removed
        is that of a run that has ended.
        """
        if self._run.tombstone.exists():
            return False
        if self._beacon.is_moving():
            return True
        if self._run.beacon.exists():
            message = "the driver's beacon, %s, has not moved for %.0f s: the run is over"
            logger.error(message, self._run.beacon, LIMIT_S)
            self._run.bury()
        return False
