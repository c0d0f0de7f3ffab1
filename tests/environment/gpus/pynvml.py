"""Stands in for NVIDIA's library on a machine without a GPU: it says what FAKE_GPUS says.

FAKE_GPUS is a file with a JSON list of GPUs. Of each it may say

- ``uuid`` (needed), ``name``;
- ``processes``: the ids of those that compute; ``graphics``: the bytes of each that draws;
- ``used``: bytes of memory in use;
- ``mode``: the number of its compute mode;
- ``parts``: a list of the same; then it is in MIG mode;
- ``device``: a device node; where it may not be opened, the GPU is not shown, as with the real one;
- ``fails``: the questions that fail.

Everything above the library is real: put this directory first on the PYTHONPATH of a process.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

NVML_COMPUTEMODE_DEFAULT = 0
NVML_COMPUTEMODE_PROHIBITED = 2
NVML_COMPUTEMODE_EXCLUSIVE_PROCESS = 3
NVML_DEVICE_MIG_ENABLE = 1
nvmlMemory_v2 = 0x02000028  # noqa: N816 (the library's name)


class NVMLError(Exception):
    """What the library raises."""


class Process(NamedTuple):
    pid: int
    usedGpuMemory: int | None = None  # noqa: N815 (the library's name)


class Memory(NamedTuple):
    used: int


def nvmlInit() -> None:  # noqa: N802
    if not os.environ.get("FAKE_GPUS"):
        raise NVMLError("NVML Shared Library Not Found")


def nvmlShutdown() -> None:  # noqa: N802
    pass


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return len(_gpus())


def nvmlDeviceGetHandleByIndex(index: int) -> Any:  # noqa: N802
    gpu = _gpus()[index]
    _may_fail(gpu, "nvmlDeviceGetHandleByIndex")
    return gpu


def nvmlDeviceGetUUID(handle: Any) -> str:  # noqa: N802
    _may_fail(handle, "nvmlDeviceGetUUID")
    return str(handle["uuid"])


def nvmlDeviceGetName(handle: Any) -> str:  # noqa: N802
    _may_fail(handle, "nvmlDeviceGetName")
    return str(handle.get("name", "a GPU that is not there"))


def nvmlDeviceGetComputeMode(handle: Any) -> int:  # noqa: N802
    _may_fail(handle, "nvmlDeviceGetComputeMode")
    return int(handle.get("mode", NVML_COMPUTEMODE_DEFAULT))


def nvmlDeviceGetComputeRunningProcesses(handle: Any) -> list[Process]:  # noqa: N802
    _may_fail(handle, "nvmlDeviceGetComputeRunningProcesses")
    return [Process(pid) for pid in handle.get("processes", [])]


def nvmlDeviceGetGraphicsRunningProcesses(handle: Any) -> list[Process]:  # noqa: N802
    _may_fail(handle, "nvmlDeviceGetGraphicsRunningProcesses")
    return [Process(1, used) for used in handle.get("graphics", [])]


def nvmlDeviceGetMemoryInfo(handle: Any, version: int | None = None) -> Memory:  # noqa: N802
    _may_fail(handle, "nvmlDeviceGetMemoryInfo" + ("_v2" if version else ""))
    return Memory(handle.get("used", 1 << 20))


def nvmlDeviceGetMigMode(handle: Any) -> list[int]:  # noqa: N802
    _may_fail(handle, "nvmlDeviceGetMigMode")
    if "parts" not in handle:
        raise NVMLError("Not Supported")
    return [NVML_DEVICE_MIG_ENABLE, NVML_DEVICE_MIG_ENABLE]


def nvmlDeviceGetMaxMigDeviceCount(handle: Any) -> int:  # noqa: N802
    _may_fail(handle, "nvmlDeviceGetMaxMigDeviceCount")
    return 7


def nvmlDeviceGetMigDeviceHandleByIndex(handle: Any, index: int) -> Any:  # noqa: N802
    if index >= len(handle["parts"]):
        raise NVMLError("Not Found")
    return {**handle["parts"][index], "number": index}


def nvmlDeviceGetGpuInstanceId(handle: Any) -> int:  # noqa: N802
    _may_fail(handle, "nvmlDeviceGetGpuInstanceId")
    return int(handle["number"]) + 7


def nvmlDeviceGetComputeInstanceId(handle: Any) -> int:  # noqa: N802
    return 0


def _may_fail(gpu: Any, question: str) -> None:
    if question in gpu.get("fails", []):
        raise NVMLError(f"{question}: Not Supported")


def _gpus() -> list[Any]:
    gpus: list[Any] = json.loads(Path(os.environ["FAKE_GPUS"]).read_text())
    return [gpu for gpu in gpus if "device" not in gpu or _may_be_opened(gpu["device"])]


def _may_be_opened(device: str) -> bool:
    try:
        os.close(os.open(device, os.O_RDWR))
    except OSError as error:
        return error.errno == errno.ENXIO  # there is no driver behind it, but it is permitted
    return True
