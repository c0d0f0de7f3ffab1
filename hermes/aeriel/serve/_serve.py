"""`serve`: runs a Triton server while a block lasts."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from hermes._cleanup import sweep
from hermes._directory import ServerDirectory, new_server_id, state_home
from hermes.aeriel._credentials import make_credentials
from hermes.aeriel._ml4gw import old_keywords
from hermes.aeriel.serve._block import server_block
from hermes.aeriel.serve._command import ServerSettings, check_advertise, check_server_args
from hermes.aeriel.serve._cpu import check_gpu_models
from hermes.aeriel.serve._gpus import GPURequest, gpu_environment
from hermes.aeriel.serve._instance import TritonInstance
from hermes.aeriel.serve._leases import GPULease, Holder, hold_gpus
from hermes.aeriel.serve._ports import UNIX, Ports, check_listen
from hermes.aeriel.serve._repository import check_model_repository
from hermes.aeriel.serve._writers import warn_of_writers
from hermes.aeriel.serve.runtimes import new_instance
from hermes.errors import ParameterError


@old_keywords(
    model_repo_dir="the directory is model_repository, or the first argument",
    free_ports='give ports="auto"',
)
@server_block
def serve(
    model_repository: str | Path,
    image: str | Path | None = None,
    *,
    name: str | None = None,
    gpus: Sequence[int | str] | GPULease | None = None,
    n_gpus: int | None = None,
    cpu: bool = False,
    gpu_timeout_s: float = 0.0,
    server_args: Sequence[str] = (),
    log_file: str | Path | None = None,
    wait: bool = False,
    timeout_s: float = 600.0,
    ports: Ports | Literal["auto"] | None = None,
    listen: str = "127.0.0.1",
    insecure: bool = False,
    advertise: str = "",
    environment: Mapping[str, str] | None = None,
    stop_timeout_s: float = 30.0,
    endpoint_file: str | Path | None = None,
    directory: ServerDirectory | None = None,
    started_by: str = "program",
) -> Generator[TritonInstance, None, None]:
    """Serve a model repository with Triton while the block lasts.

    Without a block, as in the cells of a notebook: ``instance = serve(…).start()``, and at the end
    ``instance.stop()``.

    Parameters
    ----------
    model_repository
        A directory, or a URL that Triton understands (``s3://…``).
    image
        A Singularity/Apptainer image with Triton in it: a path, or a URI (``docker://…``). A
        relative path is looked for in the working directory, then in the directories of
        ``HERMES_IMAGE_PATH``. None uses the Triton of this machine.
    name
        The name of the container instance; a unique one by default.
    gpus
        Global indices or UUIDs of the GPUs that the server sees, whatever
        ``CUDA_VISIBLE_DEVICES`` says here. ``[]`` hides all; None changes nothing. No other server
        of hermes uses them. A `GPULease` has GPUs that the caller holds already.
    n_gpus
        The number of GPUs instead. They are chosen from those that ``CUDA_VISIBLE_DEVICES`` or the
        batch job leaves visible and that no process computes on.
    cpu
        Serve on the CPU, also models whose configuration requires a GPU (``KIND_GPU``).
    gpu_timeout_s
        Seconds to wait for GPUs that another server uses.
    server_args
        Further flags of tritonserver.
    log_file
        The file for the server's output, which is replaced. By default a file that is removed when
        the server stops without an error.
    wait
        Enter the block when the server is ready; otherwise call the instance's `wait`.
    timeout_s
        Timeout of the wait, in seconds.
    ports
        The ports to listen on, Triton's defaults by default; ``"auto"`` uses free ones.
    listen
        The IP address to listen on, the loopback address by default, where every user of this host
        can use the server. Other addresses turn on mutual TLS, with an authority made for this
        server: only clients that have the instance's endpoint can connect. HTTP is off then, and
        metrics stay on the loopback address. ``"unix"`` uses sockets in the server's private
        directory instead of ports: no other user can connect.
    insecure
        Accept every client, without TLS, on any address.
    advertise
        The name or address of this host in the endpoint, as other hosts know it; by default the
        host's own name.
    environment
        Variables to set for the server process.
    stop_timeout_s
        Seconds that the server may take to finish its requests when the block ends.
    endpoint_file
        A file that the caller writes the endpoint to when the server is ready. It is removed when
        the server fails or ends, whichever process ends it.
    directory
        The server's private directory, which the caller owns. By default a new one in the state
        home (``HERMES_STATE_HOME``), which is removed with the server.
    started_by
        The kind of the caller, for ``hermes stop``: a ``supervisor`` or ``command`` receives
        SIGTERM; for a ``program`` the server itself does.

    Yields
    ------
    TritonInstance
        A `SingularityInstance` with an image, a `LocalInstance` without one.

    Raises
    ------
    ParameterError
        A parameter has an invalid value.
    ServerError
        The server, or its container, does not start: see `hermes.errors` for the kinds.

    Examples
    --------
    >>> with serve("models", "triton.sif", gpus=[0, 3], wait=True) as instance:  # doctest: +SKIP
    ...     client = tritonclient.grpc.InferenceServerClient(instance.endpoint.grpc)
    """
    address = check_listen(listen)
    check_advertise(advertise, address)
    repository = check_model_repository(model_repository)
    if ports not in ("auto", None) and not isinstance(ports, Ports):
        raise ParameterError("ports", f'{ports!r} is neither "auto" nor Ports(grpc=…, http=…)')
    if address == UNIX and isinstance(ports, Ports):
        raise ParameterError("ports", 'do not apply with listen="unix"')
    if image is not None and not str(image):
        raise ParameterError("image", "is empty; give a path or a URI, or None for a local Triton")
    arguments = check_server_args(server_args)
    with ExitStack() as stack:
        if directory is None:
            sweep(state_home())
            # Also at the end: an owner may have been killed meanwhile, and its guard as it cleaned.
            stack.callback(sweep, state_home())
            directory = ServerDirectory(state_home() / new_server_id())
        if isinstance(gpus, GPULease):
            lease = gpus
        else:
            names = None if gpus is None else tuple(gpus)
            request = GPURequest(gpus=names, n_gpus=n_gpus, cpu=cpu)
            holder = Holder(what=str(model_repository))
            lease = stack.enter_context(hold_gpus(request, holder, gpu_timeout_s))
        is_open = address == UNIX or insecure or ipaddress.ip_address(address).is_loopback
        variables = {**(environment or {}), **gpu_environment(lease.gpus)}
        if not cpu:
            check_gpu_models(repository, arguments, lease.gpus, {**os.environ, **variables})
        settings = ServerSettings(
            directory=directory,
            model_repository=repository,
            cpu=cpu,
            ports=None if ports == "auto" else ports or Ports(),
            listen=address,
            advertise=advertise,
            server_args=arguments,
            environment=variables,
            stop_timeout_s=stop_timeout_s,
            credentials=None if is_open else make_credentials(directory.keys, advertise),
            image=str(image or ""),
            container_name=name,
            lease=lease,
            log_file=None if log_file is None else Path(log_file).absolute(),
            endpoint_file=None if endpoint_file is None else Path(endpoint_file).absolute(),
            started_by=started_by,
        )
        instance = new_instance(settings)
        warn_of_writers(Path(repository), "model repository")
        stack.enter_context(instance)
        if wait:
            instance.wait(timeout_s)
        yield instance
