"""What a supervised server is asked to be, and what makes two servers one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hermes._directory import new_server_id, state_home
from hermes.aeriel.serve import check_model_repository
from hermes.errors import ServerError

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
    listen, insecure, advertise
        Where it listens, whether anybody gets in, and how other hosts call this one.
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
    advertise: str = ""
    server_args: tuple[str, ...] = ()
    timeout_s: float = 600.0
    stop_timeout_s: float = 5.0
    repository_stamp: str = ""

    @classmethod
    def of(cls, model_repository: str, **options: Any) -> ServerSpec:
        """Return the spec of a server for a repository as its files are now.

        Raises
        ------
        ParameterError
            There is no repository.
        """
        repository = check_model_repository(model_repository)
        stamp = repository_stamp(repository)
        return cls(model_repository=repository, repository_stamp=stamp, **options)

    def check_unchanged(self) -> None:
        """Raise ServerError where a file of the repository is not what it was for this spec."""
        if repository_stamp(self.model_repository) != self.repository_stamp:
            message = (
                f"the files of the model repository {self.model_repository} have changed since its "
                f"server, {self.server_id()}, was asked for; run it again"
            )
            raise ServerError(message)

    def provenance(self) -> dict[str, str]:
        """Return what an output says of where its model comes from."""
        return {"model_repository": self.model_repository, "image": self.image}

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
        facts["triton"] = (
            None if self.image else shutil.which("tritonserver", path=environ.get("PATH"))
        )
        facts["home"] = str(state_home(environ))
        return new_server_id(json.dumps(facts, sort_keys=True))


def repository_stamp(model_repository: str, models: Iterable[str] = (".",)) -> str:
    """Return what changes when a file of a repository does (by size or modification time).

    Parameters
    ----------
    model_repository
        A directory; a URL stands for itself.
    models
        The directories of models in it that count; by default all of it does.
    """
    if "://" in model_repository:
        return model_repository
    repository = Path(model_repository)
    digest = hashlib.sha256()
    for model in sorted(models):
        for path in sorted(_files(repository / model)):
            status = path.stat()
            facts = f"{path.relative_to(repository)} {status.st_size} {status.st_mtime_ns}\n"
            digest.update(facts.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files(directory: Path) -> Iterator[Path]:
    """Yield the files below a directory, those behind links to directories too."""
    seen = set()
    for parent, directories, names in os.walk(directory, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a directory above it
            directories.clear()
            continue
        seen.add(real)
        directories[:] = [name for name in directories if name != "__pycache__"]
        yield from (path for name in names if (path := Path(parent, name)).is_file())


def _resolved(path: str) -> str:
    return str(Path(path).resolve()) if path and "://" not in path else path
