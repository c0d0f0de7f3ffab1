"""The names of clients' shared memory, which tell whose it is, and the end of what nobody has."""

from __future__ import annotations

import logging
import os
import secrets

from hermes.aeriel._processes import SHARED_MEMORY, ProcessIdentity

logger = logging.getLogger(__name__)

PREFIX = "hermes-shm-"


def new_region_name() -> str:
    """Return a name for a region of this process."""
    return f"{PREFIX}{ProcessIdentity.of(os.getpid())}-{secrets.token_hex(6)}"


def sweep_regions() -> list[str]:
    """Remove what processes left in ``/dev/shm`` that were killed while they made a region.

    Returns
    -------
    list of str
        The names of the regions that were removed.
    """
    removed = []
    for path in SHARED_MEMORY.glob(f"{PREFIX}*"):
        try:
            owner = ProcessIdentity.parse(path.name.removeprefix(PREFIX).rpartition("-")[0])
            if owner.is_alive():
                continue
            path.unlink(missing_ok=True)
        except (ValueError, OSError):  # somebody else's
            continue
        logger.info("removed %s, which process %d left", path, owner.pid)
        removed.append(path.name)
    return removed
