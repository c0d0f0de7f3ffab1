"""The specification of a supervised server; equal specifications share one server."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hermes._directory import new_server_id, state_home
from hermes.aeriel import serve
from hermes.aeriel.serve._gpu_names import JOB_VARIABLES
from hermes.errors import ServerError

if TYPE_CHECKING:
    from hermes.aeriel.serve._block import ServerBlock

# Variables that select the GPUs, the batch job, Triton and the image.
_DECIDING = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "_CONDOR_JOB_AD",
    *JOB_VARIABLES,
    "HERMES_TRITON_BINARY",
    "HERMES_TRITON_HOME",
    "HERMES_IMAGE_PATH",
)
# Variables that hold a path, and those that hold several, which servers are started with.
_PATH_VARIABLES = (
    "HERMES_TRITON_BINARY",
    "HERMES_TRITON_HOME",
    "HERMES_STATE_HOME",
    "XDG_CACHE_HOME",
    "TMPDIR",
)
_PATHS_VARIABLES = ("HERMES_IMAGE_PATH", "PATH", "LD_LIBRARY_PATH")


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """The specification of a supervised server; see `hermes.aeriel.serve.serve` for the fields.

    Parameters
    ----------
    model_repository
        A directory, or a URL.
    image
        A Singularity/Apptainer image; none: a local Triton.
    gpus, n_gpus
        The GPUs, or their number.
    cpu
        Serve on the CPU, also models that require a GPU.
    listen, insecure, advertise
        The address to listen on, whether every client is accepted, and the name of this host for
        other hosts.
    server_args
        Further flags of tritonserver.
    timeout_s
        Seconds to wait for GPUs, and seconds until the server has to be ready.
    stop_timeout_s
        Seconds that the server may take to stop; no client waits for an answer then.
    repository_stamp
        A digest of the files of the model repository. A server keeps the models that it has loaded
        when the files change; a specification with the changed files is another server.
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
        """Return the specification of a server for the current files of a repository.

        Raises
        ------
        ParameterError
            The repository does not exist.
        """
        repository = serve.check_model_repository(model_repository)
        stamp = repository_stamp(repository)
        return cls(model_repository=repository, repository_stamp=stamp, **options)

    def serve(self, **options: Any) -> ServerBlock:
        """Return the server for a block, with further options of `hermes.aeriel.serve.serve`."""
        return serve.serve(
            self.model_repository,
            self.image or None,
            cpu=self.cpu,
            server_args=self.server_args,
            ports="auto",
            listen=self.listen,
            insecure=self.insecure,
            advertise=self.advertise,
            stop_timeout_s=self.stop_timeout_s,
            **options,
        )

    def check_unchanged(self) -> None:
        """Raise ServerError where the files of the repository have changed."""
        if repository_stamp(self.model_repository) != self.repository_stamp:
            message = (
                f"the files of the model repository {self.model_repository} have changed since "
                f"the start of its server {self.server_id()}; run the pipeline again"
            )
            raise ServerError(message)

    def provenance(self) -> dict[str, str]:
        """Return the origin of the models, for the provenance of an output."""
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
        """Return the id of the server.

        It is a digest of the fields, with paths resolved, of the environment variables that matter,
        of the host and of the state home.
        """
        environ = with_absolute_paths(environ)
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


def with_absolute_paths(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment whose paths do not depend on the working directory.

    A supervisor has another one than the process that starts it.
    """
    several = {
        name: os.pathsep.join(map(_absolute, environ[name].split(os.pathsep)))
        for name in _PATHS_VARIABLES
        if name in environ
    }
    one = {name: _absolute(environ[name]) for name in _PATH_VARIABLES if name in environ}
    return {**environ, **several, **one}


def repository_stamp(model_repository: str, models: Iterable[str] = (".",)) -> str:
    """Return a digest of the names, sizes and modification times of a repository's files.

    Parameters
    ----------
    model_repository
        A directory; a URL is returned unchanged.
    models
        The models' directories to include; by default all.
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
    """Yield the files below a directory, including those behind links to directories."""
    seen = set()
    for parent, directories, names in os.walk(directory, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a directory above it
            directories.clear()
            continue
        seen.add(real)
        directories[:] = [name for name in directories if name != "__pycache__"]
        yield from (path for name in names if (path := Path(parent, name)).is_file())


def _absolute(path: str) -> str:
    # An empty path is no path; one in the home directory is expanded by whoever reads it.
    return path if not path or path.startswith("~") else str(Path(path).absolute())


def _resolved(path: str) -> str:
    return str(Path(path).resolve()) if path and "://" not in path else path
