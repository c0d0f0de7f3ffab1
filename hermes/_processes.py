"""Identities of processes, and the processes of one server; needs the standard library alone.

Every process of a server has the server's id in its command line (Triton's ``--id``; a Python
backend's stub has it in the name of its shared-memory region), and so do its regions in
``/dev/shm``. hermes finds them by it, from outside of a container too, without a list that could be
out of date. Processes of other users are never considered.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hermes.errors import ProcError

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (the kernel's place for it, not a temporary file)

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Host:
    """The scope in which process ids are unique: a PID namespace of a boot of a machine.

    Parameters
    ----------
    machine, boot
        Digests that identify the machine and the boot.
    namespace
        The inode of the PID namespace.
    """

    machine: str
    boot: str
    namespace: str

    @classmethod
    def here(cls) -> Host:
        """Return the host of this process; raise ProcError where ``/proc`` does not show it."""
        return _host(os.getpid())

    @classmethod
    def parse(cls, text: str) -> Host:
        """Return the host that ``str`` wrote."""
        machine, boot, namespace = text.split(".")
        return cls(machine, boot, namespace)

    def __str__(self) -> str:
        return f"{self.machine}.{self.boot}.{self.namespace}"

    @property
    def digest(self) -> str:
        """Six hexadecimal digits of its hash, for names."""
        return _digest(str(self))

    def is_over(self) -> bool:
        """Return whether it is an earlier boot of this machine: its processes have ended."""
        here = Host.here()
        return self.machine == here.machine and self.boot != here.boot


@functools.cache
def _host(pid: int) -> Host:
    """Return the host of this process; cached by process id: a child may change the namespace."""
    try:
        if int(Path("/proc/self").readlink().name) != pid:
            raise ProcError("belongs to another PID namespace: it shows other processes")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        namespace = Path("/proc/self/ns/pid").readlink().name
    except (OSError, ValueError) as error:
        raise ProcError(f"cannot be read ({error})") from error
    machine_id = Path("/etc/machine-id")
    machine = machine_id.read_text() if machine_id.exists() else ""
    return Host(
        machine=_digest(f"{socket.gethostname()} {machine}"),
        boot=_digest(boot),
        namespace="".join(filter(str.isdigit, namespace)),
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


@dataclass(frozen=True)
class ProcessIdentity:
    """One process; its start time distinguishes it from a later one with the same id.

    Parameters
    ----------
    pid
        The process id.
    start_ticks
        Field 22 of ``/proc/PID/stat``: clock ticks between boot and the start of the process.
    host
        The scope of the process id.
    """

    pid: int
    start_ticks: int
    host: Host

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """Return the identity of a running process.

        Raises
        ------
        ProcessLookupError
            There is no such process.
        ProcError
            ``/proc`` does not show the processes of this PID namespace.
        """
        host = Host.here()
        state = _stat(pid)
        if state is None:
            raise ProcessLookupError(pid)
        return cls(pid, state.start_ticks, host)

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity:
        """Return the identity that ``str`` wrote as ``PID-TICKS-HOST``.

        Raises
        ------
        ValueError
            The text is not an identity.
        """
        pid, ticks, host = text.split("-")
        return cls(int(pid), int(ticks), Host.parse(host))

    def __str__(self) -> str:
        return f"{self.pid}-{self.start_ticks}-{self.host}"

    @property
    def is_here(self) -> bool:
        """Whether the process is of this host and PID namespace; others are not visible."""
        return self.host == Host.here()

    def is_alive(self) -> bool:
        """Return whether this process runs here; a zombie does not."""
        state = self._state()
        return state is not None and state.letter not in "ZX"

    def is_dead(self) -> bool:
        """Return whether the process has certainly ended."""
        return not self.is_alive() if self.is_here else self.host.is_over()

    def age_s(self) -> float:
        """Return the seconds since the process started."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.start_ticks / _TICKS_PER_S

    def wake(self) -> None:
        """Resume the process if it is stopped."""
        state = self._state()
        if state is not None and state.letter == "T":
            logger.warning("process %d is stopped; resuming it", self.pid)
            send(signal.SIGCONT, [self.pid])

    def _state(self) -> _Stat | None:
        state = _stat(self.pid) if self.is_here else None
        return state if state is not None and state.start_ticks == self.start_ticks else None


def stopped_forks() -> set[ProcessIdentity]:
    """Return the stopped children of this process that were forked and have not called exec."""
    found = set()
    command = Path("/proc/self/cmdline").read_bytes()
    for children in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # a thread or a child has ended
            for pid in map(int, children.read_text().split()):
                state = _stat(pid)
                is_fork = Path(f"/proc/{pid}/cmdline").read_bytes() == command
                if state is not None and state.letter == "T" and is_fork:
                    found.add(ProcessIdentity(pid, state.start_ticks, Host.here()))
    return found


def server_processes(server_id: str) -> dict[int, list[str]]:
    """Return the command lines of a server's processes, by process id."""
    found = {}
    for pid in _pids():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        is_of_server = f"--id={server_id}" in command or any(
            argument.startswith(f"{server_id}-") for argument in command
        )
        if is_of_server and pid != os.getpid() and is_own_process(pid):
            found[pid] = command
    return found


def ailing_processes(server_id: str) -> list[str]:
    """Return descriptions of the processes of a server that do not work.

    A Python backend's stub that was killed remains as a zombie of the server, which never starts
    another one and still reports the model as ready (Triton 2.51). A stopped process never answers
    its requests.
    """
    servers = server_processes(server_id)
    found = []
    for pid in servers:
        state = _stat(pid)
        if state is not None and state.letter == "T":
            found.append(f"process {pid} is stopped")
    parents = {pid for pid, command in servers.items() if is_tritonserver(command)}
    for pid in _pids():
        state = _stat(pid)
        if state is not None and state.letter == "Z" and state.parent in parents:
            found.append(f"a model's process, {pid}, has died")
    return found


def is_tritonserver(command: list[str]) -> bool:
    """Return whether a command line is that of the server itself."""
    return Path(command[0]).name == "tritonserver"


def is_stub(command: list[str]) -> bool:
    """Return whether a command line is that of a model's process of the Python backend."""
    return Path(command[0]).name == "triton_python_backend_stub"


def marked_processes(mark: str) -> set[int]:
    """Return the processes of this user with a text such as ``NAME=value`` in their environment.

    Apptainer's processes have it in a variable that holds the container's whole environment.
    """
    whole = re.compile(rf"{re.escape(mark)}(?![A-Za-z0-9._-])".encode())
    found = set()
    for pid in _pids():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:  # it has ended, or belongs to another user
            continue
        if whole.search(environment) and is_own_process(pid):
            found.add(pid)
    return found


def send(signal_number: signal.Signals, pids: Iterable[int]) -> None:
    """Send a signal to processes; ignore those that have ended or belong to others."""
    for pid in pids:
        try:
            os.kill(pid, signal_number)
        except (ProcessLookupError, PermissionError) as error:
            logger.debug("cannot send %s to process %d: %s", signal_number.name, pid, error)
        else:
            logger.debug("sent %s to process %d", signal_number.name, pid)


def is_own_process(pid: int) -> bool:
    """Return whether this user started a process: the real user counts, as in a setuid program."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith("Uid:"):
                return int(line.split()[1]) == os.getuid()
    except OSError:  # it has ended
        return False
    return False


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


@dataclass(frozen=True, kw_only=True)
class _Stat:
    """Fields of ``/proc/PID/stat``: see proc_pid_stat(5)."""

    letter: str
    parent: int
    start_ticks: int


def _stat(pid: int) -> _Stat | None:
    """Return the fields of ``/proc/PID/stat``, or None where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the command's name may contain blanks and brackets
    return _Stat(letter=fields[0], parent=int(fields[1]), start_ticks=int(fields[19]))
