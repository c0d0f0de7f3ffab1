"""What there is of Apptainer instances."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests import helpers

LOGS = Path.home() / ".apptainer" / "instances" / "logs"


def instances() -> dict[str, int]:
    """Return the running instances of this user: name and process id."""
    command = ["apptainer", "instance", "list", "--json"]
    listed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return {each["instance"]: each["pid"] for each in listed["instances"]}


def remains(server_id: str) -> list[object]:
    """Return whatever is there of a server and its container."""
    return [
        *helpers.remains(server_id),
        *(name for name in instances() if name == server_id),
        *LOGS.rglob(f"{server_id}.*"),
        *processes_with_environment(f"HERMES_SERVER_ID={server_id}"),
    ]


def processes_with_environment(text: str) -> list[int]:
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = file.read_bytes()
        except OSError:
            continue
        if text.encode() in environment:
            found.append(int(file.parent.name))
    return found
