"""Warns of users who can change the files that a server runs."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

logger = logging.getLogger(__name__)


def warn_of_writers(path: Path, what: str) -> None:
    """Log a warning when users other than its owner can write a file or directory."""
    try:
        mode = path.stat().st_mode
    except OSError:  # a URL, or a path that cannot be read
        return
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        logger.warning("every user of this machine can write the %s %s", what, path)
    elif mode & stat.S_IWGRP:
        logger.warning("all users of its group can write the %s %s", what, path)
