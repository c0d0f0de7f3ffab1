"""Processes by identity, and the end of everything that belongs to one server.

Every process of a server carries the server's id in its command line (Triton's ``--id``; a
Python backend's stub has it in the name of its shared-memory region), and so do its regions in
``/dev/shm``. That makes them findable by anybody, from outside a container too, with no list
that could be out of date.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hermes.errors import ServerStopError

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (the kernel's place for it, not a temporary file)
POLL_S = 0.05
KILL_TIMEOUT_S = 10.0

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, told from a later one with the same id by its start time.

    Parameters
    ----------
    pid
        The process id.
    start_ticks
        Field 22 of ``/proc/PID/stat``: clock ticks between boot and the start of the process.
    """

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """Return the identity of a running process.

        Raises
        ------
        ProcessLookupError
            There is no such process.
        """
        state = _stat(pid)
        if state is None:
            raise ProcessLookupError(pid)
        return cls(pid, state.start_ticks)

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity:
        """Return the identity that ``str`` wrote as ``PID-TICKS``."""
        pid, _, ticks = text.partition("-")
        return cls(int(pid), int(ticks))

    def __str__(self) -> str:
        return f"{self.pid}-{self.start_ticks}"

    def is_alive(self) -> bool:
        """Tell whether this very process still runs; a zombie does not."""
        state = _stat(self.pid)
        return (
            state is not None and state.start_ticks == self.start_ticks and state.letter not in "ZX"
        )

    def age_s(self) -> float:
        """Return for how many seconds the process has been there."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.start_ticks / _TICKS_PER_S

    def wake(self) -> None:
        """Let the process go on if somebody stopped it."""
        state = _stat(self.pid)
        if state is not None and state.start_ticks == self.start_ticks and state.letter == "T":
            logger.warning("process %d was stopped; it is to go on", self.pid)
            _send(signal.SIGCONT, [self.pid])


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
                    found.add(ProcessIdentity(pid, state.start_ticks))
    return found


def server_processes(server_id: str) -> dict[int, list[str]]:
    """Return the command lines of a server's processes, by process id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended, or belongs to somebody else
            continue
        if f"--id={server_id}" in command or any(a.startswith(f"{server_id}-") for a in command):
            found[int(entry.name)] = command
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
    for entry in Path("/proc").iterdir():
        state = _stat(int(entry.name)) if entry.name.isdigit() else None
        if state is not None and state.letter == "Z" and state.parent in parents:
            found.append(f"a model's process, {entry.name}, has died")
    return found


def end_server(
    server_id: str,
    *,
    grace_s: float,
    settle_s: float = 0.0,
    close_container: Callable[[], None] = lambda: None,
    reap: Callable[[], object] = lambda: None,
) -> None:
    """End whatever a server consists of: politely first, then by force, then make sure.

    Parameters
    ----------
    server_id
        What the server was started with as ``--id``.
    grace_s
        Seconds that the server may take to finish its requests and unload its models; 0 ends it
        by force at once.
    settle_s
        Go on looking until nothing has shown up for so many seconds: for a caller that does not
        know whether the server was just about to start.
    close_container
        Ends the server's container; called when the server is gone.
    reap
        Called while waiting, so that the parent of a process can collect it.

    Raises
    ------
    ServerStopError
        Something is still there after it was killed.
    """
    signalled: set[int] = set()
    deadline = time.monotonic() + grace_s
    while (running := server_processes(server_id)) and time.monotonic() < deadline:
        servers = {pid for pid, command in running.items() if is_tritonserver(command)}
        if not servers and (signalled or all(_is_stub(command) for command in running.values())):
            break  # the server itself is gone; what is left of it is not worth a wait
        # Not the container runtime's client: it would take its server down by force.
        _send(signal.SIGTERM, servers - signalled)
        _send(signal.SIGCONT, running)  # one that was stopped could not hear it
        signalled |= servers
        reap()
        time.sleep(POLL_S)
    _kill(server_id, settle_s, reap)
    close_container()
    remaining = _kill(server_id, settle_s, reap)
    if remaining:
        raise ServerStopError(
            server_id=server_id, remaining=tuple(f"process {pid}" for pid in sorted(remaining))
        )
    for region in SHARED_MEMORY.glob(f"{server_id}-*"):
        region.unlink(missing_ok=True)


def is_tritonserver(command: list[str]) -> bool:
    """Tell whether a command line is the server itself, not a client or a backend's stub."""
    return Path(command[0]).name == "tritonserver"


def _is_stub(command: list[str]) -> bool:
    return Path(command[0]).name == "triton_python_backend_stub"


def _kill(server_id: str, settle_s: float, reap: Callable[[], object]) -> set[int]:
    """Kill a server's processes until none has shown up for a while; return those left."""
    deadline = time.monotonic() + KILL_TIMEOUT_S + settle_s
    quiet_since: float | None = None
    while True:
        running = set(server_processes(server_id))
        now = time.monotonic()
        if running:
            quiet_since = None
            _send(signal.SIGKILL, running)
        elif quiet_since is None:
            quiet_since = now
        if now > deadline or (quiet_since is not None and now - quiet_since >= settle_s):
            return running
        reap()
        time.sleep(POLL_S)


def _send(signal_number: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal_number)
        except ProcessLookupError:
            continue
        logger.debug("sent %s to process %d", signal_number.name, pid)


@dataclass(frozen=True, kw_only=True)
class _Stat:
    """What the kernel says of a process: see proc_pid_stat(5)."""

    letter: str
    parent: int
    start_ticks: int


def _stat(pid: int) -> _Stat | None:
    """Return what the kernel says of a process, or None where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the command's name may hold anything
    return _Stat(letter=fields[0], parent=int(fields[1]), start_ticks=int(fields[19]))
