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
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spython.main import Client

from hermes.aeriel.serve._command import ServerSettings
from hermes.aeriel.serve._image import check_image, find_image
from hermes.aeriel.serve._instance import TritonInstance
from hermes.errors import (
    ImageError,
    InstanceExistsError,
    InstanceStartError,
    ParameterError,
    ServerStopError,
    SingularityNotFoundError,
    TritonNotFoundError,
)

logger = logging.getLogger(__name__)

MODELS = "/hermes/models"
TRITON = "/opt/tritonserver/bin/tritonserver"
POLL_S = 0.1
PROBE_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
STOP_GRACE_S = 5

# The instance's first process and everything that starts it carry this in their environment,
# so that an instance can be told from another one of the same name, and found half-started.
_MARK = "HERMES_SERVER_ID"
# They hold paths of the host, which mean nothing, or the wrong thing, in a container.
_HOST_ONLY = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "LD_LIBRARY_PATH", "LD_PRELOAD")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FIND_TRITON = f"command -v tritonserver || command -v {TRITON}"
_BAD_IMAGE = re.compile(
    r"could not open image|image format not recognized|bad superblock|squashfs|"
    r"while mounting image|image driver mount failure|"
    r"(making|pulling|fetching|building) .*(image|registry)|unable to (pull|handle)",
    re.IGNORECASE,
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class SingularityInstance(TritonInstance):
    """A Triton server that runs in a Singularity or Apptainer container.

    The environment reaches the server as on the host, but for variables that hold the host's
    library and module paths. The model repository is visible in the container, read-only.

    Parameters
    ----------
    settings
        What to serve, and where.
    log_file
        Takes the server's output.
    image
        A path or a URI; see `find_image`.
    name
        The name of the container instance; the server's id by default.
    gpus
        The GPUs that the server is to see; an empty sequence leaves the driver out.

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

    def __init__(
        self,
        settings: ServerSettings,
        log_file: Path | None = None,
        *,
        image: str,
        name: str | None = None,
        gpus: Sequence[int | str] | None = None,
    ) -> None:
        super().__init__(settings, log_file)
        self.name = settings.server_id if name is None else name
        if not _NAME.fullmatch(self.name):
            problem = f"{self.name!r} is not made of letters, digits and ._- only"
            raise ParameterError("name", problem)
        self._runtime = find_runtime(image)
        self.image = find_image(image, os.environ, Path.cwd())
        check_image(self.image)
        self._instance = _Instance(self._runtime, self.name, self.image)
        if self._instance.find().pid is not None:
            raise InstanceExistsError(self.name)
        self._use_driver = (gpus is None or len(gpus) > 0) and has_nvidia_driver()
        self._pid: int | None = None
        self._triton = TRITON

    def _container_name(self) -> str:
        return self.name

    def _open_container(self) -> None:
        options = start_options(self._settings.model_repository, use_driver=self._use_driver)
        failure = self._instance.start(options, {**os.environ, _MARK: self.server_id})
        if failure is not None:
            raise start_error(self.image, self.name, failure)
        self._pid = self._instance.find().pid
        logger.info("started container instance %s from %s", self.name, self.image)
        self._triton = self._find_triton()

    def _close_container(self) -> None:
        stop_instance(self.name, self.server_id, self._pid)

    def _server_command(self) -> list[str]:
        local = self._settings.model_repository.startswith("/")
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
            raise InstanceStartError(image=self.image, output=_words(found.stderr))
        raise TritonNotFoundError(
            looked_in=(f"the PATH of the image {self.image}", TRITON),
            advice="Use an image with Triton in it, such as NVIDIA's",
        )


def find_runtime(image: str) -> str:
    """Return the path of the container runtime's command.

    Raises
    ------
    SingularityNotFoundError
        There is neither a `singularity` nor an `apptainer`; the error names `image`.
    """
    for command in ("singularity", "apptainer"):
        path = shutil.which(command)
        if path is not None:
            return path
    raise SingularityNotFoundError(image)


def has_nvidia_driver() -> bool:
    """Tell whether this machine has an NVIDIA driver."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def start_options(model_repository: str, *, use_driver: bool) -> list[str]:
    """Return the options of ``instance start`` that let the server see its models and GPUs.

    A local repository is always mounted, and always at the same place: whether it would be
    visible by itself depends on the site's configuration. Remote ones are left to Triton.
    """
    options = ["--nv"] if use_driver else []
    if model_repository.startswith("/"):
        # Of the ways to say this only `--mount`, which is CSV, can say every path.
        fields = ["type=bind", f"source={model_repository}", f"destination={MODELS}", "ro"]
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(fields)
        options += ["--mount", line.getvalue()]
    return options


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


def start_error(
    image: str, name: str, output: str
) -> ImageError | InstanceExistsError | InstanceStartError:
    """Return the error that a failed ``instance start`` stands for.

    Parameters
    ----------
    image, name
        What was to be started.
    output
        What the runtime said.
    """
    words = _words(output)
    if f"instance {name} already exists" in words:
        return InstanceExistsError(name)
    if _BAD_IMAGE.search(words):
        fatal = [line.removeprefix("FATAL:").strip() for line in words.splitlines()]
        return ImageError(image=image, problem=f"is not a usable image: {' '.join(fatal)}")
    return InstanceStartError(image=image, output=words)


def stop_instance(name: str, server_id: str | None = None, pid: int | None = None) -> None:
    """Stop a container instance and return when it is gone.

    Parameters
    ----------
    name
        The instance's name.
    server_id
        Stop only what was started, or is being started, for this server.
    pid
        The process id of the instance, where that is known. With neither of the two, whatever
        has the name is stopped.

    Raises
    ------
    SingularityNotFoundError
        The container runtime is gone.
    ServerStopError
        The instance is still there after a minute.
    """
    instance = _Instance(find_runtime(name), name)
    if server_id is None and pid is None:
        pid = instance.find().pid
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while True:
        marked = _marked_processes(server_id) if server_id is not None else set()
        listed = instance.find()
        if listed.pid is not None and listed.pid in {pid, *marked}:
            instance.stop(timeout=STOP_GRACE_S)
            listed.remove_empty_logs()
        elif not marked:
            return
        else:
            # It is being started, maybe downloaded: the command can be stopped, and what it
            # has started by then ends, or shows up in the list.
            for process in marked:
                _interrupt_start(process)
        if time.monotonic() > deadline:
            raise ServerStopError(
                server_id=server_id or name, remaining=(f"container instance {name}",)
            )
        time.sleep(POLL_S)


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """A running instance: its first process, and its log files. No process: there is none."""

    pid: int | None = None
    logs: tuple[Path, ...] = ()

    def remove_empty_logs(self) -> None:
        """Remove the runtime's logs, which are empty: the server has its own."""
        for log in self.logs:
            if log.exists() and log.stat().st_size == 0:
                log.unlink(missing_ok=True)


class _Instance(Client.instance):  # type: ignore[misc] # spython has no types
    """spython's instance, with the command that is here and the words of its failures."""

    def __init__(self, runtime: str, name: str, image: str = "") -> None:
        self._runtime = runtime
        super().__init__(image, start=False, name=name, quiet=True)

    def _init_command(self, action: str | list[str], flags: list[str] | None = None) -> list[str]:
        # spython's is `singularity`, which not every Apptainer has a link for.
        command: list[str] = super()._init_command(action, flags)
        return [self._runtime, *command[1:]]

    def start(self, options: list[str], environ: Mapping[str, str]) -> str | None:
        """Start the instance; return None, or what the runtime said where it refused.

        spython's own `start` prints that to stderr and does not tell its caller.
        """
        command = [*self._init_command(["instance", "start"]), *options, self._image, self.name]
        result: Any = self.run_command(
            command, quiet=True, return_result=True, environ=dict(environ)
        )
        if result["return_code"] == 0:
            return None
        message = result["message"]
        return message if isinstance(message, str) else "".join(message)

    def find(self) -> _Listed:
        """Return what the runtime knows of the running instance of this name."""
        found = self._list(self.name, quiet=True, return_json=True)
        if not isinstance(found, dict):
            return _Listed()
        logs = tuple(Path(found[key]) for key in ("logErrPath", "logOutPath") if found.get(key))
        return _Listed(pid=found["pid"], logs=logs)


def _marked_processes(server_id: str) -> set[int]:
    """Return the processes of this user that start, or are, the container of a server."""
    mark = f"{_MARK}={server_id}".encode()
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:  # it ended, or belongs to somebody else
                continue
            if mark in environment:
                found.add(int(entry.name))
    return found


def _interrupt_start(pid: int) -> None:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"instance" in command and b"start" in command:
            os.kill(pid, signal.SIGTERM)
    except OSError:  # it has ended by itself
        return


def _words(output: str) -> str:
    """Return what a runtime said, without colours and remarks."""
    lines = _COLOUR.sub("", output).splitlines()
    return "\n".join(line for line in lines if line and not line.startswith(("INFO:", "WARNING:")))
