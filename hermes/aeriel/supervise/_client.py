"""Starts a supervised server, waits for it, and stops it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from hermes import _launch
from hermes._cleanup import Plan, end_all, sweep
from hermes._processes import ProcessIdentity, send
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.supervise._spec import ServerSpec, with_absolute_paths
from hermes.aeriel.supervise._state import ServerState
from hermes.errors import (
    GPUBusyError,
    ServerStopError,
    ServerTimeoutError,
    SupervisorError,
    log_tail,
)

POLL_S = 0.2
ATTEMPTS = 3


def ensure_server(
    spec: ServerSpec,
    *,
    driver: ProcessIdentity,
    timeout_s: float,
    wait_for_gpus: bool = True,
    attempts: int = 0,
) -> Endpoint:
    """Return the endpoint of a ready server, after starting a supervisor if there is none.

    The caller holds a lease: a server without leases stops at once.

    Parameters
    ----------
    spec
        The specification of the server.
    driver
        The process that runs the caller's pipeline.
    timeout_s
        Timeout in seconds.
    wait_for_gpus
        Whether to wait for the server's GPUs too.
    attempts
        The number of the caller's earlier attempts. If there was one, a recorded failure is raised.

    Raises
    ------
    GPUBusyError
        The server waits for its GPUs, and `wait_for_gpus` is False.
    SupervisorError
        The server did not start, or was stopped; the error has the reason.
    ServerTimeoutError
        The server was not ready in time.
    """
    deadline = time.monotonic() + timeout_s
    state = ServerState.of(spec)
    while (endpoint := state.endpoint()) is None:
        status = state.status()
        is_waiting = status is not None and status.phase == "waiting"
        if status is not None and is_waiting and not wait_for_gpus:
            raise GPUBusyError(wanted="GPUs", holders=(status.detail,))
        if time.monotonic() > deadline:
            where = "it waits for GPUs" if is_waiting else "no endpoint was published"
            raise ServerTimeoutError(
                address=str(state.path),
                timeout_s=timeout_s,
                waiting_for=f"{where}: {status.detail if status else 'it has no supervisor'}",
                log_file=state.supervisor_log,
                log_tail=log_tail(state.supervisor_log),
            )
        if state.owner() is None:
            # Without this directory's lock: another process may sweep with the lock of its own.
            sweep(state.path.parent)
        with state.exclusive():
            if state.is_blocked(driver):
                raise SupervisorError(
                    reason="it was stopped with `hermes stop`; a new pipeline starts a new one"
                )
            if state.owner() is None:
                if attempts and (reason := state.failure()):
                    raise SupervisorError(reason)
                if attempts == ATTEMPTS:
                    # The error has the end of the log, which is removed with the directory.
                    raise SupervisorError(
                        reason="its supervisor ended without giving a reason",
                        log_tail=log_tail(state.supervisor_log),
                    )
                start_supervisor(state, spec)
                attempts += 1
        time.sleep(POLL_S)
    return endpoint


def start_supervisor(state: ServerState, spec: ServerSpec) -> None:
    """Start a supervisor as a daemon that owns the directory; the caller holds `exclusive`.

    Raises
    ------
    SupervisorError
        The supervisor does not start.
    """
    state.clear(spec)
    directory = str(state.path)
    supervisor = [sys.executable, "-P", "-m", "hermes.aeriel.supervise", directory]
    with state.supervisor_log.open("ab") as log:
        started = subprocess.run(
            _launch.isolated(_launch.__file__, "detached", directory, *supervisor),
            env=supervisor_environment(os.environ),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,
        )
    if started.returncode != 0:
        raise SupervisorError(
            reason="cannot start its supervisor", log_tail=log_tail(state.supervisor_log)
        )


def supervisor_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a supervisor, with the module path of this process.

    The current directory is not on that path under any name: files of other users may be in it.
    """
    own = Path(_launch.__file__).resolve().parents[1]
    paths = environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [path for path in paths if Path(path).is_absolute()]
    if own.name not in {"site-packages", "dist-packages"}:  # which are on the path by default
        kept.append(str(own))
    return {
        **with_absolute_paths({n: value for n, value in environ.items() if n != "PYTHONPATH"}),
        **({"PYTHONPATH": os.pathsep.join(kept)} if kept else {}),
    }


def stop_server(state: ServerState, *, timeout_s: float) -> None:
    """Stop a server; the drivers that use it do not start it again.

    Its supervisor, or the command ``hermes serve``, receives SIGTERM. The server of a program is
    ended directly.

    Raises
    ------
    ServerStopError
        The server runs after `timeout_s` seconds.
    """
    owner = state.owner()
    if owner is None:
        return
    plan = Plan.read(state)
    if plan.started_by == "program" and state.plan_file.exists():
        end_all(state)
        return
    state.block_drivers()
    send(signal.SIGTERM, [owner.pid])
    owner.wake()
    deadline = time.monotonic() + timeout_s
    while owner.is_alive():
        if time.monotonic() > deadline:
            left = (f"its owner, process {owner.pid}",)
            raise ServerStopError(server_id=state.server_id, remaining=left)
        time.sleep(POLL_S)
