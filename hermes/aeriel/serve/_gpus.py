"""The GPUs that a server process sees."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hermes.errors import ParameterError

_UUID = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]+")


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
