"""Ends a Singularity or Apptainer instance; nothing but the standard library.

Run as a file, isolated: ``python -I -S _singularity_stop.py RUNTIME NAME SERVER_ID PID STATE``.
PID is the instance's first process, or 0 where it is not known. STATE is ``started``, or
``starting`` where the instance may come up later. The exit code is 0 when nothing of the instance
is left.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

# Last on the path: behind the standard library.
sys.path.append(str(Path(__file__).resolve().parents[4]))

from hermes._captured import run_captured
from hermes._cleanup import Container
from hermes._launch import isolated
from hermes._processes import marked_processes, send

logger = logging.getLogger(__name__)

# The first process of every instance, and the command that starts it, have this variable in their
# environment: the id of the server that the instance is for.
MARK = "HERMES_SERVER_ID"
POLL_S = 0.05
RUNTIME_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
STOP_GRACE_S = 5
LOST_S = 5.0
QUIET_S = 0.3
# A start goes through several programs; on a busy host none of them may show for some time.
QUIET_START_S = 3.0
# They decide where the runtime keeps its list of instances.
REGISTRY_VARIABLES = ("HOME", "PATH", "APPTAINER_CONFIGDIR", "SINGULARITY_CONFIGDIR")


def container(
    runtime: str, name: str, server_id: str, *, pid: int = 0, is_starting: bool = False
) -> Container:
    """Return the container, with the command that ends it.

    Parameters
    ----------
    runtime
        The path of the ``singularity`` or ``apptainer`` command.
    name
        The instance's name.
    server_id
        The server that the instance is for.
    pid
        The instance's first process; 0 where it is not known.
    is_starting
        Whether the instance may come up later.
    """
    state = "starting" if is_starting else "started"
    return Container(
        name=name,
        stop=tuple(isolated(__file__, runtime, name, server_id, str(pid), state)),
        environ={key: os.environ[key] for key in REGISTRY_VARIABLES if key in os.environ},
    )


def stop_instance(
    runtime: str, name: str, server_id: str, *, pid: int = 0, is_starting: bool = False
) -> bool:
    """Stop a server's instance, or the start of one; return whether nothing of it is left.

    The parameters are those of `container`. A name does not identify an instance: Apptainer 1.4
    checks a name and takes it in two steps, so that two instances may start under one name. The
    mark in the environment does.
    """
    started_at = time.monotonic()
    # A look may miss a process: while it becomes another program, it has no environment.
    seen_at: float | None = None
    quiet_s = QUIET_START_S if is_starting else QUIET_S
    while time.monotonic() < started_at + STOP_TIMEOUT_S:
        marked = marked_processes(f"{MARK}={server_id}")
        listed = first_process(runtime, name)
        if listed is not None and listed in {pid, *marked}:
            _run(runtime, "instance", "stop", "--timeout", str(STOP_GRACE_S), name)
        elif not marked and seen_at is not None and time.monotonic() - seen_at > quiet_s:
            if listed is None:
                _remove_empty_logs(name)
            return True
        elif marked:
            # The instance is being started, or its image downloaded. The command can be stopped,
            # and what it has started by then ends or shows up in the list; unless another
            # instance has taken its entry in the list.
            is_lost = listed is not None or time.monotonic() > started_at + LOST_S
            for process in marked:
                _end_start(process, signal.SIGKILL if is_lost else signal.SIGTERM)
        if marked or seen_at is None:
            seen_at = time.monotonic()
        time.sleep(POLL_S)
    return False


def first_process(runtime: str, name: str) -> int | None:
    """Return the first process of the running instance of this name, if there is one."""
    output = _run(runtime, "instance", "list", "--json", name)
    with suppress(ValueError, KeyError, TypeError, IndexError):
        for instance in json.loads(output)["instances"]:
            if instance["instance"] == name:
                return int(instance["pid"])
    return None


def _run(runtime: str, *arguments: str) -> str:
    # Not with spython: the guard runs this, with nothing but the standard library.
    try:
        return run_captured([runtime, *arguments], timeout_s=RUNTIME_TIMEOUT_S).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("%s: %s", runtime, error)
        return ""


def _end_start(pid: int, signal_number: signal.Signals) -> None:
    """Send SIGTERM to a process if it is an ``instance start``, SIGKILL to any process."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:  # it has ended by itself
        return
    if signal_number == signal.SIGKILL or (b"instance" in command and b"start" in command):
        send(signal_number, [pid])


def _remove_empty_logs(name: str) -> None:
    """Remove the runtime's logs of an instance, which are empty: the server has its own.

    The runtime makes them before it lists the instance, which is where their paths are.
    """
    for runtime in ("apptainer", "singularity"):
        named = os.environ.get(f"{runtime.upper()}_CONFIGDIR")
        home = Path(named) if named else Path(os.environ.get("HOME") or "/") / f".{runtime}"
        logs = home / "instances" / "logs" / socket.gethostname()
        for log in [*logs.glob(f"*/{name}.err"), *logs.glob(f"*/{name}.out")]:
            with suppress(OSError):  # another process removes it too
                if log.stat().st_size == 0:
                    log.unlink()


def main() -> None:
    """Stop the instance that the command line names."""
    logging.basicConfig(format="%(message)s")
    runtime, name, server_id, pid, state = sys.argv[1:]
    is_starting = state == "starting"
    if not stop_instance(runtime, name, server_id, pid=int(pid), is_starting=is_starting):
        sys.exit(f"it still runs after {STOP_TIMEOUT_S:g} s")


if __name__ == "__main__":
    main()
