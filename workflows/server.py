"""`TritonServerTask`: a Triton server as a task that others require."""

# Over 300 lines: a third is the documentation of the parameters.
from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import luigi

from hermes._processes import ProcessIdentity
from hermes.aeriel import repository
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.supervise import (
    Lease,
    ServerSpec,
    ServerState,
    Wishes,
    ensure_server,
    repository_stamp,
    state_home,
)
from hermes.errors import GPUBusyError, ServerError
from workflows._builds import once_per_build
from workflows._driver import Service, driver
from workflows._endpoints import EndpointTarget, ExternalEndpoint
from workflows._lifetime import follow_luigi
from workflows._readable import ReadableTask
from workflows.parameters import (
    AbsolutePath,
    Flag,
    GPUs,
    ImagePath,
    Number,
    OptionalWholeNumber,
    Text,
    TextList,
)

logger = logging.getLogger(__name__)

follow_luigi()

TURN_S = 5.0
POLL_S = 0.5


class SupervisedEndpoint(EndpointTarget):
    """The endpoint of a `TritonServerTask`; it exists while the server is ready, and only then.

    Parameters
    ----------
    server
        The task of the server.
    """

    def __init__(self, server: TritonServerTask) -> None:
        self._server = server

    def __str__(self) -> str:
        return f"the endpoint of {self._server}"

    @property
    def endpoint(self) -> Endpoint:
        """Where the server listens; a task that runs waits for one that is being started again.

        Raises
        ------
        ServerError
            It is not ready.
        """
        if driver().running is not None:
            driver().attach(self._server)
            return self._server.ensure()
        endpoint = self.current()
        if endpoint is None:
            message = f"the server of {self._server} is not ready"
            raise ServerError(message)
        return endpoint

    def current(self) -> Endpoint | None:
        """Return where the server listens just now, or None while it is not ready."""
        return self._server.state.endpoint()

    def model_stamp(self, model_name: str, model_version: str) -> str:
        """Return what changes when a file of the model does."""
        return repository.read_model(self._server.model_repository, model_name, model_version).stamp

    def check_models(self) -> None:
        """Raise ServerError where a file of the repository has changed since the build began."""
        self._server.spec.check_unchanged()

    def provenance(self) -> dict[str, str]:
        """Return where the models come from."""
        return self._server.spec.provenance()


class ServerParameters:
    """What a task has to know to require a `TritonServerTask`."""

    model_repository = AbsolutePath(description="directory or URL of the Triton model repository")
    image = ImagePath(default="", description="Singularity/Apptainer image; none: a local Triton")
    gpus = GPUs(default=None, description="global indices or UUIDs of GPUs, as a JSON list")
    n_gpus = OptionalWholeNumber(default=None, description="how many GPUs, whichever are free")
    cpu = Flag(description="serve on the CPU, also models that ask for a GPU")
    listen = Text(
        default="unix",
        description="address to listen on, or unix (sockets that no other user can reach); any but "
        "a loopback one asks clients for a certificate",
    )
    insecure = Flag(description="let everybody in who reaches the address")
    advertise = Text(
        default="", description="the name or address of the server's host, as other hosts know it"
    )
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


class Wait(luigi.Task):
    """A moment in which a server waits for a consumer or for its GPUs, behind all that can run now.

    Luigi runs what came first first, so every task that can run already comes before this one.

    Parameters
    ----------
    until : str
        What it waits for, for Luigi's log.
    task : str
        The id of the server's task.
    server : str
        The server's id.
    driver : str
        The process that runs the pipeline.
    number : int
        Makes it another task each time.
    """

    until = luigi.Parameter()
    task = luigi.Parameter()
    server = luigi.Parameter()
    driver = luigi.Parameter()
    number = luigi.IntParameter()
    is_over = False

    def complete(self) -> bool:
        """Tell whether the moment is over."""
        return self.is_over

    def run(self) -> None:
        """Wait for a few seconds, or until the server can start, or has its GPUs."""
        state = ServerState(state_home() / self.server)
        deadline = time.monotonic() + TURN_S
        while time.monotonic() < deadline:
            status = state.status()
            waits_for_gpus = status is not None and status.phase == "waiting"
            if not waits_for_gpus and not driver().is_early(self.task, state):
                break
            time.sleep(POLL_S)
        self.is_over = True


