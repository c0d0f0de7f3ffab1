"""What those who need a supervised server do: bring it up, wait for it, stop it."""

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
from hermes.aeriel.supervise._spec import ServerSpec
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

    The caller holds a lease: a server that nobody needs stops at once.

    Parameters
    ----------
    spec
        What the server is to be.
    driver
        The process that runs the caller's pipeline.
    timeout_s
        Seconds to wait for the server at most.
    wait_for_gpus
        Whether that includes the time until the server has its GPUs.
    attempts
        How often the caller has tried already: what failed then is not tried again.

    Raises
    ------
    GPUBusyError
        The server waits for its GPUs, and the caller would not.
    SupervisorError
        The server did not start, or somebody stopped it; the error carries the reason.
    ServerTimeoutError
        It was not ready in time.
    """
    deadline = time.monotonic() + timeout_s
    state = ServerState.of(spec)
    has_swept = False
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
                waiting_for=f"{where}: {status.detail if status else 'nobody keeps it'}",
                log_file=state.supervisor_log,
                log_tail=log_tail(state.supervisor_log),
            )
        if state.owner() is None and not has_swept:
            sweep(
                state.path.parent
            )  # without this one's lock: another may do the same with its own
            has_swept = True
        with state.exclusive():
            if state.is_blocked(driver):
                raise SupervisorError(
                    reason="it was stopped by hand; a pipeline that is started now gets a new one"
                )
            if state.owner() is None:
                if attempts and (reason := state.failure()):
                    raise SupervisorError(reason)
                if attempts == ATTEMPTS:
                    # All of it that the caller will see: the log goes with the directory.
                    raise SupervisorError(
                        reason="its supervisor ended without a word",
                        log_tail=log_tail(state.supervisor_log),
                    )
                start_supervisor(state, spec)
                attempts += 1
        time.sleep(POLL_S)
    return endpoint


def start_supervisor(state: ServerState, spec: ServerSpec) -> None:
    """Start a supervisor that belongs to nobody, and is the directory's owner; in `exclusive` only.

    Raises
    ------
    SupervisorError
        It cannot be started.
    """
    state.clear(spec)
    supervisor = [sys.executable, "-P", "-m", "hermes.aeriel.supervise", str(state.path)]
    with state.supervisor_log.open("ab") as log:
        started = subprocess.run(
            [
                *(sys.executable, "-I", "-S", _launch.__file__, "detached", str(state.path)),
                *supervisor,
            ],
            env=supervisor_environment(os.environ),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,
        )
    if started.returncode != 0:
        raise SupervisorError(
            reason="its supervisor cannot be started", log_tail=log_tail(state.supervisor_log)
        )


def supervisor_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a supervisor, which imports what its starter does, and no more.

    The current directory is not on its module path, by whatever name: there may be other people's
    files in it.
    """
    own = str(Path(_launch.__file__).resolve().parents[1])
    paths = environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [path for path in paths if Path(path).is_absolute()]
    if not _is_site_directory(own):
        kept.append(own)
    return {
        **{name: value for name, value in environ.items() if name != "PYTHONPATH"},
        **({"PYTHONPATH": os.pathsep.join(kept)} if kept else {}),
    }


def _is_site_directory(path: str) -> bool:
    """Tell whether any Python of this environment finds packages there by itself."""
    return Path(path).name in {"site-packages", "dist-packages"}


def stop_server(state: ServerState, *, timeout_s: float) -> None:
    """Stop a server for good, as far as the drivers that are there now are concerned.

    Its supervisor, or the command ``hermes serve``, is told to stop it; of a program's server the
    program is told by the server's end.

    Raises
    ------
    ServerStopError
        It is still there after `timeout_s` seconds.
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
            left = (f"the process that keeps it, {owner.pid}",)
            raise ServerStopError(server_id=state.server_id, remaining=left)
        time.sleep(POLL_S)
