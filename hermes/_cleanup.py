"""The end of a server, for whoever ends it; nothing but the standard library.

The instance that started it, its watcher, ``hermes stop`` and the sweep at the next start all call
`end_all`, which needs the server's directory and nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hermes._directory import ServerDirectory, facts_of, old_logs, write_state
from hermes._processes import (
    is_stub,
    is_tritonserver,
    marked_processes,
    send,
    server_processes,
)
from hermes._shared_memory import server_regions, sweep_regions
from hermes.errors import LockTimeoutError, ServerStopError

logger = logging.getLogger(__name__)

POLL_S = 0.05
KILL_TIMEOUT_S = 10.0
SETTLE_S = 1.0
MARK = "HERMES_SERVER_ID"
LOG_DAYS = 7.0
RUNTIME_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
STOP_GRACE_S = 5
LOST_S = 5.0
QUIET_S = 0.3
# A start goes through several programs; on a busy host there is nothing to see for some time.
QUIET_START_S = 3.0
# What decides where a container runtime keeps its list of instances.
_REGISTRY_VARIABLES = ("HOME", "PATH", "APPTAINER_CONFIGDIR", "SINGULARITY_CONFIGDIR")


@dataclass(frozen=True, kw_only=True)
class Container:
    """The container instance that a server runs in.

    Parameters
    ----------
    runtime
        The path of the ``singularity`` or ``apptainer`` command.
    name
        The instance's name.
    pid
        Its first process, where it is known.
    is_starting
        Whether it was being started when this was written: it may come up later.
    environ
        The variables that decide where the runtime looks for it.
    """

    runtime: str
    name: str
    pid: int | None = None
    is_starting: bool = False
    environ: Mapping[str, str] = field(
        default_factory=lambda: {
            name: os.environ[name] for name in _REGISTRY_VARIABLES if name in os.environ
        }
    )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What has to be known to end a server, beside its id.

    Parameters
    ----------
    grace_s
        Seconds that the server may take to finish its requests.
    container
        The container instance that it runs in, if any.
    endpoint_file
        A file outside of the directory that its endpoint is written to, if any.
    gpu_notes
        The files that say who holds its GPUs.
    started_by
        ``supervisor``, ``command`` (``hermes serve``) or ``program``.
    """

    grace_s: float = 30.0
    container: Container | None = None
    endpoint_file: str | None = None
    gpu_notes: tuple[str, ...] = ()
    started_by: str = "program"

    def write(self, directory: ServerDirectory) -> None:
        """Write it into the server's directory."""
        write_state(directory.plan_file, json.dumps(asdict(self)))

    @classmethod
    def read(cls, directory: ServerDirectory) -> Plan:
        """Return the one in a server's directory; without any there was no server yet."""
        facts: dict[str, Any] | None = facts_of(directory.plan_file)
        if facts is None:
            return cls()
        if facts["container"] is not None:
            facts["container"] = Container(**facts["container"])
        return cls(**facts)


def end_all(
    directory: ServerDirectory,
    *,
    grace_s: float | None = None,
    settle_s: float = SETTLE_S,
    reap: Callable[[], object] = lambda: None,
) -> None:
    """End whatever there is of a server, and remove what it leaves but its logs and leases.

    Goes on with the rest where something cannot be done. The caller holds `cleaning`, or is the
    process that started the server.

    Parameters
    ----------
    directory
        The server's directory.
    grace_s
        Seconds that the server may take to finish; by default what its plan says.
    settle_s
        Go on looking until nothing has shown up for so many seconds: for a caller that does not
        know whether the server was just about to start.
    reap
        Called while waiting, so that the parent of a process can collect it.

    Raises
    ------
    ServerStopError
        Something is still there.
    """
    plan = Plan.read(directory)
    server_id = directory.server_id
    remaining: list[str] = []
    directory.endpoint_file.unlink(missing_ok=True)
    if plan.endpoint_file is not None:
        _remove_endpoint(Path(plan.endpoint_file), server_id)
    end_politely(server_id, plan.grace_s if grace_s is None else grace_s, reap)
    kill(server_id, settle_s, reap)
    if plan.container is not None:
        remaining += stop_container(plan.container, server_id)
    remaining += [f"process {pid}" for pid in sorted(kill(server_id, settle_s, reap))]
    if remaining:
        # Its regions may be in use, and the next one who looks has to find the plan.
        raise ServerStopError(server_id=server_id, remaining=tuple(remaining))
    for region in server_regions(server_id):
        region.unlink(missing_ok=True)
    directory.remove_server_files()


def end_leftovers(directory: ServerDirectory) -> None:
    """End what the owner of a directory left who was killed; the caller holds `cleaning`.

    Raises
    ------
    ServerStopError
        Something is still there.
    """
    if directory.plan_file.exists():  # else no server was ever started
        end_all(directory)
    directory.log_file.unlink(missing_ok=True)


def sweep(home: Path) -> None:
    """End what those left behind who were killed, in all directories of this user.

    Called at every start of a server, and where a pipeline begins. What another process cleans
    already is left to it. Logs of servers that failed go after a week.
    """
    for directory in ServerDirectory.all(home):
        if not (directory.is_left() or directory.is_vacant()):
            continue
        try:
            # Within `cleaning`, which whoever starts a server here holds before it is the owner.
            with directory.cleaning(timeout_s=0):
                if directory.is_left():
                    logger.info("%s: its owner is gone; what it left is ended", directory.path)
                    end_leftovers(directory)
                    directory.clear_owner()
                directory.tidy()
        except LockTimeoutError:
            continue
        except (ServerStopError, OSError) as error:
            logger.warning("%s: %s", directory.path, error)
    for log in old_logs(home, LOG_DAYS):
        log.unlink(missing_ok=True)
    sweep_regions()


