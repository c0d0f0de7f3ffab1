"""Runs the steps of an installation, one process at a time for a home."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hermes.errors import InstallError
from hermes.runtime import _layout

# Advice on a failure, by texts in the output of the step that failed.
ADVICE = (
    (
        ("No space left on device", "Disk quota exceeded"),
        f"An installation needs 1 GB; name another directory with {_layout.HOME_VARIABLE}",
    ),
    (
        ("Read-only file system", "Permission denied", "Not a directory"),
        f"The directory is not writable; name another one with {_layout.HOME_VARIABLE}",
    ),
    (
        ("No module named ensurepip",),
        "Install the package of your system with venv (on Debian: apt install python3-venv)",
    ),
    (
        ("after connection broken by", "HTTP error 403", "Could not find a version"),
        (
            "pip could not download from a package index. Name your site's proxy (pip config set "
            "global.proxy URL) or mirror (pip config set global.index-url URL). Without either, "
            "serve from a container image, or from a tritonserver of your own on the PATH or in "
            "HERMES_TRITON_BINARY"
        ),
    ),
)


def failed(step: str, output: str) -> InstallError:
    """Return the error of a step, with advice where its output is known."""
    advice = (text for signs, text in ADVICE if any(sign in output for sign in signs))
    return InstallError(step, output, next(advice, ""))


def run(
    description: str,
    command: Sequence[str | Path],
    lock: int,
    *,
    environment: dict[str, str] | None = None,
    errors: bool = True,
) -> str:
    # With PIP_USER, or `user = true` in a pip.conf, pip refuses to work in an environment.
    environment = environment or {**os.environ, "PIP_USER": "0", "PIP_NO_INPUT": "1"}
    try:
        # The child holds the lock too: if this process is killed, the next installation waits
        # until the child has ended, and does not remove files that the child still writes.
        result = subprocess.run(
            [str(part) for part in command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if errors else subprocess.DEVNULL,
            pass_fds=(lock,),
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise failed(description, str(error)) from error
    if result.returncode != 0:
        raise failed(description, result.stdout)
    return result.stdout


@contextmanager
def locked(home: Path, report: Callable[[str], None]) -> Iterator[int]:
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise failed(f"creating {home}", str(error)) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another installation in {home} to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)
