"""A Triton server in a Singularity or Apptainer container.

The container is an *instance*: spython starts it, and the runtime's ``exec`` runs the server in it.
The process of ``exec`` has the server's output and exit code, and ends with it.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from hermes._captured import run_captured
from hermes._cleanup import stop_container
from hermes.aeriel.serve._command import ServerSettings
from hermes.aeriel.serve._instance import TritonInstance
from hermes.aeriel.serve._writers import warn_of_writers
from hermes.aeriel.serve.runtimes._image import check_image, find_image
from hermes.aeriel.serve.runtimes._singularity_stop import container, first_process
from hermes.aeriel.serve.runtimes._spython import find_runtime, runtime_words, start_instance
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

# They hold paths of the host, which are not valid in a container.
_HOST_ONLY = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "LD_LIBRARY_PATH", "LD_PRELOAD")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FIND_TRITON = f"command -v tritonserver || command -v {TRITON}"


class SingularityInstance(TritonInstance):
    """A Triton server that runs in a Singularity or Apptainer container.

    The server has the caller's environment, except for variables with library and module paths of
    the host. The model repository is mounted read-only.

    Parameters
    ----------
    settings
        What to serve, from which image, and where. The name of the container instance is
        `settings.container_name`, by default the server's id. A lease without GPUs leaves the
        NVIDIA driver out.

    Raises
    ------
    ParameterError
        The container runtime does not accept the name.
    SingularityNotFoundError
        There is neither a `singularity` nor an `apptainer` command.
    ImageError
        The image is missing or unusable.
    InstanceExistsError
        An instance of this name runs.
    """

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings)
        named = settings.container_name
        self.name = settings.server_id if named is None else named
        if not _NAME.fullmatch(self.name):
            problem = f"{self.name!r} has characters other than letters, digits and ._-"
            raise ParameterError("name", problem)
        self._runtime = find_runtime(settings.image)
        self.image = find_image(settings.image, os.environ, Path.cwd())
        check_image(self.image)
        if self.name != self.server_id and first_process(self._runtime, self.name) is not None:
            raise InstanceExistsError(self.name)
        warn_of_writers(Path(self.image), "image")
        self._container = container(self._runtime, self.name, self.server_id)

    def _open_container(self) -> None:
        options = start_options(
            self._settings.served_repository,
            linked=self._settings.model_repository if self._settings.has_overlay else None,
            use_driver=self._settings.lease.gpus != (),
            directory=self._settings.directory.path,
        )
        if self.name == self.server_id and first_process(self._runtime, self.name) is not None:
            # No other server has this name: an earlier start of this one was killed.
            stop_container(self._container)
        self._record(container(self._runtime, self.name, self.server_id, is_starting=True))
        try:
            pid = start_instance(self._runtime, self.image, self.name, self.server_id, options)
        except HermesError:  # the command has ended
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
        """Return the server's path in the image: on its PATH, or that of NVIDIA's images."""
        try:
            found = run_captured(
                [*self._exec_command(), "/bin/sh", "-c", _FIND_TRITON],
                timeout_s=PROBE_TIMEOUT_S,
                environ=self._server_environment(),
            )
        except subprocess.TimeoutExpired as error:
            problem = f"a command in the container did not end within {PROBE_TIMEOUT_S:g} s"
            raise InstanceStartError(image=self.image, output=problem) from error
        if found.returncode == 0:
            return found.stdout.strip()
        if found.returncode == 255:  # the runtime failed, not the shell
            raise InstanceStartError(image=self.image, output=runtime_words(found.stderr))
        raise TritonNotFoundError(
            looked_in=(f"the PATH of the image {self.image}", TRITON),
            advice="Use an image with Triton in it, such as NVIDIA's",
        )


def start_options(
    model_repository: str, *, linked: str | None = None, use_driver: bool, directory: Path
) -> list[str]:
    """Return the options of ``instance start`` for the server's mounts and GPUs.

    A local repository is mounted at a fixed path, because the mounts of the site's configuration
    vary. Triton reads remote repositories itself. The server's directory (keys, sockets) and the
    directory that an overlay links to are mounted at their own paths.
    """
    options = ["--nv"] if use_driver else []  # harmless where there is no driver
    if model_repository.startswith("/"):
        options += _mount(model_repository, MODELS)
    if linked is not None:
        options += _mount(linked, linked)
    return [*options, *_mount(str(directory), str(directory), read_only=False)]


def _mount(source: str, destination: str, *, read_only: bool = True) -> list[str]:
    # Only `--mount`, whose value is CSV, can express every path.
    fields = ["type=bind", f"source={source}", f"destination={destination}"]
    fields += ["ro"] if read_only else []
    line = io.StringIO()
    # By default csv does not quote a field that only has a newline.
    csv.writer(line, lineterminator="", quoting=csv.QUOTE_ALL).writerow(fields)
    return ["--mount", line.getvalue()]


def exec_environment(environ: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an ``exec`` that gives the server the wanted variables.

    Parameters
    ----------
    environ
        The caller's environment. Variables that hold paths of the host are omitted.
    wanted
        Variables that override those of the caller's environment and of the image.
    """
    result = {name: value for name, value in environ.items() if name not in _HOST_ONLY}
    for name, value in wanted.items():
        # A variable of the image overrides a plain one, and `--env` splits at commas. Each runtime
        # has its prefix; Apptainer reads both and warns where they differ.
        result[f"APPTAINERENV_{name}"] = result[f"SINGULARITYENV_{name}"] = value
    # Otherwise a shell in the container expands `$(…)` in the values.
    result["APPTAINER_NO_EVAL"] = result["SINGULARITY_NO_EVAL"] = "1"
    return result
