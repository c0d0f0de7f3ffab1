"""Every error that hermes raises, as one tree.

HermesError
├── ParameterError (ValueError)           a parameter that cannot be right
├── MissingExtraError (ImportError)       an optional dependency that is not installed
├── InstallError                          `hermes install-triton` did not finish
├── ServerError
│   ├── TritonNotFoundError               no tritonserver on this machine, or in the image
│   ├── SingularityNotFoundError          neither `singularity` nor `apptainer`
│   ├── ImageError                        an image that is missing, or is none
│   ├── InstanceExistsError               the name of a container instance is taken
│   ├── InstanceStartError                the container runtime refused
│   ├── PortInUseError                    somebody else listens there
│   ├── GPUBusyError                      somebody else has the GPU
│   ├── ServerDiedError                   the server ended by itself
│   ├── ServerHangsError                  the server runs, but does not work
│   ├── ServerTimeoutError (TimeoutError) the server was not ready in time
│   ├── ServerStopError                   the server could not be stopped
│   ├── LockTimeoutError (TimeoutError)   another process holds a server's directory
│   ├── ProcError                         /proc does not show this PID namespace
│   └── SupervisorError                   the process that keeps a server gave up
├── ModelError
│   ├── ModelNotFoundError                the repository or the server has no such model
│   └── ModelLoadError                    the model is there but does not load
├── InferenceError
│   ├── InputError (ValueError)           what was given does not fit the model
│   ├── RequestError                      the server refused or failed a request
│   └── RequestTimeoutError (TimeoutError)
├── DataError (ValueError)                an HDF5 file that cannot be used
├── EngineError                           a batch system that does not do what was asked of it
├── JobsError                             files that batch jobs could not do
├── FilesError                            several such files of many
├── HookError                             a hook that failed, or returned the wrong thing
├── OutputError (OSError)                 results that cannot be written
└── RequirementError                             a metric missed its requirement
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 1 << 16
# Of the files that failed, in one message.
SHOWN_PROBLEMS = 10
_ERROR_LINE = re.compile(r"E\d{4} |error: |.*: unrecognized option ")


class HermesError(Exception):
    """The base of every error that hermes raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Tasks are processes: an error crosses them with its facts, however it was built.
        return _rebuild, (type(self), self.args, self.__dict__)


@dataclass(eq=False)
class ParameterError(HermesError, ValueError):
    """A parameter that cannot be right."""

    parameter: str
    problem: str

    def __str__(self) -> str:
        return f"{self.parameter}: {self.problem}"


@dataclass(eq=False)
class MissingExtraError(HermesError, ImportError):
    """An optional dependency that is not installed."""

    package: str
    extra: str

    def __str__(self) -> str:
        return (
            f"{self.package} is not installed; it comes with the extra {self.extra!r}: "
            f"pip install 'hermes-aeriel[{self.extra}]'"
        )


@dataclass(eq=False)
class InstallError(HermesError):
    """`hermes install-triton` did not finish; what was there before is untouched."""

    step: str
    output: str
    advice: str = ""

    def __str__(self) -> str:
        text = f"Triton was not installed: {self.step} failed\n{_indented(self.output)}"
        return f"{text}\n{self.advice}" if self.advice else text


class ServerError(HermesError):
    """A Triton server that does not do what was asked of it."""


@dataclass(eq=False)
class TritonNotFoundError(ServerError):
    """There is no tritonserver where one was looked for."""

    looked_in: tuple[str, ...]
    advice: str

    def __str__(self) -> str:
        return f"no tritonserver found; looked in {'; '.join(self.looked_in)}. {self.advice}"


@dataclass(eq=False)
class SingularityNotFoundError(ServerError):
    """There is neither a `singularity` nor an `apptainer` command."""

    image: str

    def __str__(self) -> str:
        return (
            f"cannot serve from the image {self.image}: neither `singularity` nor `apptainer` is "
            "on the PATH. Install Apptainer, load its module, or leave the image out to use a "
            "Triton on this machine"
        )


@dataclass(eq=False)
class ImageError(ServerError):
    """A container image that is missing, or is none."""

    image: str
    problem: str

    def __str__(self) -> str:
        return f"image {self.image}: {self.problem}"


@dataclass(eq=False)
class InstanceExistsError(ServerError):
    """The name of a container instance is taken."""

    name: str

    def __str__(self) -> str:
        return (
            f"a container instance named {self.name!r} is already running; choose another `name`, "
            f"leave it out, or end that one: apptainer instance stop {self.name}"
        )


