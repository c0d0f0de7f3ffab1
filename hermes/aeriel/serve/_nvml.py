"""The GPUs of this machine, as NVIDIA's driver shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import pynvml

from hermes.aeriel.serve._gpus import GPU

T = TypeVar("T")
_COMPUTE_MODES = {
    pynvml.NVML_COMPUTEMODE_DEFAULT: "default",
    pynvml.NVML_COMPUTEMODE_PROHIBITED: "prohibited",
    pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS: "exclusive",
}


def list_gpus() -> list[GPU]:
    """Return the GPUs of this machine by index; none where there is no driver.

    Each call of the driver may fail (an old driver, a missing permission); its result is unknown
    then. A GPU without a UUID is omitted: it fell off the bus, or this process may not open it.
    """
    try:
        with _driver():
            count = _ask(pynvml.nvmlDeviceGetCount) or 0
            return [gpu for index in range(count) if (gpu := _gpu(index)) is not None]
    except pynvml.NVMLError:
        return []


def why_no_gpu() -> str | None:
    """Return why the driver shows no GPU; None where it shows one."""
    try:
        with _driver():
            count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        return f"NVIDIA's driver cannot be used here ({error})"
    return None if count else "NVIDIA's driver shows no GPU"


@contextmanager
def _driver() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _ask(question: Callable[..., T], *arguments: Any) -> T | None:
    try:
        return question(*arguments)
    except pynvml.NVMLError:
        return None


def _gpu(index: int) -> GPU | None:
    handle = _ask(pynvml.nvmlDeviceGetHandleByIndex, index)
    gpu = _unit(index, handle)
    if gpu is None:
        return None
    mode = _ask(pynvml.nvmlDeviceGetComputeMode, handle)
    compute_mode = None if mode is None else _COMPUTE_MODES.get(mode)
    return replace(gpu, compute_mode=compute_mode, parts=_parts(gpu, handle))


def _parts(gpu: GPU, handle: Any) -> tuple[GPU, ...] | None:
    """Return the parts of a GPU in MIG mode; None for a GPU that is not in that mode."""
    modes = _ask(pynvml.nvmlDeviceGetMigMode, handle)
    if modes is None or modes[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        return None
    most = _ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0
    parts = []
    for number in range(most):
        part_handle = _ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
        part = _unit(gpu.index, part_handle)
        if part is not None:
            first = _ask(pynvml.nvmlDeviceGetGpuInstanceId, part_handle)
            second = _ask(pynvml.nvmlDeviceGetComputeInstanceId, part_handle)
            alias = "" if None in (first, second) else f"MIG-{gpu.uuid}/{first}/{second}"
            parts.append(replace(part, whole=gpu.uuid, alias=alias))
    return tuple(parts)


def _unit(index: int, handle: Any) -> GPU | None:
    """Return what is asked of a GPU and of a part alike; None for one without a UUID."""
    uuid = None if handle is None else _ask(pynvml.nvmlDeviceGetUUID, handle)
    if uuid is None:
        return None
    return GPU(
        index=index,
        uuid=uuid,
        model=_ask(pynvml.nvmlDeviceGetName, handle) or "",
        processes=_processes(handle),
        used_bytes=_used_bytes(handle),
    )


def _processes(handle: Any) -> tuple[int, ...] | None:
    processes = _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle)
    return None if processes is None else tuple(process.pid for process in processes)


def _used_bytes(handle: Any) -> int | None:
    # From R510 on the first version of this call counts memory that the driver reserves as used.
    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    memory = memory or _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    if memory is None:
        return None
    drawing = _ask(pynvml.nvmlDeviceGetGraphicsRunningProcesses, handle) or []
    return max(0, int(memory.used) - sum(process.usedGpuMemory or 0 for process in drawing))