def end_politely(server_id: str, grace_s: float, reap: Callable[[], object]) -> None:
    """Ask a server to end, and return when it has, or after `grace_s` seconds."""
    signalled: set[int] = set()
    deadline = time.monotonic() + grace_s
    while (running := server_processes(server_id)) and time.monotonic() < deadline:
        servers = {pid for pid, command in running.items() if is_tritonserver(command)}
        if not servers and (signalled or all(is_stub(command) for command in running.values())):
            return  # the server itself is gone; what is left of it is not worth a wait
        # Not the container runtime's client: it would take its server down by force.
        send(signal.SIGTERM, servers - signalled)
        send(signal.SIGCONT, running)  # one that was stopped could not hear it
        signalled |= servers
        reap()
        time.sleep(POLL_S)


def kill(server_id: str, settle_s: float, reap: Callable[[], object] = lambda: None) -> set[int]:
    """Kill a server's processes until none has shown up for a while; return those left."""
    deadline = time.monotonic() + KILL_TIMEOUT_S + settle_s
    quiet_since: float | None = None
    while True:
        running = set(server_processes(server_id))
        now = time.monotonic()
        if running:
            quiet_since = None
            send(signal.SIGKILL, running)
        elif quiet_since is None:
            quiet_since = now
        if now > deadline or (quiet_since is not None and now - quiet_since >= settle_s):
            return running
        reap()
        time.sleep(POLL_S)


def stop_container(container: Container, server_id: str) -> list[str]:
    """Stop a server's container instance, or the start of one; return what is left of it.

    A name does not say whose instance it is. Apptainer 1.4 checks a name and takes it in two
    steps, so that two may start at once. So the first process of every instance, and whatever
    starts it, carries the id of the server that it is for in its environment.
    """
    started_at = time.monotonic()
    # A look may miss a process: for a moment, one that becomes another program has no environment.
    seen_at: float | None = None
    quiet_s = QUIET_START_S if container.is_starting else QUIET_S
    while time.monotonic() < started_at + STOP_TIMEOUT_S:
        marked = marked_processes(f"{MARK}={server_id}")
        listed = _listed(container)
        if listed is not None and listed in {container.pid, *marked}:
            _run(container, "instance", "stop", "--timeout", str(STOP_GRACE_S), container.name)
        elif not marked and seen_at is not None and time.monotonic() - seen_at > quiet_s:
            if listed is None:
                _remove_empty_logs(container)
            return []
        elif marked:
            # It is being started, maybe downloaded: the command can be stopped, and what it
            # has started by then ends, or shows up in the list. But for one whose place there
            # another one took: Apptainer can be made to start two of one name at once.
            is_lost = listed is not None or time.monotonic() > started_at + LOST_S
            for pid in marked:
                _end_start(pid, signal.SIGKILL if is_lost else signal.SIGTERM)
        if marked or seen_at is None:
            seen_at = time.monotonic()
        time.sleep(POLL_S)
    return [f"container instance {container.name}"]


def _listed(container: Container) -> int | None:
    """Return the first process of the running instance of this name, if there is one."""
    output = _run(container, "instance", "list", "--json", container.name)
    with suppress(ValueError, KeyError, TypeError, IndexError):
        for instance in json.loads(output)["instances"]:
            if instance["instance"] == container.name:
                return int(instance["pid"])
    return None


def _run(container: Container, *arguments: str) -> str:
    # Not by spython: the watcher has nothing but the standard library.
    try:
        done = subprocess.run(
            [container.runtime, *arguments],
            env={**os.environ, **container.environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=RUNTIME_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("%s: %s", container.runtime, error)
        return ""
    return done.stdout


def _end_start(pid: int, signal_number: signal.Signals) -> None:
    """Send SIGTERM to a process if it is an ``instance start``, SIGKILL whatever it is."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:  # it has ended by itself
        return
    if signal_number == signal.SIGKILL or (b"instance" in command and b"start" in command):
        send(signal_number, [pid])


def _remove_empty_logs(container: Container) -> None:
    """Remove the runtime's logs of an instance, which are empty: the server has its own.

    The runtime tells where they are of an instance that runs only, but makes them before that.
    """
    environ = {**os.environ, **container.environ}
    for runtime in ("apptainer", "singularity"):
        named = environ.get(f"{runtime.upper()}_CONFIGDIR")
        home = Path(named) if named else Path(environ.get("HOME") or "/") / f".{runtime}"
        logs = home / "instances" / "logs" / socket.gethostname()
        for log in [*logs.glob(f"*/{container.name}.err"), *logs.glob(f"*/{container.name}.out")]:
            with suppress(OSError):  # somebody else stops it too
                if log.stat().st_size == 0:
                    log.unlink()


def _remove_endpoint(file: Path, server_id: str) -> None:
    """Remove an endpoint file, unless it is another server's by now."""
    facts = facts_of(file) if file.is_file() else None
    if facts is not None and facts.get("server_id") == server_id:
        file.unlink(missing_ok=True)
