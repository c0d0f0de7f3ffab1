"""Runs another program, bound to its parent or detached from it.

It is run as a file, isolated (``python -I -S``), because running Python code between fork and exec
is not safe in a process with threads:

    _launch.py bound PARENT PROGRAM [ARGUMENT…]        the kernel ends it when its parent ends
    _launch.py detached DIRECTORY PROGRAM [ARGUMENT…]  a daemon, recorded as the owner of a
                                                       server's directory when this returns
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
CANNOT_BE_STARTED = 126  # the exit code of a shell for it


def bind_to(parent: int) -> None:
    """Let the kernel send SIGTERM to this process when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent process has ended")  # before prctl was called


def detach(directory: Path) -> None:
    """Continue as a daemon, in a session of its own.

    Ctrl-C does not reach it, and it leaves no zombie in the process that started it.
    """
    # Last on the path: behind the standard library.
    sys.path.append(str(Path(__file__).resolve().parents[1]))

    from hermes._directory import ServerDirectory  # noqa: PLC0415 (found by the line above)
    from hermes._processes import ProcessIdentity  # noqa: PLC0415 (as above)

    reader, writer = os.pipe()
    child = os.fork()
    if child:
        ServerDirectory(directory).set_owner(ProcessIdentity.of(child))
        os._exit(0)  # this closes the pipe, which the child waits for
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    os.setsid()


def main() -> None:
    """Run the program that the command line names."""
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
