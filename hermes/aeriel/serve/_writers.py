"""Warns of users who can change what a server is going to run."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

logger = logging.getLogger(__name__)


def warn_of_writers(path: Path, what: str) -> None:
    """Warn when users other than its owner can change what a server is going to run."""
    try:
        mode = path.stat().st_mode
    except OSError:  # a URL, which has its own rules
        return
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        logger.warning("everybody on this machine can write the %s %s", what, path)
    elif mode & stat.S_IWGRP:
        logger.warning("its whole group can write the %s %s", what, path)
