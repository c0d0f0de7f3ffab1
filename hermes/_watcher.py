"""A process that outlives a server's owner just long enough to end the server that it left.

Run as a file, with the server's directory: ``python -I -S _watcher.py DIRECTORY OWNER``.
It watches the owner, and when that is gone, SIGKILL included, it does what the owner would have
done. It needs nothing but the standard library and the modules beside it, so nothing in the
user's environment, data or working directory can break it, or be run by it.
"""

import logging
import signal
import sys
import time
from pathlib import Path

# Last on the path: behind the standard library.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from hermes._cleanup import Plan, end_leftovers
from hermes._directory import ServerDirectory
from hermes._processes import ProcessIdentity
from hermes._shared_memory import sweep_regions
from hermes.errors import HermesError

POLL_S = 0.2
TOUCH_S = 3600.0

logger = logging.getLogger("hermes.watcher")


def watch(directory: ServerDirectory, owner: ProcessIdentity) -> None:
    """Wait until the owner is gone, then end its server."""
    touch_at = time.monotonic()
    while owner.is_alive():
        if time.monotonic() >= touch_at:
            touch_at = time.monotonic() + TOUCH_S
            directory.touch(*Plan.read(directory).gpu_notes)
        time.sleep(POLL_S)
    with directory.cleaning():
        if directory.is_left():  # else another process has taken it over
            end_leftovers(directory)
            directory.clear_owner()
    directory.tidy()
    sweep_regions()


def main() -> None:
    """Watch as the command line says, and log what could not be done."""
    # Ctrl-C and a batch system's SIGTERM are the owner's business; its end is this process's.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    path, owner = sys.argv[1:]
    directory = ServerDirectory(Path(path))
    logging.basicConfig(
        # Delayed: the owner makes the directory once it is watched.
        handlers=[logging.FileHandler(directory.watcher_log, delay=True)],
        level=logging.INFO,
        format="%(asctime)s %(message)s",
    )
    try:
        watch(directory, ProcessIdentity.parse(owner))
    except (HermesError, OSError) as error:
        logger.error("%s is left to the next start of a server: %s", directory.path, error)  # noqa: TRY400 (no traceback: the sentence says it)


if __name__ == "__main__":
    main()