@dataclass(eq=False)
class InstanceStartError(ServerError):
    """The container runtime refused to start an instance."""

    image: str
    output: str

    def __str__(self) -> str:
        return f"no container could be started from {self.image}:\n{_indented(self.output)}"


@dataclass(eq=False)
class PortInUseError(ServerError):
    """Somebody else listens on the address that a server was to have."""

    address: str
    service: str

    def __str__(self) -> str:
        return (
            f"the {self.service} address {self.address} is already in use; end what listens there, "
            'give other ports, or ask for free ones with ports="auto"'
        )


@dataclass(eq=False)
class GPUBusyError(ServerError):
    """Somebody else has the GPUs that a server was to have."""

    wanted: str
    holders: tuple[str, ...]
    states: tuple[str, ...] = ()

    @property
    def held_by(self) -> str:
        """Who has them, in one text."""
        return "; ".join(self.holders)

    def __str__(self) -> str:
        return (
            f"wanted {self.wanted}, but {self.held_by}. Wait for it (gpu_timeout_s), "
            "ask for others, or end what holds it: hermes ps, hermes stop"
        )


@dataclass(eq=False)
class ServerDiedError(ServerError):
    """The server ended by itself."""

    command: tuple[str, ...]
    exit_code: int | None
    log_file: Path
    log_tail: str

    def __str__(self) -> str:
        return (
            f"the Triton server ended with exit code {self.exit_code} before it was asked to. "
            f"Its log, {self.log_file}, ends with:\n{_indented(self.log_tail)}\n"
            f"  command: {shlex.join(self.command)}"
        )


@dataclass(eq=False)
class ServerHangsError(ServerError):
    """The server runs, but does not do its work any more."""

    problem: str
    log_file: Path
    log_tail: str

    def __str__(self) -> str:
        return (
            f"the Triton server hangs: {self.problem}. Its log, {self.log_file}, ends with:\n"
            f"{_indented(self.log_tail)}"
        )


@dataclass(eq=False)
class ServerTimeoutError(ServerError, TimeoutError):
    """The server was not ready before the deadline."""

    address: str
    timeout_s: float
    waiting_for: str
    log_file: Path | None = None
    log_tail: str = ""

    def __str__(self) -> str:
        log = f". Its log, {self.log_file}, ends with:\n{_indented(self.log_tail)}"
        return (
            f"the server at {self.address} was not ready after {self.timeout_s:g} s: "
            f"{self.waiting_for}{log if self.log_file else ''}"
        )


@dataclass(eq=False)
class ServerStopError(ServerError):
    """Something of a server is still there after it was told, and forced, to stop."""

    server_id: str
    remaining: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"the server {self.server_id} could not be stopped; left: {', '.join(self.remaining)}"
        )


@dataclass(eq=False)
class LockTimeoutError(ServerError, TimeoutError):
    """Another process holds a server's directory."""

    lock: str
    timeout_s: float

    def __str__(self) -> str:
        return (
            f"another process has held {self.lock} for {self.timeout_s:g} s; "
            f"`fuser {self.lock}` names it: if it was stopped (state T), let it go on or end it"
        )


@dataclass(eq=False)
class ProcError(ServerError):
    """``/proc`` does not show the processes of this PID namespace."""

    problem: str

    def __str__(self) -> str:
        return (
            f"/proc {self.problem}, but hermes finds the processes of a server there; "
            "mount the proc file system of this PID namespace (unshare --mount-proc, or "
            "a container with its own /proc)"
        )


@dataclass(eq=False)
class SupervisorError(ServerError):
    """The process that keeps a server gave up."""

    reason: str
    log_tail: str = ""

    def __str__(self) -> str:
        log = f". The end of its log:\n{_indented(self.log_tail)}"
        return f"no server: {self.reason}{log if self.log_tail else ''}"


class ModelError(HermesError):
    """A model that cannot be served."""


@dataclass(eq=False)
class ModelNotFoundError(ModelError):
    """The repository, or the server, has no such model or version."""

    model: str
    where: str
    available: tuple[str, ...]

    def __str__(self) -> str:
        there = ", ".join(self.available) if self.available else "none"
        return f"{self.where} has no model {self.model!r}; models there: {there}"


@dataclass(eq=False)
class ModelLoadError(ModelError):
    """The server has the model but could not load it."""

    model: str
    where: str
    reason: str

    def __str__(self) -> str:
        return f"model {self.model!r} of {self.where} does not load: {self.reason}"


