"""What stands for everything that a result depends on."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def fingerprint(**facts: Any) -> str:
    """Return a string that changes when one of the facts does."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
