"""Starts the process that ends a server whose owner was killed."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Sequence

from hermes import _watcher
from hermes._directory import ServerDirectory
from hermes._launch import isolated
from hermes._processes import ProcessIdentity

logger = logging.getLogger(__name__)


class Guard:
    """A process that ends a server of this process when this process has ended.

    It has no state besides the directory's path, so it can be killed and replaced at any time.

    Parameters
    ----------
    directory
        The server's directory.
    locks
        Descriptors of locked files. The guard inherits them, so that the locks last as long as the
        server.
    """

    def __init__(self, directory: ServerDirectory, locks: Sequence[int] = ()) -> None:
        self._owner = ProcessIdentity.of(os.getpid())
        self._directory = directory
        self._locks = tuple(locks)
        self._start()

    def ensure_running(self) -> None:
        """Start the guard again if it was killed, and resume it if it is stopped."""
        if os.getpid() != self._owner.pid:  # a forked child is not the guard's parent
            return
        if self._process.poll() is None:
            ProcessIdentity.of(self._process.pid).wake()
        else:
            logger.warning("the guard of %s has died; starting it again", self._directory.server_id)
            self._start()

    def dismiss(self) -> None:
        """End the guard: the server is gone."""
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            isolated(_watcher.__file__, str(self._directory.path), str(self._owner)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            pass_fds=self._locks,
        )
