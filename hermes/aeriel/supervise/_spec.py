"""What a supervised server is asked to be, and what makes two servers one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from hermes._directory import new_server_id, state_home

# What the environment decides: which GPUs there are, whose job it is, which Triton and image.
_DECIDING = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "SLURM_JOB_ID",
    "SLURM_STEP_GPUS",
    "SLURM_JOB_GPUS",
    "_CONDOR_JOB_AD",
    "_CONDOR_AssignedGPUs",
    "PBS_JOBID",
    "LSB_JOBID",
    "JOB_ID",
    "HERMES_TRITON_BINARY",
    "HERMES_TRITON_HOME",
    "HERMES_IMAGE_PATH",
)


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """What a supervised server is asked to be; see `hermes.aeriel.serve.serve` for the fields.

    Parameters
    ----------
    model_repository
        A directory, or a URL.
    image
        A Singularity/Apptainer image; none: a local Triton.
    gpus, n_gpus
        Which GPUs, or how many.
    cpu
        On the CPU, also models that ask for a GPU.
    listen, insecure
        Where it listens, and whether anybody gets in.
    server_args
        Further flags of tritonserver.
    timeout_s
        Seconds that it may wait for its GPUs, and seconds that it may take to get ready.
    stop_timeout_s
        Seconds that it may take to finish: nobody is left who could read an answer.
    repository_stamp
        Stands for the files of the model repository. A server goes on with the models that it has
        loaded when the files change; who asks for the changed ones asks for another server.
    """

    model_repository: str
    image: str = ""
    gpus: tuple[int | str, ...] | None = None
    n_gpus: int | None = None
    cpu: bool = False
    listen: str = "unix"
    insecure: bool = False
    server_args: tuple[str, ...] = ()
    timeout_s: float = 600.0
    stop_timeout_s: float = 5.0
    repository_stamp: str = ""

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> ServerSpec:
        """Return the value that `to_json` wrote."""
        facts = json.loads(text)
        gpus = facts.pop("gpus")
        arguments = tuple(facts.pop("server_args"))
        return cls(gpus=None if gpus is None else tuple(gpus), server_args=arguments, **facts)

    def server_id(self, environ: Mapping[str, str] = os.environ) -> str:
        """Return the id of the server that is asked for: equal ids are one server.

        It stands for the effective values, with paths resolved, for what the environment decides,
        and for the host and the state home.
        """
        facts = asdict(self)
        del facts["timeout_s"]
        facts["model_repository"] = _resolved(self.model_repository)
        facts["image"] = _resolved(self.image) if Path(self.image).exists() else self.image
        facts["gpus"] = None if self.gpus is None else sorted(map(str, self.gpus))
        facts["environment"] = {name: environ.get(name) for name in _DECIDING}
        facts["triton"] = None if self.image else shutil.which("tritonserver", path=environ["PATH"])
        facts["home"] = str(state_home(environ))
        return new_server_id(json.dumps(facts, sort_keys=True))


def _resolved(path: str) -> str:
    return str(Path(path).resolve()) if path and "://" not in path else path
