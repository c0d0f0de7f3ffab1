"""Ends a server and removes its files; needs the standard library alone.

The instance that started the server, its guard, ``hermes stop`` and the sweep at the next start all
call `end_all`, which needs only the server's directory.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hermes._captured import run_captured
from hermes._directory import LOCK_TIMEOUT_S, ServerDirectory, old_logs
from hermes._processes import is_stub, is_tritonserver, send, server_processes
from hermes._shared_memory import server_regions, sweep_regions
from hermes._state_files import facts_of, write_state
from hermes.errors import LockTimeoutError, ServerStopError

logger = logging.getLogger(__name__)

POLL_S = 0.05
KILL_TIMEOUT_S = 10.0
SETTLE_S = 1.0
LOG_DAYS = 7.0
CONTAINER_TIMEOUT_S = 180.0


@dataclass(frozen=True, kw_only=True)
class Container:
    """The container that a server runs in, and the command that ends it.

    Parameters
    ----------
    name
        The container's name, for messages.
    stop
        A command that ends the container, or the start of one. Its exit code is 0 when nothing of
        the container is left, also where there was none.
    environ
        Variables that the command needs, on top of those of the process that runs it.
    """

    name: str
    stop: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is needed to end a server, besides its id.

    Parameters
    ----------
    grace_s
        Seconds that the server may take to finish its requests.
    container
        The container that it runs in, if any.
    endpoint_file
        A file outside of the directory that holds the server's endpoint, if any.
    gpu_notes
        The files that record the holder of each of its GPUs.
    started_by
        ``supervisor``, ``command`` (``hermes serve``) or ``program``.
    """

    grace_s: float = 30.0
    container: Container | None = None
    endpoint_file: str | None = None
    gpu_notes: tuple[str, ...] = ()
    started_by: str = "program"

    def write(self, directory: ServerDirectory) -> None:
        """Write the plan into the server's directory."""
        write_state(directory.plan_file, json.dumps(asdict(self)))

    @classmethod
    def read(cls, directory: ServerDirectory) -> Plan:
        """Return the plan in a server's directory; the default one where there is none."""
        facts: dict[str, Any] | None = facts_of(directory.plan_file)
        if facts is None:
            return cls()
        if (container := facts["container"]) is not None:
            facts["container"] = Container(**{**container, "stop": tuple(container["stop"])})
        return cls(**facts)


def end_all(
    directory: ServerDirectory,
    *,
    grace_s: float | None = None,
    reap: Callable[[], object] | None = None,
) -> None:
    """End all processes of a server, and remove its files except logs and leases.

    A step that fails does not prevent the others. The caller holds `cleaning`, or is the process
    that started the server.

    Parameters
    ----------
    directory
        The server's directory.
    grace_s
        Seconds that the server may take to finish; by default those of its plan.
    reap
        Called while waiting, so that the parent of the server can collect its exit status. To any
        other process the server may be just starting: the search then goes on for `SETTLE_S`.

    Raises
    ------
    ServerStopError
        Parts of the server remain.
    """
    plan = Plan.read(directory)
    server_id = directory.server_id
    remaining: list[str] = []
    settle_s = SETTLE_S if reap is None else 0.0
    reap = reap or (lambda: None)
    directory.endpoint_file.unlink(missing_ok=True)
    if plan.endpoint_file is not None:
        _remove_endpoint(Path(plan.endpoint_file), server_id)
    end_politely(server_id, plan.grace_s if grace_s is None else grace_s, reap)
    kill(server_id, settle_s, reap)
    if plan.container is not None:
        remaining += stop_container(plan.container)
    remaining += [f"process {pid}" for pid in sorted(kill(server_id, settle_s, reap))]
    if remaining:
        # Its regions may be in use, and the next sweep needs the plan.
        raise ServerStopError(server_id=server_id, remaining=tuple(remaining))
    for region in server_regions(server_id):
        region.unlink(missing_ok=True)
    directory.remove_server_files()


def end_leftovers(directory: ServerDirectory) -> None:
    """End the server whose owner was killed; the caller holds `cleaning`.

    Raises
    ------
    ServerStopError
        Parts of the server remain.
    """
    if directory.plan_file.exists():  # otherwise no server was started
        end_all(directory)
    directory.log_file.unlink(missing_ok=True)


def end_abandoned(directory: ServerDirectory, timeout_s: float = LOCK_TIMEOUT_S) -> None:
    """End the server of an owner that was killed, and remove the directory that no process needs.

    Raises
    ------
    LockTimeoutError
        Another process has been cleaning the directory for `timeout_s` seconds.
    ServerStopError
        Parts of the server remain.
    """
    # A process that starts a server here holds `cleaning` until it is the owner.
    with directory.cleaning(timeout_s):
        if directory.is_left():
            logger.info("ending the server of %s: its owner is gone", directory.path)
            end_leftovers(directory)
            directory.clear_owner()
        directory.tidy()


def sweep(home: Path) -> None:
    """End the servers of this user whose owners were killed.

    `serve` calls it before it makes a server's directory, and a pipeline when it begins. A
    directory that another process is cleaning is skipped. Logs of failed servers are removed after
    a week.
    """
    for directory in ServerDirectory.all(home):
        if not (directory.is_left() or directory.is_over()):
            continue
        try:
            end_abandoned(directory, timeout_s=0)
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
            return  # the server itself is gone; the other processes have nothing to finish
        # The container runtime's client gets no signal: it would kill its server.
        send(signal.SIGTERM, servers - signalled)
        send(signal.SIGCONT, running)  # a stopped process does not handle SIGTERM
        signalled |= servers
        reap()
        time.sleep(POLL_S)


def kill(server_id: str, settle_s: float, reap: Callable[[], object] = lambda: None) -> set[int]:
    """Kill a server's processes until none was found for `settle_s`; return the remaining ones."""
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


def stop_container(container: Container) -> list[str]:
    """Stop the container of a server; return its description if it still runs."""
    try:
        environ = {**os.environ, **container.environ}
        done = run_captured(container.stop, timeout_s=CONTAINER_TIMEOUT_S, environ=environ)
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    else:
        if done.returncode == 0:
            return []
        problem = done.stderr.strip() or f"exit code {done.returncode}"
    logger.warning(
        "container %s: %s failed: %s", container.name, shlex.join(container.stop), problem
    )
    return [f"container {container.name}"]


def _remove_endpoint(file: Path, server_id: str) -> None:
    """Remove an endpoint file, unless another server has written it since."""
    facts = facts_of(file) if file.is_file() else None
    if facts is not None and facts.get("server_id") == server_id:
        file.unlink(missing_ok=True)
