"""A process that outlives its owner just long enough to end the server that the owner left.

Whoever starts a server starts one of these first. It watches the owner, and when the owner is
gone, SIGKILL included, it does what the owner would have done. It holds nothing and knows
nothing but names, so it can be killed by the owner at any time without a trace.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hermes.aeriel._processes import ProcessIdentity, end_server

logger = logging.getLogger(__name__)

POLL_S = 0.2
SETTLE_S = 1.0
_MAIN = """
import json, sys
sys.path.insert(0, {source!r})
from hermes.aeriel._guard import main
main(**json.loads(sys.argv[1]))
"""


class Guard:
    """A process that ends a server of this one when this one is gone.

    Parameters
    ----------
    server_id
        The id that the server is going to be started with.
    grace_s
        Seconds that the server may take to stop when this process has died.
    instance
        The name of the container instance that the server is going to run in, if any.
    directory
        A directory that goes with the server, if any, beside its temporary files.
    endpoint_file
        A file that this process writes the server's endpoint to, if any.
    state_dir
        The state directory of this process, if it is a supervisor.
    locks
        Descriptors of locked files: the locks are to last as long as the server, so the guard
        holds them too.
    """

    def __init__(
        self,
        server_id: str,
        *,
        grace_s: float,
        instance: str | None = None,
        directory: Path | None = None,
        endpoint_file: Path | None = None,
        state_dir: Path | None = None,
        locks: Sequence[int] = (),
    ) -> None:
        self._owner = ProcessIdentity.of(os.getpid())
        self._charge = {
            "owner": str(self._owner),
            "server_id": server_id,
            "grace_s": grace_s,
            "instance": instance,
            "directory": None if directory is None else str(directory),
            "endpoint_file": None if endpoint_file is None else str(endpoint_file),
            "state_dir": None if state_dir is None else str(state_dir),
        }
        self._locks = tuple(locks)
        self._start()

    def keep(self) -> None:
        """Start another one if somebody has killed it, and wake it if somebody has stopped it."""
        if os.getpid() != self._owner.pid:  # a child cannot tell, and need not
            return
        if self._process.poll() is None:
            ProcessIdentity.of(self._process.pid).wake()
        else:
            logger.warning("the guard of %s has died; it gets another", self._charge["server_id"])
            self._start()

    def dismiss(self) -> None:
        """End it: the server is gone."""
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        source = Path(__file__).resolve().parents[2]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MAIN.format(source=str(source)), json.dumps(self._charge)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            pass_fds=self._locks,
        )


def main(
    *,
    owner: str,
    server_id: str,
    grace_s: float,
    instance: str | None,
    directory: str | None,
    endpoint_file: str | None,
    state_dir: str | None,
) -> None:
    """Wait until the owner is gone, then end its server."""
    # Ctrl-C and a batch system's SIGTERM are the owner's business; its end is this process's.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    identity = ProcessIdentity.parse(owner)
    while identity.is_alive():
        time.sleep(POLL_S)
    if endpoint_file is not None:
        _remove_endpoint(Path(endpoint_file), server_id)

    def close_container() -> None:
        if instance is not None:
            # Imported here: a guard waits most of its time, and should hold little.
            from hermes.aeriel.serve._container import stop_instance  # noqa: PLC0415

            stop_instance(instance, server_id)

    # The owner may have died while it was starting the server or its container.
    end_server(server_id, grace_s=grace_s, settle_s=SETTLE_S, close_container=close_container)
    for path in [*temporary_files(server_id), *([] if directory is None else [Path(directory)])]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if state_dir is not None:
        from hermes.aeriel.serve import ServerState  # noqa: PLC0415 (as above)

        # Its drivers may have left before it, and nobody else looks there until the next server.
        ServerState(Path(state_dir)).tidy()


def temporary_path(server_id: str, suffix: str) -> Path:
    """Return the path of a temporary file of a server, which goes with it."""
    return Path(tempfile.gettempdir()) / f"{server_id}{suffix}"


def temporary_files(server_id: str) -> list[Path]:
    """Return the temporary files of a server that are there."""
    return list(Path(tempfile.gettempdir()).glob(f"{server_id}.*"))


def _remove_endpoint(file: Path, server_id: str) -> None:
    """Remove an endpoint file, unless it is another server's by now."""
    try:
        if json.loads(file.read_bytes())["server_id"] == server_id:
            file.unlink()
    except (OSError, ValueError, KeyError, TypeError):
        return  # there is none, or it is somebody else's
