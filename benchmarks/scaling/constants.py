"""What this code takes, as `measure --update` has measured it, by the way that tensors travel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks.scaling.model import Costs

FILE = Path(__file__).with_name("constants.json")


def load() -> dict[str, Costs]:
    """Return the costs: ``"shm"`` on one host, ``"http"`` and ``"grpc"`` (with TLS) beyond."""
    return {name: Costs(**costs) for name, costs in json.loads(FILE.read_text()).items()}


def save(costs: Mapping[str, Costs]) -> None:
    """Replace the costs."""
    found = {name: asdict(each) for name, each in costs.items()}
    FILE.write_text(json.dumps(found, indent=2) + "\n")
