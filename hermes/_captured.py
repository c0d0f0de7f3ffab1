"""Runs a command for what it writes; needs the standard library alone."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence


def run_captured(
    command: Sequence[str],
    *,
    timeout_s: float | None = None,
    environ: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Return a command that has ended, with what it wrote; without an input.

    Raises
    ------
    OSError
        The command cannot be started.
    subprocess.TimeoutExpired
        It did not end within `timeout_s` seconds.
    """
    return subprocess.run(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )
