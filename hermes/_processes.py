"""Processes by identity, and those of one server; nothing but the standard library.

Every process of a server carries the server's id in its command line (Triton's ``--id``; a
Python backend's stub has it in the name of its shared-memory region), and so do its regions in
``/dev/shm``. That makes them findable from outside a container too, without a list that could be
out of date. Processes of other users are never candidates, whatever their command lines say.
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
    """What a process id means something on: one PID namespace of one boot of one machine.

    Parameters
    ----------
    machine, boot
        Digests that tell machines and boots apart.
    namespace
        The inode of the PID namespace.
    """

    machine: str
    boot: str
    namespace: str

    @classmethod
    def here(cls) -> Host:
        """Return that of this process.

        Raises
        ------
        ProcError
            ``/proc`` is not there, or is that of another PID namespace.
        """
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
        """Six hexadecimal digits that stand for it in names."""
        return _digest(str(self))

    def is_over(self) -> bool:
        """Tell whether it is an earlier boot of this machine, so that its processes are gone."""
        here = Host.here()
        return self.machine == here.machine and self.boot != here.boot


@functools.cache
def _host(pid: int) -> Host:
    """Return the host of this process; by process id, since a child may be in another namespace."""
    try:
        if int(Path("/proc/self").readlink().name) != pid:
            raise ProcError("is that of another PID namespace: it shows other processes")
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
    """One process, told from a later one with the same id by its start time.

    Parameters
    ----------
    pid
        The process id.
    start_ticks
        Field 22 of ``/proc/PID/stat``: clock ticks between boot and the start of the process.
    host
        Where that process id means this process.
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
            The text is none.
        """
        pid, ticks, host = text.split("-")
        return cls(int(pid), int(ticks), Host.parse(host))

    def __str__(self) -> str:
        return f"{self.pid}-{self.start_ticks}-{self.host}"

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this host and PID namespace: no other can be judged."""
        return self.host == Host.here()

    def is_alive(self) -> bool:
        """Tell whether this very process runs here; a zombie does not."""
        state = self._state()
        return state is not None and state.letter not in "ZX"

    def is_dead(self) -> bool:
        """Tell whether the process is known to have ended."""
        return not self.is_alive() if self.is_here else self.host.is_over()

    def age_s(self) -> float:
        """Return for how many seconds the process has been there."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.start_ticks / _TICKS_PER_S

    def wake(self) -> None:
        """Let the process go on if somebody stopped it."""
        state = self._state()
        if state is not None and state.letter == "T":
            logger.warning("process %d was stopped; it is to go on", self.pid)
            send(signal.SIGCONT, [self.pid])

    def _state(self) -> _Stat | None:
        state = _stat(self.pid) if self.is_here else None
        return state if state is not None and state.start_ticks == self.start_ticks else None


def stopped_forks() -> set[ProcessIdentity]:
    """Return the children of this process that somebody stopped, of those that run its program.

    That is, those it forked and that are nothing else by now.
    """
    found = set()
    command = Path("/proc/self/cmdline").read_bytes()
    for children in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # a thread, or a child, that has ended
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
        except OSError:  # it ended
            continue
        is_of_server = f"--id={server_id}" in command or any(
            argument.startswith(f"{server_id}-") for argument in command
        )
        if is_of_server and pid != os.getpid() and is_own_process(pid):
            found[pid] = command
    return found


def ailing_processes(server_id: str) -> list[str]:
    """Return what is wrong with processes of a server that still has some.

    A Python backend's stub that was killed stays as a zombie of the server, which never starts
    another one and goes on saying that the model is ready (Triton 2.51); a stopped process holds
    its requests for ever.
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
    """Tell whether a command line is the server itself, not a client or a backend's stub."""
    return Path(command[0]).name == "tritonserver"


def is_stub(command: list[str]) -> bool:
    """Tell whether a command line is a model's process of the Python backend."""
    return Path(command[0]).name == "triton_python_backend_stub"


def marked_processes(mark: str) -> set[int]:
    """Return the processes of this user with a text such as ``NAME=value`` in their environment.

    Apptainer's have it within a variable of its own, which holds the container's environment.
    """
    whole = re.compile(rf"{re.escape(mark)}(?![A-Za-z0-9._-])".encode())
    found = set()
    for pid in _pids():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:  # it ended, or belongs to somebody else
            continue
        if whole.search(environment) and is_own_process(pid):
            found.add(pid)
    return found


def send(signal_number: signal.Signals, pids: Iterable[int]) -> None:
    """Send a signal to processes, as far as they are there and this user may."""
    for pid in pids:
        try:
            os.kill(pid, signal_number)
        except (ProcessLookupError, PermissionError) as error:
            logger.debug("%s does not reach process %d: %s", signal_number.name, pid, error)
        else:
            logger.debug("sent %s to process %d", signal_number.name, pid)


def is_own_process(pid: int) -> bool:
    """Tell whether this user started a process: its real user, a setuid program's too."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith("Uid:"):
                return int(line.split()[1]) == os.getuid()
    except OSError:  # it ended
        return False
    return False


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


@dataclass(frozen=True, kw_only=True)
class _Stat:
    """What the kernel says of a process: see proc_pid_stat(5)."""

    letter: str
    parent: int
    start_ticks: int


def _stat(pid: int) -> _Stat | None:
    """Return what the kernel says of a process, or None where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the command's name may hold anything
    return _Stat(letter=fields[0], parent=int(fields[1]), start_ticks=int(fields[19]))
