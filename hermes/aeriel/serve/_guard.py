"""Starts the process that ends a server whose owner was killed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence

from hermes import _watcher
from hermes._directory import ServerDirectory
from hermes._processes import ProcessIdentity

logger = logging.getLogger(__name__)


class Guard:
    """A process that ends a server of this one when this one is gone.

    It holds nothing and knows nothing but the directory, so it can be killed at any time.

    Parameters
    ----------
    directory
        The server's directory.
    locks
        Descriptors of locked files: the locks are to last as long as the server, so the guard
        holds them too.
    """

    def __init__(self, directory: ServerDirectory, locks: Sequence[int] = ()) -> None:
        self._owner = ProcessIdentity.of(os.getpid())
        self._directory = directory
        self._locks = tuple(locks)
        self._start()

    def ensure_running(self) -> None:
        """Start another one if somebody has killed it, and wake it if somebody has stopped it."""
        if os.getpid() != self._owner.pid:  # a child cannot tell, and need not
            return
        if self._process.poll() is None:
            ProcessIdentity.of(self._process.pid).wake()
        else:
            logger.warning("the guard of %s has died; it gets another", self._directory.server_id)
            self._start()

    def dismiss(self) -> None:
        """End it: the server is gone."""
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [
                # Isolated, and without site-packages: see the module.
                *(sys.executable, "-I", "-S", _watcher.__file__),
                *(str(self._directory.path), str(self._owner)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            pass_fds=self._locks,
        )
