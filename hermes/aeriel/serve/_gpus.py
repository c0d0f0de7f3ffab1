"""The GPUs of this machine: which there are, and which of them a server may use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pynvml

from hermes.errors import ParameterError

_UUID = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]+")
# What tells a batch job, and whether its system names the GPUs of every job that has some.
_BATCH_SYSTEMS = {
    "SLURM_JOB_ID": True,
    "_CONDOR_SLOT": True,
    "PBS_JOBID": False,
    "LSB_JOBID": False,
    "JOB_ID": False,
}


@dataclass(frozen=True, kw_only=True)
class GPU:
    """One GPU.

    Parameters
    ----------
    index
        Its global index, as `nvidia-smi` counts.
    uuid
        Its name for good.
    model
        What it is.
    processes
        The ids of the processes that compute on it.
    """

    index: int
    uuid: str
    model: str = ""
    processes: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.uuid})"


@dataclass(frozen=True, kw_only=True)
class GPURequest:
    """What a server is to have.

    Parameters
    ----------
    gpus
        Global indices or UUIDs: these, and no others. None leaves that open.
    n_gpus
        How many, whichever are free. None leaves that open.

    Raises
    ------
    ParameterError
        Both are given, or one cannot be right.
    """

    gpus: tuple[int | str, ...] | None = None
    n_gpus: int | None = None

    def __post_init__(self) -> None:
        if self.gpus is not None and self.n_gpus is not None:
            raise ParameterError("n_gpus", "goes without gpus: either says it all")
        if self.n_gpus is not None and (isinstance(self.n_gpus, bool) or self.n_gpus < 0):
            raise ParameterError("n_gpus", f"{self.n_gpus!r} is not a number of GPUs")
        gpu_environment(self.gpus)


def gpu_environment(gpus: Sequence[int | str] | None) -> dict[str, str]:
    """Return the variables that show a process these GPUs, and no others.

    Parameters
    ----------
    gpus
        Global indices, as `nvidia-smi` counts them, or UUIDs. An empty sequence hides every GPU;
        None leaves the caller's environment as it is.

    Raises
    ------
    ParameterError
        An entry is neither an index nor a UUID, or stands there twice.
    """
    if gpus is None:
        return {}
    for gpu in gpus:
        is_index = isinstance(gpu, int) and not isinstance(gpu, bool) and gpu >= 0
        if not is_index and not (isinstance(gpu, str) and _UUID.fullmatch(gpu)):
            problem = f"{gpu!r} is neither an index (0, 1, …) nor the UUID of a GPU (GPU-…, MIG-…)"
            raise ParameterError("gpus", problem)
    if len(set(gpus)) < len(gpus):
        raise ParameterError("gpus", f"{list(gpus)} names a GPU twice")
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)),
        # CUDA's own order is fastest first; nvidia-smi's, and everybody's, is by bus.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def list_gpus() -> list[GPU]:
    """Return the GPUs of this machine, by index; none where there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        count = pynvml.nvmlDeviceGetCount()
        return [gpu for index in range(count) if (gpu := _gpu(index)) is not None]
    finally:
        pynvml.nvmlShutdown()


def job_gpus(environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return what a batch system gave this job: indices and UUIDs, or None outside a job."""
    systems = [names_gpus for name, names_gpus in _BATCH_SYSTEMS.items() if environ.get(name)]
    if not systems:
        return None
    given = environ.get("CUDA_VISIBLE_DEVICES", environ.get("SLURM_JOB_GPUS"))
    if given is None:
        return () if any(systems) else None
    return _tokens(given)


def visible_gpus(gpus: Sequence[GPU], environ: Mapping[str, str]) -> list[GPU]:
    """Return the GPUs that this process may take any of.

    Those of the batch job, or what ``CUDA_VISIBLE_DEVICES`` names, or all.
    """
    allowed = job_gpus(environ)
    if allowed is None and "CUDA_VISIBLE_DEVICES" in environ:
        allowed = _tokens(environ["CUDA_VISIBLE_DEVICES"])
    if allowed is None:
        return list(gpus)
    return [gpu for gpu in gpus if any(_is_named(gpu, token) for token in allowed)]


def named_gpus(
    names: Sequence[int | str], gpus: Sequence[GPU], environ: Mapping[str, str]
) -> list[GPU]:
    """Return the GPUs of these names.

    Parameters
    ----------
    names
        Global indices and UUIDs.
    gpus
        The GPUs of this machine. Without any, nothing is known and nothing is returned.
    environ
        The environment, which may be that of a batch job.

    Raises
    ------
    ParameterError
        There is no such GPU, or the batch job does not have it.
    """
    if not gpus:
        return []
    found = []
    for name in names:
        matching = [gpu for gpu in gpus if _is_named(gpu, str(name))]
        if not matching and str(name).startswith("MIG-"):
            matching = [GPU(index=-1, uuid=str(name))]  # a part of a GPU, which NVML lists apart
        if not matching:
            there = ", ".join(map(str, gpus))
            raise ParameterError("gpus", f"there is no GPU {name}; this machine has {there}")
        allowed = job_gpus(environ)
        if allowed is not None and not any(_is_named(matching[0], token) for token in allowed):
            problem = f"GPU {name} does not belong to this batch job, which has {list(allowed)}"
            raise ParameterError("gpus", problem)
        found.append(matching[0])
    return found


def _gpu(index: int) -> GPU | None:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        return GPU(
            index=index,
            uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
            model=_text(pynvml.nvmlDeviceGetName(handle)),
            processes=tuple(process.pid for process in processes),
        )
    except pynvml.NVMLError:  # a lost one, or one that this user may not see
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _tokens(text: str) -> tuple[str, ...]:
    return tuple(token.strip() for token in text.split(",") if token.strip())


def _is_named(gpu: GPU, token: str) -> bool:
    """Tell whether a name means a GPU: its index, its UUID, or the beginning of that."""
    return token == str(gpu.index) or (len(token) > 4 and gpu.uuid.startswith(token))
