"""GPUs, and a server's request for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hermes.errors import ParameterError

_UUID = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]+")
# Less memory than any CUDA context needs, more than a driver uses on an idle GPU.
CONTEXT_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class GPU:
    """One GPU, or one part of a GPU that is divided (MIG).

    Parameters
    ----------
    index
        Its index in the order of `nvidia-smi`; of a part, that of the whole GPU.
    uuid
        Its UUID.
    model
        The name of its model.
    processes
        The ids of the processes that compute on it and are visible in this PID namespace; None
        where the driver does not know.
    used_bytes
        Memory in use, without that of processes that only draw; None where the driver does not
        know.
    compute_mode
        ``exclusive`` (one process at a time), ``prohibited`` (none) or ``default``; None where the
        driver does not know.
    parts
        The parts of a divided GPU; empty for a divided GPU that has none yet. None: not divided.
    whole
        The UUID of the GPU that this is a part of.
    alias
        The other name of a part, ``MIG-GPU-UUID/gi/ci``.
    """

    index: int
    uuid: str
    model: str = ""
    processes: tuple[int, ...] | None = ()
    used_bytes: int | None = None
    compute_mode: str | None = None
    parts: tuple[GPU, ...] | None = None
    whole: str | None = None
    alias: str = field(default="", compare=False)

    def __str__(self) -> str:
        what = "GPU" if self.whole is None else "part of GPU"
        return f"{what} {self.index} ({self.uuid})"

    @property
    def used_by(self) -> str | None:
        """The processes that compute on it, as a text; None where none is known."""
        if self.processes:
            return f"process {', '.join(map(str, self.processes))}"
        if self.used_bytes is not None and self.used_bytes > CONTEXT_BYTES:
            # The processes of other PID namespaces are not listed; their memory is.
            return f"a process that is not visible here ({self.used_bytes >> 20} MiB are in use)"
        return None


@dataclass(frozen=True, kw_only=True)
class GPURequest:
    """A server's request for GPUs.

    Parameters
    ----------
    gpus
        The indices or UUIDs of the GPUs; None for no particular ones.
    n_gpus
        The number of GPUs, whichever are free; None for no particular number.
    cpu
        Whether to use no GPU.

    Raises
    ------
    ParameterError
        Two of them are given, or one has an invalid value.
    """

    gpus: tuple[int | str, ...] | None = None
    n_gpus: int | None = None
    cpu: bool = False

    def __post_init__(self) -> None:
        if self.gpus is not None and self.n_gpus is not None:
            raise ParameterError("n_gpus", "give gpus or n_gpus, not both")
        if self.cpu and (self.gpus or self.n_gpus):
            raise ParameterError("cpu", "give cpu or GPUs (gpus, n_gpus), not both")
        if self.n_gpus is not None and (isinstance(self.n_gpus, bool) or self.n_gpus < 0):
            raise ParameterError("n_gpus", f"{self.n_gpus!r} is not a number of GPUs")
        gpu_environment(self.gpus)


def gpu_environment(gpus: Sequence[int | str] | None) -> dict[str, str]:
    """Return the environment variables with which a process sees these GPUs only.

    Parameters
    ----------
    gpus
        Indices in the order of `nvidia-smi`, or UUIDs. An empty sequence hides every GPU; None
        does not change the caller's environment.

    Raises
    ------
    ParameterError
        An entry is neither an index nor a UUID, or occurs twice.
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
        # By default CUDA counts the fastest GPU first; `nvidia-smi` counts by bus.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def check_parts(gpus: Sequence[GPU], parameter: str) -> None:
    """Refuse GPUs that CUDA does not show to one process.

    Raises
    ------
    ParameterError
        A part of a GPU is combined with others: "a single CUDA process can only enumerate a single
        MIG instance" (NVIDIA MIG User Guide, "CUDA Device Enumeration").
    """
    if len(gpus) > 1 and any(gpu.whole is not None for gpu in gpus):
        there = ", ".join(map(str, gpus))
        problem = f"CUDA shows a process a single part of a GPU (MIG) and no other GPU, not {there}"
        raise ParameterError(parameter, problem)


def unusable(gpu: GPU, environ: Mapping[str, str]) -> str | None:
    """Return why a server cannot compute on a GPU, or None if it can.

    A server has several processes: tritonserver, which opens every GPU that it sees, and one for
    each instance of a Python model.
    """
    if gpu.compute_mode == "prohibited":
        problem = "prohibits computing"
    elif gpu.compute_mode == "exclusive" and not _has_mps(environ):
        problem = "allows one process at a time, and a server has several"
    else:
        return None
    return (
        f"the compute mode of {gpu} {problem}; an administrator changes it with "
        f"`nvidia-smi -i {gpu.index} -c DEFAULT`"
        + (", or starts NVIDIA's MPS" if gpu.compute_mode == "exclusive" else "")
    )


def _has_mps(environ: Mapping[str, str]) -> bool:
    """Return whether NVIDIA's Multi-Process Service runs, at the path where clients look for it."""
    pipes = environ.get("CUDA_MPS_PIPE_DIRECTORY") or "/tmp/nvidia-mps"  # noqa: S108 (NVIDIA's own)
    return (Path(pipes) / "control").exists()
