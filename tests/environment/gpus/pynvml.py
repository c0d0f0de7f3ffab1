"""Stands in for NVIDIA's library on a machine without a GPU: it says what FAKE_GPUS says.

FAKE_GPUS is a file with a JSON list of ``{"uuid": …, "processes": [pid, …]}``. Everything above
the library is real: put this directory first on the PYTHONPATH of a process.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple


class NVMLError(Exception):
    """What the library raises."""


class Process(NamedTuple):
    pid: int


def nvmlInit() -> None:  # noqa: N802
    if not os.environ.get("FAKE_GPUS"):
        raise NVMLError


def nvmlShutdown() -> None:  # noqa: N802
    pass


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return len(_gpus())


def nvmlDeviceGetHandleByIndex(index: int) -> Any:  # noqa: N802
    gpu = _gpus()[index]
    if gpu.get("lost"):
        raise NVMLError
    return gpu


def nvmlDeviceGetUUID(handle: Any) -> str:  # noqa: N802
    return str(handle["uuid"])


def nvmlDeviceGetName(handle: Any) -> str:  # noqa: N802
    return "a GPU that is not there"


def nvmlDeviceGetComputeRunningProcesses(handle: Any) -> list[Process]:  # noqa: N802
    return [Process(pid) for pid in handle.get("processes", [])]


def _gpus() -> list[Any]:
    gpus: list[Any] = json.loads(Path(os.environ["FAKE_GPUS"]).read_text())
    return gpus
