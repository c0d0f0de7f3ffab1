"""A process that outlives its owner just long enough to end the server that the owner left.

Whoever starts a server starts one of these first. It watches the owner, and when the owner is
gone, SIGKILL included, it does what the owner would have done. It holds nothing and knows
nothing but names, so it can be killed by the owner at any time without a trace.
"""

from __future__ import annotations

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

POLL_S = 0.2
SETTLE_S = 1.0
_MAIN = """
import sys
sys.path.insert(0, {source!r})
from hermes.aeriel._guard import main
main(*sys.argv[1:])
"""


def start_guard(
    server_id: str, *, grace_s: float, instance: str | None = None, locks: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a guard over a server of this process.

    Parameters
    ----------
    server_id
        The id that the server is going to be started with.
    grace_s
        Seconds that the server may take to stop when this process has died.
    instance
        The name of the container instance that the server is going to run in, if any.
    locks
        Descriptors of locked files: the locks are to last as long as the server, so the guard
        holds them too.
    """
    source = Path(__file__).resolve().parents[2]
    owner = ProcessIdentity.of(os.getpid())
    container = [] if instance is None else [instance]
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            _MAIN.format(source=str(source)),
            str(owner),
            server_id,
            str(grace_s),
            *container,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
        pass_fds=tuple(locks),
    )


def main(owner: str, server_id: str, grace_s: str, instance: str | None = None) -> None:
    """Wait until the owner is gone, then end its server."""
    # Ctrl-C and a batch system's SIGTERM are the owner's business; its end is this process's.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    identity = ProcessIdentity.parse(owner)
    while identity.is_alive():
        time.sleep(POLL_S)

    def close_container() -> None:
        if instance is not None:
            # Imported here: a guard waits most of its time, and should hold little.
            from hermes.aeriel.serve._container import stop_instance  # noqa: PLC0415

            stop_instance(instance, server_id)

    # The owner may have died while it was starting the server or its container.
    end_server(
        server_id, grace_s=float(grace_s), settle_s=SETTLE_S, close_container=close_container
    )
    for path in temporary_files(server_id):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def temporary_path(server_id: str, suffix: str) -> Path:
    """Return the path of a temporary file of a server, which goes with it."""
    return Path(tempfile.gettempdir()) / f"{server_id}{suffix}"


def temporary_files(server_id: str) -> list[Path]:
    """Return the temporary files of a server that are there."""
    return list(Path(tempfile.gettempdir()).glob(f"{server_id}.*"))
