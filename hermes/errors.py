"""Every error that hermes raises, as one tree.

HermesError
├── ParameterError (ValueError)           a parameter with an invalid value
├── MissingExtraError (ImportError)       an optional dependency that is not installed
├── OverwrittenError (ImportError)        modules that another package has overwritten
├── InstallError                          `hermes install-triton` did not finish
├── ServerError
│   ├── TritonNotFoundError               no tritonserver on this machine, or in the image
│   ├── SingularityNotFoundError          neither `singularity` nor `apptainer`
│   ├── ImageError                        a container image that is missing or unusable
│   ├── InstanceExistsError               the name of a container instance is taken
│   ├── InstanceStartError                the container runtime refused
│   ├── PortInUseError                    another process listens on the address
│   ├── GPUBusyError                      another process uses the GPU
│   ├── ServerDiedError                   the server ended unexpectedly
│   ├── ServerHangsError                  the server runs but does not respond
│   ├── ServerTimeoutError (TimeoutError) the server was not ready in time
│   ├── ServerStopError                   the server could not be stopped
│   ├── LockTimeoutError (TimeoutError)   another process holds a server's directory
│   ├── ProcError                         /proc does not show this PID namespace
│   └── SupervisorError                   the supervisor of a server failed
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
└── RequirementError                      a metric missed its requirement
"""

# Over 300 lines: every error, with the text of its message, is in one module.
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
        # Luigi's tasks are processes: an error is pickled with its attributes.
        return _rebuild, (type(self), self.args, self.__dict__)


@dataclass(eq=False)
class ParameterError(HermesError, ValueError):
    """A parameter with an invalid value."""

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
            f"{self.package} is not installed; install the extra {self.extra!r}: "
            f"pip install 'hermes-aeriel[{self.extra}]'"
        )


@dataclass(eq=False)
class OverwrittenError(HermesError, ImportError):
    """Another package has overwritten modules of this one."""

    modules: tuple[str, ...]
    problem: str

    def __str__(self) -> str:
        return f"{', '.join(self.modules)} cannot be imported: {self.problem}"


@dataclass(eq=False)
class InstallError(HermesError):
    """`hermes install-triton` did not finish; an earlier installation is unchanged."""

    step: str
    output: str
    advice: str = ""

    def __str__(self) -> str:
        text = f"Triton was not installed: {self.step} failed\n{_indented(self.output)}"
        return f"{text}\n{self.advice}" if self.advice else text


class ServerError(HermesError):
    """A Triton server that does not start, work or stop as requested."""


@dataclass(eq=False)
class TritonNotFoundError(ServerError):
    """No tritonserver was found."""

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
            "on the PATH. Install Apptainer, load its module, or omit the image to use the "
            "Triton of this machine"
        )


@dataclass(eq=False)
class ImageError(ServerError):
    """A container image that is missing or unusable."""

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
            f"omit it, or stop that instance: apptainer instance stop {self.name}"
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
    """Another process listens on the address of a server."""

    address: str
    service: str

    def __str__(self) -> str:
        return (
            f"the {self.service} address {self.address} is already in use; stop the process that "
            'listens there, give other ports, or let hermes choose free ones with ports="auto"'
        )


@dataclass(eq=False)
class GPUBusyError(ServerError):
    """Other processes use the GPUs of a server."""

    wanted: str
    holders: tuple[str, ...]
    states: tuple[str, ...] = ()

    @property
    def held_by(self) -> str:
        """The holders as one text."""
        return "; ".join(self.holders)

    def __str__(self) -> str:
        return (
            f"wanted {self.wanted}, but {self.held_by}. Wait longer (gpu_timeout_s), choose other "
            "GPUs, or stop the server that uses them (hermes ps, hermes stop)"
        )


@dataclass(eq=False)
class ServerDiedError(ServerError):
    """The server ended unexpectedly."""

    command: tuple[str, ...]
    exit_code: int | None
    log_file: Path
    log_tail: str

    def __str__(self) -> str:
        return (
            f"the Triton server ended unexpectedly with exit code {self.exit_code}. "
            f"Its log, {self.log_file}, ends with:\n{_indented(self.log_tail)}\n"
            f"  command: {shlex.join(self.command)}"
        )


@dataclass(eq=False)
class ServerHangsError(ServerError):
    """The server runs but does not respond."""

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
    """Parts of a server remain after it was stopped and killed."""

    server_id: str
    remaining: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"the server {self.server_id} could not be stopped; "
            f"still there: {', '.join(self.remaining)}"
        )


@dataclass(eq=False)
class LockTimeoutError(ServerError, TimeoutError):
    """Another process holds a server's directory."""

    lock: str
    timeout_s: float

    def __str__(self) -> str:
        return (
            f"another process has held the lock {self.lock} for {self.timeout_s:g} s; "
            f"`fuser {self.lock}` shows it. If it is stopped (state T), resume or end it"
        )


@dataclass(eq=False)
class ProcError(ServerError):
    """``/proc`` does not show the processes of this PID namespace."""

    problem: str

    def __str__(self) -> str:
        return (
            f"/proc {self.problem}, and hermes needs it to find the processes of a server; "
            "mount the proc file system of this PID namespace (unshare --mount-proc, or "
            "a container with its own /proc)"
        )


@dataclass(eq=False)
class SupervisorError(ServerError):
    """The supervisor of a server failed."""

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
    """A request that was not answered; `file` has its rows, where that is known."""

    file = ""

    @property
    def _of_file(self) -> str:
        return f"{self.file}: " if self.file else ""


@dataclass(eq=False)
class InputError(InferenceError, ValueError):
    """An array does not fit the model's input."""

    model: str
    tensor: str
    given: str
    wanted: str

    def __str__(self) -> str:
        where = f"input {self.tensor!r} of model {self.model!r}"
        return f"{self._of_file}{where}: given {self.given}, wanted {self.wanted}"


@dataclass(eq=False)
class RequestError(InferenceError):
    """The server refused a request, or failed to process it."""

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
    """Return the relevant end of a server's log, or why the log cannot be read.

    The result has Triton's last error lines (``E1123 …``, or the message about an unknown flag,
    which stands above the whole help text) and the last lines of the log, without tables.

    Parameters
    ----------
    log_file
        The log.
    lines
        The number of lines at the end that are always shown.
    since
        The offset in bytes of the first line to consider.
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