class TritonServerTask(ServerParameters, ReadableTask, Service):
    """A Triton server with a context-managed lifetime, as a task.

    It is complete while its server is ready, and only then. The server starts, in a process of
    its own, when a task that requires it has everything else that it requires, and stops when the
    last of them has finished or the driver has died. Servers of tasks with equal parameters are
    one server, between drivers too.

    Parameters
    ----------
    model_repository : str
        A directory, or a URL that Triton understands.
    image : str
        A Singularity/Apptainer image; by default the Triton of this machine.
    gpus : list of int or str
        Global indices or UUIDs; null leaves the choice to the environment, ``[]`` hides all.
    n_gpus : int
        How many GPUs instead, out of those that are visible and free.
    cpu : bool
        Serve on the CPU, also models whose configuration asks for a GPU (``KIND_GPU``).
    listen : str
        The IP address to listen on; ``unix``, the default, takes sockets in the server's private
        directory, which no other user can reach. Any but a loopback address turns on mutual TLS;
        the endpoint carries what a client needs.
    insecure : bool
        Let everybody in who reaches the address.
    advertise : str
        The name or address of the server's host, as other hosts know it; by default what the host
        calls itself.
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
    def spec(self) -> ServerSpec:
        """What the server is to be."""
        return ServerSpec(
            model_repository=self.model_repository,
            image=self.image,
            gpus=self.gpus,
            n_gpus=self.n_gpus,
            cpu=self.cpu,
            listen=self.listen,
            insecure=self.insecure,
            advertise=self.advertise,
            server_args=self.server_args,
            timeout_s=self.server_timeout_s,
            repository_stamp=self.repository_stamp,
        )

    @once_per_build
    def repository_stamp(self) -> str:
        """What stands for the files of the model repository, as they are when a build begins."""
        return repository_stamp(self.model_repository)

    @property
    def state(self) -> ServerState:
        """The server's directory."""
        return ServerState.of(self.spec)

    def acquire(self, driver: ProcessIdentity, lease: Lease) -> None:
        """Record a consumer, and what this pipeline wants to have written of the server."""
        wishes = Wishes(log_file=self.server_log, monitor_file=self.server_monitor)
        self.state.acquire(driver, lease, wishes)

    def output(self) -> EndpointTarget:
        """Return the target that holds the server's endpoint."""
        return SupervisedEndpoint(self)

    def complete(self) -> bool:
        """Tell whether the server is ready.

        Asked for a consumer that is about to run, it waits for a server that is being started
        again, and starts one itself where there is none: Luigi would fail the consumer.

        Raises
        ------
        ServerError
            There is no way to have the server.
        """
        if driver().attach(self):
            self.ensure()
        return self.state.endpoint() is not None

    def ensure(self) -> Endpoint:
        """Return the endpoint of the ready server, after starting it if it is not there.

        Raises
        ------
        ServerError
            It did not start, or was not ready in time.
        """
        return ensure_server(
            self.spec,
            driver=driver().identity,
            timeout_s=self.server_timeout_s + 60.0,
        )

    def run(self) -> Iterator[Wait]:
        """Start the server's supervisor, and return when the server is ready.

        While no consumer can run yet, it leaves the worker to what they wait for; while another
        server has its GPUs, to the consumers of that server, without which it would never end.
        """
        if driver().is_early(self.task_id, self.state):
            self.state.release(driver().identity, self.task_id)  # it has not begun yet
            yield self._wait("a task that requires the server can run")
        try:
            ensure_server(
                self.spec,
                driver=driver().identity,
                timeout_s=self.server_timeout_s + 60.0,
                wait_for_gpus=False,
                attempts=1 if driver().is_resumed else 0,
            )
        except GPUBusyError as error:
            if not driver().is_resumed:  # once will do
                logger.warning("%s waits: %s", self, error)
            yield self._wait("the server has its GPUs")

    def _wait(self, until: str) -> Wait:
        return Wait(
            until=until,
            task=self.task_id,
            server=self.state.server_id,
            driver=str(driver().identity),
            number=time.time_ns(),
        )


class ExternalServer(luigi.ExternalTask):
    """A server that somebody else runs: it is used, and neither started nor stopped.

    Parameters
    ----------
    server : str
        ``host:port`` or ``unix:PATH`` of its GRPC service, or an endpoint file of ``hermes serve``.
    models : str
        Any text that stands for its models, such as a version or a date. Nobody here sees their
        files: results are made again when this text changes, and not when a model does.
    """

    server = Text(description="host:port of the server's GRPC service, or an endpoint file")
    models = Text(
        default="", description="a text that stands for its models, and changes with them"
    )

    def output(self) -> EndpointTarget:
        """Return the target that holds the server's endpoint."""
        return ExternalEndpoint(self.server, self.models)
