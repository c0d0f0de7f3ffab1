"""Becomes another program, after arranging what becomes of it when others end.

Run as a file, isolated (``python -I -S``), since to run Python between fork and exec is not safe in
a process with threads:

    _launch.py bound PARENT PROGRAM [ARGUMENT…]        the kernel ends it when its parent is gone
    _launch.py detached DIRECTORY PROGRAM [ARGUMENT…]  a child of nobody, recorded as the owner of a
                                                       server's directory when this returns
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
CANNOT_BE_STARTED = 126  # as a shell says it


def bind_to(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when its parent is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("its parent has ended")  # before the line above


def detach(directory: Path) -> None:
    """Go on in a child of nobody, in a session of its own.

    So Ctrl-C does not reach it, and no zombie is left in a driver that goes on.
    """
    # Last on the path: behind the standard library.
    sys.path.append(str(Path(__file__).resolve().parents[1]))

    from hermes._directory import ServerDirectory  # noqa: PLC0415 (found by the line above)
    from hermes._processes import ProcessIdentity  # noqa: PLC0415 (as above)

    reader, writer = os.pipe()
    child = os.fork()
    if child:
        ServerDirectory(directory).set_owner(ProcessIdentity.of(child))
        os._exit(0)  # the caller waits for that, and the child for the end of the pipe
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    os.setsid()


def main() -> None:
    """Do what the command line says."""
    mode, subject, *command = sys.argv[1:]
    if mode == "bound":
        bind_to(int(subject))
    else:
        detach(Path(subject))
    try:
        os.execv(command[0], command)
    except OSError as error:
        print(f"It cannot be started: {error.strerror}", file=sys.stderr)  # noqa: T201 (the server's log)
        sys.exit(CANNOT_BE_STARTED)


if __name__ == "__main__":
    main()
