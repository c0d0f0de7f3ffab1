"""A Triton server in a Singularity or Apptainer container, started and stopped by spython.

The container is an *instance*: spython starts it, and the server is then run in it by the
runtime's ``exec``, whose process is the server's own as far as output, exit code and life are
concerned.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hermes._cleanup import Plan, stop_container
from hermes.aeriel.serve._command import ServerSettings
from hermes.aeriel.serve._instance import TritonInstance
from hermes.aeriel.serve._writers import warn_of_writers
from hermes.aeriel.serve.runtimes._image import check_image, find_image
from hermes.aeriel.serve.runtimes._singularity_stop import container
from hermes.aeriel.serve.runtimes._spython import (
    Instance,
    find_runtime,
    runtime_words,
    start_instance,
)
from hermes.errors import (
    HermesError,
    InstanceExistsError,
    InstanceStartError,
    ParameterError,
    TritonNotFoundError,
)

logger = logging.getLogger(__name__)

MODELS = "/hermes/models"
TRITON = "/opt/tritonserver/bin/tritonserver"
PROBE_TIMEOUT_S = 120.0

# They hold paths of the host, which mean nothing, or the wrong thing, in a container.
_HOST_ONLY = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "LD_LIBRARY_PATH", "LD_PRELOAD")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FIND_TRITON = f"command -v tritonserver || command -v {TRITON}"


class SingularityInstance(TritonInstance):
    """A Triton server that runs in a Singularity or Apptainer container.

    The environment reaches the server as on the host, but for variables that hold the host's
    library and module paths. The model repository is visible in the container, read-only.

    Parameters
    ----------
    settings
        What to serve, from which image, and where. The name of the container instance is
        `settings.container_name`, by default the server's id. Empty `settings.gpus` leave the
        NVIDIA driver out.
    log_file
        Takes the server's output.
    plan
        What ending the server takes.

    Raises
    ------
    ParameterError
        The name is none that the container runtime takes.
    SingularityNotFoundError
        There is neither a `singularity` nor an `apptainer` command.
    ImageError
        The image is missing, or is none.
    InstanceExistsError
        The name is taken.
    """

    def __init__(self, settings: ServerSettings, log_file: Path | None, plan: Plan) -> None:
        super().__init__(settings, log_file, plan)
        named = settings.container_name
        self.name = settings.server_id if named is None else named
        if not _NAME.fullmatch(self.name):
            problem = f"{self.name!r} is not made of letters, digits and ._- only"
            raise ParameterError("name", problem)
        self._runtime = find_runtime(settings.image)
        self.image = find_image(settings.image, os.environ, Path.cwd())
        check_image(self.image)
        is_own = self.name == settings.server_id
        if not is_own and Instance(self._runtime, self.name).find() is not None:
            raise InstanceExistsError(self.name)
        warn_of_writers(Path(self.image), "image")
        self._use_driver = settings.gpus != () and has_nvidia_driver()
        self._triton = TRITON
        self._container = container(self._runtime, self.name, self.server_id)
        self._plan = replace(self._plan, container=self._container)

    def _open_container(self) -> None:
        options = start_options(
            self._settings.served_repository,
            linked=self._settings.model_repository if self._settings.has_overlay else None,
            use_driver=self._use_driver,
            directory=self._settings.directory.path,
        )
        if self.name == self.server_id and Instance(self._runtime, self.name).find() is not None:
            # The name is this server's alone: an earlier start was killed before it had a process.
            stop_container(self._container)
        self._record(container(self._runtime, self.name, self.server_id, is_starting=True))
        try:
            pid = start_instance(self._runtime, self.image, self.name, self.server_id, options)
        except HermesError:  # the command has ended by itself
            self._record(self._container)
            raise
        self._record(container(self._runtime, self.name, self.server_id, pid=pid))
        logger.info("started container instance %s from %s", self.name, self.image)
        self._triton = self._find_triton()

    def _server_command(self) -> list[str]:
        local = self._settings.served_repository.startswith("/")
        arguments = self._settings.arguments(self._ports, MODELS if local else None)
        return [*self._exec_command(), self._triton, *arguments]

    def _server_environment(self) -> Mapping[str, str]:
        return exec_environment(os.environ, self._settings.environment)

    def _exec_command(self) -> list[str]:
        return [self._runtime, "--quiet", "exec", "--pwd", "/", f"instance://{self.name}"]

    def _find_triton(self) -> str:
        """Return the server's path in the image: on its PATH, or where NVIDIA's images have it."""
        try:
            found = subprocess.run(
                [*self._exec_command(), "/bin/sh", "-c", _FIND_TRITON],
                env=dict(self._server_environment()),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PROBE_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            problem = f"nothing can be run in it: no answer within {PROBE_TIMEOUT_S:g} s"
            raise InstanceStartError(image=self.image, output=problem) from error
        if found.returncode == 0:
            return found.stdout.strip()
        if found.returncode == 255:  # the runtime's own failure, not the shell's
            raise InstanceStartError(image=self.image, output=runtime_words(found.stderr))
        raise TritonNotFoundError(
            looked_in=(f"the PATH of the image {self.image}", TRITON),
            advice="Use an image with Triton in it, such as NVIDIA's",
        )


def has_nvidia_driver() -> bool:
    """Tell whether this machine has an NVIDIA driver."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def start_options(
    model_repository: str, *, linked: str | None = None, use_driver: bool, directory: Path
) -> list[str]:
    """Return the options of ``instance start`` that let the server see what is outside.

    That is its models, its own directory (keys and sockets) and the GPUs. A local repository is
    always mounted, and always at the same place: whether it would be visible by itself depends on
    the site's configuration. Remote ones are left to Triton. The directory is mounted where it is,
    and so is what the models are links to.
    """
    options = ["--nv"] if use_driver else []
    if model_repository.startswith("/"):
        options += _mount(model_repository, MODELS)
    if linked is not None:
        options += _mount(linked, linked)
    return [*options, *_mount(str(directory), str(directory), read_only=False)]


def _mount(source: str, destination: str, *, read_only: bool = True) -> list[str]:
    # Of the ways to say this only `--mount`, which is CSV, can say every path.
    fields = ["type=bind", f"source={source}", f"destination={destination}"]
    fields += ["ro"] if read_only else []
    line = io.StringIO()
    # A newline alone is not quoted by default.
    csv.writer(line, lineterminator="", quoting=csv.QUOTE_ALL).writerow(fields)
    return ["--mount", line.getvalue()]


def exec_environment(environ: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an ``exec``, by which the server gets the wanted variables.

    Parameters
    ----------
    environ
        The caller's environment. Variables that hold paths of the host are left out.
    wanted
        Variables that the server must see with just these values, whatever the caller's
        environment and the image say.
    """
    result = {name: value for name, value in environ.items() if name not in _HOST_ONLY}
    for name, value in wanted.items():
        # Over a plain variable the image's own wins, and `--env` splits at commas. Each
        # runtime has its prefix; Apptainer knows both and warns where they differ.
        result[f"APPTAINERENV_{name}"] = result[f"SINGULARITYENV_{name}"] = value
    # Else values go through a shell in the container, which expands `$(…)`.
    result["APPTAINER_NO_EVAL"] = result["SINGULARITY_NO_EVAL"] = "1"
    return result
