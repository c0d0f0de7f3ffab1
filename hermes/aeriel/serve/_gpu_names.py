"""Resolves the names of GPUs: those of users, of ``CUDA_VISIBLE_DEVICES`` and of batch systems.

The functions take a list of GPUs, which `_nvml` makes, and an environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hermes.aeriel.serve._gpus import GPU, check_parts
from hermes.errors import ParameterError

_LEADING_NUMBER = re.compile(r"\+?0*([0-9]{1,9})(?![0-9])")
# For each batch system the variable that all its jobs have, the variables with the job's GPUs (the
# first that is set counts), and whether a job without any of these has no GPU.
_BATCH_SYSTEMS: dict[str, tuple[tuple[str, ...], bool]] = {
    # A step of `srun` without `sbatch` has SLURM_STEP_GPUS alone (seen on Slurm 22.05).
    "SLURM_JOB_ID": (("SLURM_STEP_GPUS", "SLURM_JOB_GPUS"), True),
    "_CONDOR_SLOT": (("_CONDOR_AssignedGPUs",), True),
    "PBS_JOBID": ((), False),
    "LSB_JOBID": ((), False),
    "JOB_ID": ((), False),
}
JOB_VARIABLES = [each for job, (gpus, _) in _BATCH_SYSTEMS.items() for each in (job, *gpus)]


def cuda_devices(text: str, gpus: Sequence[GPU]) -> list[GPU]:
    """Return the GPUs that CUDA shows for a value of ``CUDA_VISIBLE_DEVICES``.

    CUDA reads the names in order, and stops at the first invalid one: an index that is out of range
    or negative, or the beginning of no UUID or of several. A name that occurs twice hides all GPUs.
    (CUDA C++ Programming Guide, "CUDA Environment Variables"; details from PyTorch's
    ``_parse_visible_devices`` in ``torch/cuda/__init__.py``.)
    """
    found: list[GPU] = []
    for name in text.split(","):
        gpu = _named(name.strip(), gpus)
        if gpu is None:
            break
        if gpu in found:
            return []
        found.append(gpu)
    return found


def job_gpus(gpus: Sequence[GPU], environ: Mapping[str, str]) -> list[GPU] | None:
    """Return the GPUs of this batch job; None for all GPUs, or where there is no batch job."""
    for job, (variables, is_complete) in _BATCH_SYSTEMS.items():
        if not environ.get(job):
            continue
        if "CUDA_VISIBLE_DEVICES" in environ:
            return cuda_devices(environ["CUDA_VISIBLE_DEVICES"], gpus)
        for variable in variables:
            if variable in environ:
                return _assigned(environ[variable], gpus)
        return [] if is_complete else None
    return None


def claimed_gpus(gpus: Sequence[GPU], environ: Mapping[str, str]) -> list[GPU] | None:
    """Return the GPUs that the batch job or ``CUDA_VISIBLE_DEVICES`` names; None for no names."""
    claimed = job_gpus(gpus, environ)
    if claimed is None and "CUDA_VISIBLE_DEVICES" in environ:
        claimed = cuda_devices(environ["CUDA_VISIBLE_DEVICES"], gpus)
    return None if claimed is None else undivided(claimed)


def visible_gpus(gpus: Sequence[GPU], environ: Mapping[str, str]) -> list[GPU]:
    """Return the GPUs, and the parts of divided ones, that this process may use.

    They are those of the batch job, or those that ``CUDA_VISIBLE_DEVICES`` names, or all.
    """
    claimed = claimed_gpus(gpus, environ)
    return undivided(gpus) if claimed is None else claimed


def undivided(gpus: Sequence[GPU]) -> list[GPU]:
    """Return GPUs with the divided ones replaced by their parts, as CUDA computes on those."""
    units = [unit for gpu in gpus for unit in ((gpu,) if gpu.parts is None else gpu.parts)]
    return list(dict.fromkeys(units))


def named_gpus(
    names: Sequence[int | str], gpus: Sequence[GPU], environ: Mapping[str, str]
) -> list[GPU]:
    """Return the GPUs of these names.

    Parameters
    ----------
    names
        Indices and UUIDs.
    gpus
        The GPUs of this machine. Without any, none is returned.
    environ
        The environment, which may be that of a batch job.

    Raises
    ------
    ParameterError
        There is no such GPU, or it does not belong to the batch job, or CUDA does not show these
        GPUs to one process.
    """
    if not gpus:
        return []
    allowed = job_gpus(gpus, environ)
    found: list[GPU] = []
    for name in names:
        gpu = _named(str(name), gpus)
        if gpu is None:
            there = ", ".join(map(str, [*gpus, *_parts(gpus)]))
            raise ParameterError("gpus", f"there is no GPU {name}; this machine has {there}")
        if gpu in found:
            raise ParameterError("gpus", f"{list(names)} names {gpu} twice")
        if allowed is not None and not _has(allowed, gpu):
            job = ", ".join(map(str, allowed)) or "none"
            problem = f"GPU {name} does not belong to this batch job, which has {job}"
            raise ParameterError("gpus", problem)
        found.append(gpu)
    check_parts(found, "gpus")
    return found


def order_doubt(gpus: Sequence[GPU], environ: Mapping[str, str]) -> str | None:
    """Return a warning where CUDA may count the indices in ``CUDA_VISIBLE_DEVICES`` differently.

    CUDA counts the fastest GPU first unless ``CUDA_DEVICE_ORDER`` is ``PCI_BUS_ID``; the order of
    the others is not specified. Between GPUs of one model that makes no difference.
    """
    text = environ.get("CUDA_VISIBLE_DEVICES", "")
    if (
        environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        or len({gpu.model for gpu in gpus}) < 2
        or not _LEADING_NUMBER.match(text.strip())
    ):
        return None
    return (
        f"hermes reads CUDA_VISIBLE_DEVICES={text} in the order of nvidia-smi, but the GPUs differ "
        "and CUDA counts the fastest first; set CUDA_DEVICE_ORDER=PCI_BUS_ID, or use UUIDs"
    )


def _named(name: str, gpus: Sequence[GPU]) -> GPU | None:
    """Return the GPU, or part of one, to which CUDA resolves a name."""
    if name.startswith(("GPU-", "MIG-")) and len(name) > 4:
        units = [*gpus, *_parts(gpus)]
        exact = [unit for unit in units if name in (unit.uuid, unit.alias)]
        found = exact or [unit for unit in units if unit.uuid.startswith(name)]
    else:
        number = _LEADING_NUMBER.match(name)  # as strtoul reads it: "1gpu" is 1
        found = [gpu for gpu in gpus if number and gpu.index == int(number[1])]
    return found[0] if len(found) == 1 else None


def _parts(gpus: Sequence[GPU]) -> list[GPU]:
    return [part for gpu in gpus for part in gpu.parts or ()]


def _has(allowed: Sequence[GPU], gpu: GPU) -> bool:
    return gpu in allowed or gpu.whole in {one.uuid for one in allowed}


def _assigned(text: str, gpus: Sequence[GPU]) -> list[GPU]:
    """Return the GPUs that a batch system names in its own variable.

    Slurm's indices are those of the whole host. Where Slurm does not let a job open other GPUs
    (ConstrainDevices), the driver shows only the GPUs of the job, and counts them from 0.
    HTCondor gives the beginnings of UUIDs, or ``CUDA0`` in older versions.
    """
    names = [name.strip().removeprefix("CUDA") for name in text.split(",") if name.strip()]
    if all(name.isdecimal() for name in names) and len(names) == len(gpus):
        return list(gpus)
    return [gpu for name in names if (gpu := _named(name, gpus)) is not None]
