"""`TritonServerTask`: a Triton server as a task that others require."""

from __future__ import annotations

import luigi

from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.serve import ServerState, ensure_server, state_home
from hermes.errors import ServerError
from workflows._lifetime import Service, driver, note_dynamic_use
from workflows.parameters import AbsolutePath, GPUs, ImagePath, Number, TextList


class EndpointTarget(luigi.Target):
    """The endpoint of a server that is ready; it exists while the server is, and only then.

    Parameters
    ----------
    state
        The server's state directory.
    """

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def exists(self) -> bool:
        """Tell whether the server is ready."""
        return self._state.endpoint() is not None

    @property
    def endpoint(self) -> Endpoint:
        """Where the server listens.

        Raises
        ------
        ServerError
            It is not ready.
        """
        endpoint = self._state.endpoint()
        if endpoint is None:
            message = f"the server of {self._state.directory} is not ready"
            raise ServerError(message)
        return endpoint


class ServerParameters:
    """What a task has to know to require a `TritonServerTask`."""

    model_repository = AbsolutePath(description="directory or URL of the Triton model repository")
    image = ImagePath(default="", description="Singularity/Apptainer image; none: a local Triton")
    gpus = GPUs(default=None, description="global indices or UUIDs of GPUs, as a JSON list")
    server_args = TextList(default=(), description="further flags of tritonserver, as a JSON list")
    server_timeout_s = Number(
        default=600.0, significant=False, description="seconds to wait for the server"
    )
    server_log = AbsolutePath(
        default="", significant=False, description="file that takes the server's output"
    )
    server_monitor = AbsolutePath(
        default="", significant=False, description="CSV file that says what the server does"
    )


class TritonServerTask(ServerParameters, Service):
    """A Triton server with a context-managed lifetime, as a task.

    It is complete while its server is ready, and only then. The server starts when the first
    task that requires it can run, in a process of its own, and stops when the last of them has
    finished or the driver has died. Servers of tasks with equal parameters are one server,
    between drivers too.

    Parameters
    ----------
    model_repository : str
        A directory, or a URL that Triton understands.
    image : str
        A Singularity/Apptainer image; by default the Triton of this machine.
    gpus : list of int or str
        Global indices or UUIDs; null leaves the choice to the environment, ``[]`` hides all.
    server_args : list of str
        Further flags of tritonserver.
    server_timeout_s : float
        Seconds that the server may take to get ready.
    server_log : str
        A file that takes the server's output; by default a temporary one.
    server_monitor : str
        A CSV file that says once a second what the server does: see
        `hermes.aeriel.monitor.ServerMonitor`.
    """

    @property
    def state(self) -> ServerState:
        """The server's state directory."""
        return ServerState(state_home() / self.task_id)

    def program_args(self) -> list[str]:
        """Return what follows ``hermes serve`` on the command line of the supervisor."""
        arguments = [self.model_repository, "--ports=auto", f"--timeout-s={self.server_timeout_s}"]
        if self.image:
            arguments.append(f"--image={self.image}")
        if self.gpus is not None:
            arguments.append(f"--gpus={','.join(map(str, self.gpus))}")
        if self.server_log:
            arguments.append(f"--log-file={self.server_log}")
        if self.server_monitor:
            arguments.append(f"--monitor={self.server_monitor}")
        server_args: tuple[str, ...] = self.server_args
        return [*arguments, *(f"--server-arg={argument}" for argument in server_args)]

    def output(self) -> EndpointTarget:
        """Return the target that holds the server's endpoint."""
        return EndpointTarget(self.state)

    def complete(self) -> bool:
        """Tell whether the server is ready now."""
        note_dynamic_use(self)
        return self.output().exists()

    def ensure(self) -> Endpoint:
        """Return the endpoint of the ready server, after starting it if it is not there.

        Raises
        ------
        ServerError
            It did not start, or was not ready in time.
        """
        return ensure_server(
            self.state, self.program_args(), timeout_s=self.server_timeout_s + 60.0
        )

    def run(self) -> None:
        """Start the server's supervisor, and return when the server is ready."""
        driver.acquire(self, self.task_id)
        try:
            self.ensure()
        finally:
            driver.release(self, self.task_id)
