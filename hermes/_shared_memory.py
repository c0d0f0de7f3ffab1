"""Names of shared-memory regions, which identify their owner, and removal of abandoned ones."""

from __future__ import annotations

import logging
import os
import re
import secrets
from pathlib import Path

from hermes._processes import SHARED_MEMORY, Host, ProcessIdentity, server_processes

logger = logging.getLogger(__name__)

PREFIX = "hermes-shm-"
_SERVER_ID = re.compile(r"hermes-([0-9a-f]{6})[0-9a-f]{8}(?=-)")


def new_region_name() -> str:
    """Return a name for a region of this process."""
    return f"{PREFIX}{ProcessIdentity.of(os.getpid())}-{secrets.token_hex(6)}"


def server_regions(server_id: str) -> list[Path]:
    """Return the regions that the backends of a server have in ``/dev/shm``."""
    return [path for path in SHARED_MEMORY.glob(f"{server_id}-*") if _is_own(path)]


def make_private(server_id: str) -> None:
    """Make a server's regions unreadable to others: the Python backend uses mode 0644."""
    for region in server_regions(server_id):
        region.chmod(0o600)


def regions_of_the_dead() -> list[Path]:
    """Return the regions of this user whose process, or server, is known to have ended.

    Regions of another PID namespace or host are not included: their processes are not visible here.
    """
    found = []
    here = Host.here().digest
    runs: dict[str, bool] = {}  # by the id of a server, of which each has several regions
    for path in sorted(SHARED_MEMORY.glob("hermes-*")):
        if path.name.startswith(PREFIX):
            try:
                owner = ProcessIdentity.parse(path.name.removeprefix(PREFIX).rpartition("-")[0])
            except ValueError:  # not a region of hermes
                continue
            is_left = owner.is_dead()
        else:
            match = _SERVER_ID.match(path.name)
            is_left = False
            if match is not None and match[1] == here:
                if match[0] not in runs:
                    runs[match[0]] = bool(server_processes(match[0]))
                is_left = not runs[match[0]]
        if is_left and _is_own(path):
            found.append(path)
    return found


def sweep_regions() -> list[str]:
    """Remove the regions in ``/dev/shm`` of processes that were killed.

    Returns
    -------
    list of str
        The names of the regions that were removed.
    """
    removed = []
    for path in regions_of_the_dead():
        path.unlink(missing_ok=True)
        logger.info("removed %s: its process is gone", path)
        removed.append(path.name)
    return removed


def _is_own(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.getuid()
    except FileNotFoundError:
        return False
