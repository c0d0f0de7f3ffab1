"""The guard's process: it waits until a server's owner has ended, then ends the server.

Run as a file: ``python -I -S _watcher.py DIRECTORY OWNER``. An owner that was killed cannot clean
up, so this process does. It needs only the standard library and the modules beside it: nothing in
the user's environment, data or working directory can break it or be run by it.
"""

import logging
import signal
import sys
import time
from pathlib import Path

# Last on the path: behind the standard library.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from hermes._cleanup import Plan, end_abandoned
from hermes._directory import ServerDirectory
from hermes._processes import ProcessIdentity
from hermes._shared_memory import sweep_regions
from hermes.errors import HermesError

POLL_S = 0.2
TOUCH_S = 3600.0

logger = logging.getLogger("hermes.watcher")


def watch(directory: ServerDirectory, owner: ProcessIdentity) -> None:
    """Wait until the owner has ended, then end its server."""
    touch_at = time.monotonic()
    while owner.is_alive():
        if time.monotonic() >= touch_at:
            touch_at = time.monotonic() + TOUCH_S
            directory.touch(*Plan.read(directory).gpu_notes)
        time.sleep(POLL_S)
    end_abandoned(directory)
    sweep_regions()


def main() -> None:
    """Watch the owner that the command line names, and log errors."""
    # The owner handles Ctrl-C and a batch system's SIGTERM; this process waits for its end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    path, owner = sys.argv[1:]
    directory = ServerDirectory(Path(path))
    logging.basicConfig(
        # delay: the owner makes the directory after it has started this process.
        handlers=[logging.FileHandler(directory.watcher_log, delay=True)],
        level=logging.INFO,
        format="%(asctime)s %(message)s",
    )
    try:
        watch(directory, ProcessIdentity.parse(owner))
    except (HermesError, OSError) as error:
        logger.error("cannot clean %s, the next start of a server will: %s", directory.path, error)  # noqa: TRY400 (the message suffices)


if __name__ == "__main__":
    main()