class InferenceError(HermesError):
    """A request that did not get its answer; `file` has the rows of it, where that is known."""

    file = ""

    @property
    def _of_file(self) -> str:
        return f"{self.file}: " if self.file else ""


@dataclass(eq=False)
class InputError(InferenceError, ValueError):
    """What was given does not fit the model's input."""

    model: str
    tensor: str
    given: str
    wanted: str

    def __str__(self) -> str:
        where = f"input {self.tensor!r} of model {self.model!r}"
        return f"{self._of_file}{where}: given {self.given}, wanted {self.wanted}"


@dataclass(eq=False)
class RequestError(InferenceError):
    """The server refused a request, or failed at it."""

    model: str
    address: str
    status: str
    reason: str

    def __str__(self) -> str:
        where = f"{self._of_file}model {self.model!r} at {self.address}"
        return f"{where}: {self.reason} ({self.status})"


@dataclass(eq=False)
class RequestTimeoutError(InferenceError, TimeoutError):
    """A request was not answered before its deadline."""

    model: str
    address: str
    timeout_s: float

    def __str__(self) -> str:
        where = f"{self._of_file}model {self.model!r} at {self.address}"
        return f"{where} did not answer within {self.timeout_s:g} s"


@dataclass(eq=False)
class DataError(HermesError, ValueError):
    """An HDF5 file, or a dataset in it, that cannot be used."""

    file: str
    problem: str
    dataset: str | None = None

    def __str__(self) -> str:
        dataset = f", dataset {self.dataset!r}" if self.dataset is not None else ""
        return f"{self.file}{dataset}: {self.problem}"


@dataclass(eq=False)
class EngineError(HermesError):
    """A batch system that does not do what was asked of it."""

    command: tuple[str, ...]
    problem: str

    def __str__(self) -> str:
        return f"{shlex.join(self.command)}: {self.problem}"


@dataclass(eq=False)
class JobsError(HermesError):
    """Batch jobs that could not do what they were submitted for."""

    problems: tuple[str, ...]

    def __str__(self) -> str:
        return f"batch jobs failed:\n{_listed(self.problems)}"


@dataclass(eq=False)
class FilesError(HermesError):
    """Several HDF5 files of many that cannot be used; each of the problems names its file."""

    problems: tuple[str, ...]
    n_files: int

    def __str__(self) -> str:
        counts = f"{len(self.problems)} of {self.n_files} files cannot be used"
        return f"{counts}:\n{_listed(self.problems)}"


@dataclass(eq=False)
class HookError(HermesError):
    """A hook failed, or returned what cannot be used."""

    hook: str
    file: str
    rows: str
    problem: str

    def __str__(self) -> str:
        return f"{self.hook}, {self.rows} of {self.file}: {self.problem}"


@dataclass(eq=False)
class OutputError(HermesError, OSError):
    """Results that cannot be written."""

    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


@dataclass(eq=False)
class RequirementError(HermesError):
    """At least one metric missed its requirement."""

    misses: tuple[str, ...]
    report: str

    def __str__(self) -> str:
        return f"{'; '.join(self.misses)}. The report is {self.report}"


def log_tail(log_file: Path, lines: int = LOG_TAIL_LINES, *, since: int = 0) -> str:
    """Return what matters at the end of a server's log, or why it cannot be read.

    That is Triton's last error lines (``E1123 …``; what it says of a flag that it does not know,
    above its whole help) and the last lines of all, without its tables.

    Parameters
    ----------
    log_file
        The log.
    lines
        How many lines at the end are shown in any case.
    since
        The byte at which what matters begins.
    """
    try:
        with log_file.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(since, file.tell() - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"(the log cannot be read: {error})"
    kept = [line for line in text.splitlines() if line.strip() and line[0] not in "|+"]
    earlier = [line for line in kept[:-lines] if _ERROR_LINE.match(line)]
    return "\n".join([*earlier[-lines:], *kept[-lines:]]) or "(the log is empty)"


def _listed(problems: tuple[str, ...]) -> str:
    first, others = problems[:SHOWN_PROBLEMS], problems[SHOWN_PROBLEMS:]
    more = (f"and {len(others)} more",) if others else ()
    return _indented("\n".join((*first, *more)))


def _indented(text: str) -> str:
    return "\n".join(f"  | {line}" for line in text.splitlines())


def _rebuild(
    cls: type[HermesError], args: tuple[object, ...], facts: dict[str, object]
) -> HermesError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(facts)
    return error
