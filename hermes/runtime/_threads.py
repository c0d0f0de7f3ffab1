"""How many threads an instance of a model computes with.

Like `_batching`, this module is copied beside the backends.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CPUS = Path("/sys/devices/system/cpu")


def fair_threads(config: Mapping[str, Any]) -> int:
    """Return the share of this process's cores that one instance of a model has."""
    instances: int = sum(
        group.get("count", 1) * max(1, len(group.get("gpus", [])))
        for group in config.get("instance_group", [])
    )
    return max(1, usable_cores() // max(1, instances))


def usable_cores(cpus: Path = CPUS) -> int:
    """Return the number of physical cores that this process may run on."""
    # Two hardware threads of one core share its arithmetic units.
    allowed = os.sched_getaffinity(0)
    siblings = {cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list" for cpu in allowed}
    try:
        return len({path.read_text() for path in siblings})
    except OSError:  # no such files: a virtual machine or sandbox that hides them
        return len(allowed)
