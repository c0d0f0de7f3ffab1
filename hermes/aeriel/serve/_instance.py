"""A Triton server that this process starts, watches and stops."""

# Over 300 lines: the start, the wait and the end of a server share its state.
from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from hermes._cleanup import Container, Plan, end_all, end_leftovers
from hermes._directory import Status
from hermes._processes import ProcessIdentity, ailing_processes
from hermes._shared_memory import make_private
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.serve._command import ServerSettings
from hermes.aeriel.serve._cpu import make_cpu_repository
from hermes.aeriel.serve._guard import Guard
from hermes.aeriel.serve._health import is_ready
from hermes.aeriel.serve._ports import UNIX, Ports, check_free, free_ports, socket_ports
from hermes.aeriel.serve._process import ServerLog
from hermes.errors import (
    PortInUseError,
    ServerDiedError,
    ServerError,
    ServerHangsError,
    ServerTimeoutError,
)

logger = logging.getLogger(__name__)

POLL_S = 0.1
AILING_S = 5.0
PORT_ATTEMPTS = 5
_PORT_TAKEN = re.compile(r"already in use", re.IGNORECASE)


class TritonInstance(ABC):
    """A Triton server: entering the context starts it, leaving the context stops it.

    Parameters
    ----------
    settings
        What to serve, and where to listen.

    Attributes
    ----------
    endpoint
        The server's addresses. With free ports they are final when `wait` has returned.
    log_file
        The file with the server's output.
    server_id
        The server's ``--id``, which is ``name`` in its metadata.
    command
        The command that runs the server; empty before the start.
    """

    endpoint: Endpoint
    _ports: Ports

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._directory = settings.directory
        self._log = ServerLog(settings.log_file, settings.directory.log_file)
        self.log_file = self._log.path
        self.server_id = settings.server_id
        self.command: tuple[str, ...] = ()
        self._plan = Plan(
            grace_s=settings.stop_timeout_s,
            endpoint_file=None if settings.endpoint_file is None else str(settings.endpoint_file),
            gpu_notes=settings.lease.notes,
            started_by=settings.started_by,
        )
        self._undo = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None
        self._attempts = 0

    @property
    def exit_code(self) -> int | None:
        """The exit code of a server that has ended, else None."""
        return None if self._process is None else self._process.poll()

    def __repr__(self) -> str:
        code = None if self._process is None else self._process.returncode
        state = "new" if self._process is None else "started" if code is None else "ended"
        where = f" at {self.endpoint.grpc}" if self._process is not None else ""
        return f"<{type(self).__name__} {self.server_id}{where}, {state}>"

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self._log.check()
            self._check_ports()
            # The guard runs before there is anything to clean up.
            self._guard = Guard(self._directory, self._settings.lease.descriptors)
            undo.callback(self._dismiss_guard)
            if self._settings.started_by != "supervisor":  # which leaves it itself
                undo.callback(self._directory.leave)
            self._take_directory()
            undo.callback(self._log.close)
            undo.callback(self._end)
            undo.callback(self._directory.set_phase, "stopping")
            self._log.make()
            self._start()
            self._undo = undo.pop_all()
        logger.info("started %r, log %s", self, self.log_file)
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, ServerError):  # most of these errors name the log
            self._log.keep = not isinstance(error, PortInUseError)
        self.stop()

    def is_alive(self) -> bool:
        """Return whether the server process runs; restart its guard if that was killed."""
        if self._guard is not None:
            self._guard.ensure_running()
        return self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        """Return whether the server is live and its models are ready.

        Raises
        ------
        ServerDiedError
            The server has ended.
        PortInUseError
            The server has ended because another process took its port first.
        """
        if not self.is_alive():
            self._start_again_or_raise()
            return False
        if not is_ready(self.endpoint):
            return False
        make_private(self.server_id)
        status = self._directory.status()
        if status is None or status.phase != "ready":
            self.endpoint.write(self._directory.endpoint_file)
            self._directory.set_phase("ready")
        return True

    def wait(self, timeout_s: float = 600.0, is_wanted: Callable[[], bool] = lambda: True) -> bool:
        """Return True when the server is live and its models are ready.

        Parameters
        ----------
        timeout_s
            Timeout in seconds.
        is_wanted
            Called a few times a second; when the server is no longer wanted, the wait ends, and
            False is returned.

        Raises
        ------
        ServerDiedError
            The server has ended; the error carries the end of its log.
        ServerHangsError
            It cannot get ready: one of its processes has died or is stopped.
        PortInUseError
            Another process took the port between the check and the start.
        ServerTimeoutError
            It was not ready within `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        well_at = time.monotonic()
        while not self.is_ready():
            if not is_wanted():
                return False
            now = time.monotonic()
            if now > deadline:
                raise ServerTimeoutError(
                    address=self.endpoint.grpc,
                    timeout_s=timeout_s,
                    waiting_for="it runs, but it is not live or one of its models is not ready",
                    log_file=self.log_file,
                    log_tail=self._log.tail(),
                )
            # A server does not answer while it loads models, which may take long. But if a model's
            # process has died while Triton completes the model's configuration, it never will.
            problems = ailing_processes(self.server_id)
            if not problems:
                well_at = now
            elif now - well_at > AILING_S:
                raise self.hangs("; ".join(problems))
            time.sleep(POLL_S)
        logger.info("%r is ready", self)
        return True

    def hangs(self, problem: str) -> ServerHangsError:
        """Return an error for a server that does not respond, because of this problem."""
        return ServerHangsError(problem=problem, log_file=self.log_file, log_tail=self._log.tail())

    def died(self) -> ServerDiedError:
        """Return an error for a server that has ended."""
        return ServerDiedError(
            command=self.command,
            exit_code=self.exit_code,
            log_file=self.log_file,
            log_tail=self._log.tail(),
        )

    def stop(self) -> None:
        """Stop the server with SIGTERM, then with SIGKILL, and check that nothing is left.

        A second call does nothing.

        Raises
        ------
        ServerStopError
            Parts of the server remain.
        """
        self._undo.close()

    def call_at_stop(self, finish: Callable[[], None]) -> None:
        """Have `stop` call a function first, once; the function may call `stop`."""
        self._undo.callback(finish)

    def restart(self) -> None:
        """Stop a server that crashed or hangs, and start it again: `end_failed`, `start_again`."""
        self.end_failed()
        self.start_again()

    def end_failed(self) -> None:
        """End what a server that crashed or hangs has left, its endpoint first."""
        self._directory.set_phase("restarting")
        self._end_all(grace_s=0.0)
        self._plan.write(self._directory)

    def start_again(self) -> None:
        """Start a server again that has ended.

        It listens at the same address, unless the ports were chosen by hermes and another process
        uses one of them by now.

        Raises
        ------
        PortInUseError
            Another process has the port.
        ServerError
            Its container does not start.
        """
        try:
            self._check_ports(self._ports)
        except PortInUseError:
            if self._settings.ports is not None:
                raise
            self._check_ports()
        self._start()
        logger.info("started %r again, log %s", self, self.log_file)

    @abstractmethod
    def _server_command(self) -> list[str]:
        """Return the command that runs the server, with its flags."""

    @abstractmethod
    def _server_environment(self) -> Mapping[str, str]:
        """Return the whole environment of that command."""

    @abstractmethod
    def _open_container(self) -> None:
        """Start or make the environment in which the server runs."""

    def _record(self, container: Container) -> None:
        """Write how to end the container that the server runs in, before that is started."""
        self._plan = replace(self._plan, container=container)
        self._plan.write(self._directory)

    def _take_directory(self) -> None:
        """Become the owner of the server's directory, and end a server that is left there."""
        with self._directory.cleaning():
            self._directory.set_owner(ProcessIdentity.of(os.getpid()))
            end_leftovers(self._directory)
            self._plan.write(self._directory)
        status = Status(
            phase="starting",
            model_repository=self._settings.model_repository,
            image=self._settings.image,
            gpus=tuple(map(str, self._settings.lease.gpus or ())),
        )
        self._directory.write_status(status)

    def _dismiss_guard(self) -> None:
        """End the guard, unless the server could not be stopped: the guard tries again."""
        if self._guard is not None and not self._directory.plan_file.exists():
            self._guard.dismiss()
            self._guard = None

    def _check_ports(self, ports: Ports | None = None) -> None:
        """Choose the ports, unless they are given, and check that they are free."""
        listen = self._settings.listen
        if listen == UNIX:
            ports = ports or socket_ports()
        else:
            ports = ports or self._settings.ports or free_ports(listen)
            for service in self._settings.services:
                check_free(listen, getattr(ports, service), service)
        self._ports = ports
        self.endpoint = self._settings.endpoint(ports)

    def _start(self) -> None:
        if self._settings.credentials is not None:
            self._settings.credentials.write()
        if self._settings.has_overlay:
            repository = Path(self._settings.model_repository)
            make_cpu_repository(repository, self._directory.overlay)
        self._attempts = 0
        self._open_container()
        self._launch()

    def _launch(self) -> None:
        self._attempts += 1
        self.command = tuple(self._server_command())
        logger.debug("running %s", self.command)
        self._process = self._log.start(self.command, self._server_environment())
        self._log.wait_for_start(self._process, self.command)

    def _start_again_or_raise(self) -> None:
        """Start the server on other free ports if another process took one of its ports."""
        if _PORT_TAKEN.search(self._log.tail()):
            if self._settings.ports is not None:
                raise PortInUseError(address=self.endpoint.grpc, service="GRPC, HTTP or metrics")
            if self._attempts < PORT_ATTEMPTS:
                self._check_ports()
                self._launch()
                return
        raise self.died()

    def _end(self) -> None:
        logger.info("stopping %r", self)
        # A server that has died has no requests to finish.
        self._end_all(grace_s=self._settings.stop_timeout_s if self.is_alive() else 0.0)
        if self._process is not None:
            # The process may be a script of the user's, which has not ended with the server.
            self._process.kill()
            self._process.wait()
        if self._log.keep is None:
            # A server that has not installed its signal handler yet ends by SIGTERM.
            self._log.keep = self.exit_code not in (None, 0, -signal.SIGTERM)

    def _end_all(self, grace_s: float) -> None:
        with self._directory.cleaning():
            end_all(self._directory, grace_s=grace_s, reap=lambda: self.exit_code)
