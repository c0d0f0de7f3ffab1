"""Runs a command as a child that receives this process's signals and ends when it is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType

from hermes import _launch
from hermes.errors import ParameterError


def find_command(command: Sequence[str]) -> list[str]:
    """Return a command with the path of its program.

    Raises
    ------
    ParameterError
        There is no such program.
    """
    program = shutil.which(command[0])
    if program is None:
        raise ParameterError("command", f"{command[0]!r} is not on the PATH or not executable")
    return [os.path.abspath(program), *command[1:]]  # noqa: PTH100 (links are not resolved)


def run_bound(command: Sequence[str], **variables: str) -> int:
    """Run a command to its end, and return its exit code as a shell does.

    Parameters
    ----------
    command
        From `find_command`.
    variables
        Environment variables besides those of this process.
    """
    child = subprocess.Popen(
        _launch.isolated(_launch.__file__, "bound", str(os.getpid()), *command),
        env={**os.environ, **variables},
    )

    def pass_on(number: int, _: FrameType | None) -> None:
        # A terminal sends SIGINT to the whole process group, which includes the command.
        if number != signal.SIGINT or not os.isatty(0):
            child.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, pass_on) for number in numbers]
    try:
        code = child.wait()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code
