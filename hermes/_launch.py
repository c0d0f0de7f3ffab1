"""Runs another program, bound to its parent or detached from it.

It is run as a file, isolated (``python -I -S``), because running Python code between fork and exec
is not safe in a process with threads:

    _launch.py bound PARENT PROGRAM [ARGUMENT…]        the kernel ends it when its parent ends
    _launch.py serving PARENT PROGRAM [ARGUMENT…]      as bound, and with the program's processes; a
                                                       PARENT of 0 is none
    _launch.py detached DIRECTORY PROGRAM [ARGUMENT…]  a daemon, recorded as the owner of a
                                                       server's directory when this returns
"""

import ctypes
import fcntl
import os
import signal
import sys
import termios
from pathlib import Path

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
CANNOT_BE_STARTED = 126  # the exit code of a shell for it


def isolated(file: str, *arguments: str) -> list[str]:
    """Return the command that runs a file of hermes with the standard library alone."""
    return [sys.executable, "-I", "-S", file, *arguments]


def bind_to(parent: int) -> None:
    """Let the kernel send SIGTERM to this process when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent process has ended")  # before prctl was called


def end_children_too() -> None:
    """Let the kernel send SIGHUP to the children of this process when it ends.

    The stub of Triton's Python backend waits for ever when its server is killed while a model
    loads. When the leader of a session ends, the processes of its terminal get SIGHUP: so it has a
    terminal that nobody reads, open as long as this process lives.
    """
    try:
        terminals = os.openpty()
        fcntl.ioctl(terminals[1], termios.TIOCSCTTY, 0)
    except OSError:
        return  # as in a chroot without /dev/pts: whoever ends the server ends them
    for terminal in terminals:
        os.set_inheritable(terminal, True)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored


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
    if mode == "detached":
        detach(Path(subject))
    elif int(subject):
        bind_to(int(subject))
    if mode == "serving":
        end_children_too()
    try:
        os.execv(command[0], command)
    except OSError as error:
        print(f"It cannot be started: {error.strerror}", file=sys.stderr)  # noqa: T201 (the server's log)
        sys.exit(CANNOT_BE_STARTED)


if __name__ == "__main__":
    main()
