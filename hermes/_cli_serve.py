"""The command ``hermes serve``."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from hermes._cli_options import (
    CPU,
    Command,
    GPUs,
    Image,
    NGPUs,
    ServerArg,
    errors_as_text,
    read_gpus,
)
from hermes.aeriel import monitor as monitoring
from hermes.aeriel import serve as serving
from hermes.aeriel._beacon import BeaconReader
from hermes.errors import ParameterError

app = typer.Typer()


@app.command(
    cls=Command,
    epilog="Example: hermes serve models --gpus 0,3 --ports auto --endpoint-file endpoint.json",
)
def serve(
    model_repository: Annotated[str, typer.Argument(help="A directory, or a URL.")],
    image: Image = "",
    name: Annotated[str | None, typer.Option(help="Name of the container instance.")] = None,
    gpus: GPUs = None,
    n_gpus: NGPUs = None,
    cpu: CPU = False,
    gpu_timeout_s: Annotated[
        float, typer.Option(help="Seconds to wait for GPUs that another server has.")
    ] = 0.0,
    ports: Annotated[
        str | None,
        typer.Option(
            help="GRPC, HTTP and metrics port, as 8001,8000,8002, which is the default; or auto."
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(
            help="Address to listen on, or unix (sockets); any but a loopback one asks for TLS."
        ),
    ] = "127.0.0.1",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let everybody in who reaches the address.")
    ] = False,
    advertise: Annotated[
        str, typer.Option(help="Host name or address by which other hosts reach the server.")
    ] = "",
    server_arg: ServerArg = None,
    log_file: Annotated[Path | None, typer.Option(help="Takes the server's output.")] = None,
    endpoint_file: Annotated[
        Path | None, typer.Option(help="Written when the server is ready, removed at its end.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="Seconds to wait until it is ready.")] = 600.0,
    stop_timeout_s: Annotated[
        float, typer.Option(help="Seconds that it may take to finish when it stops.")
    ] = 30.0,
    restarts: Annotated[
        int, typer.Option(min=0, help="How often in a row to start a server again that failed.")
    ] = 0,
    beacon: Annotated[
        Path | None,
        typer.Option(
            "--while",
            help="Serve only while this file changes, in content or time, at least every 30 s.",
        ),
    ] = None,
    monitor: Annotated[
        Path | None, typer.Option(help="CSV file that says once a second what the server does.")
    ] = None,
) -> None:
    """Serve a model repository until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    with errors_as_text():
        if endpoint_file is not None:
            directory = endpoint_file.absolute().parent
            if endpoint_file.is_dir() or not os.access(directory, os.W_OK):
                raise ParameterError("endpoint_file", f"{endpoint_file} cannot be written")
            endpoint_file.unlink(missing_ok=True)  # of a server that was killed
        watch = None if beacon is None else _beacon_reader(beacon)
        with serving.stop_signal() as stopped:

            def publish(endpoint: serving.Endpoint) -> None:
                typer.echo(f"ready: GRPC at {endpoint.grpc}, HTTP at {endpoint.http}")
                if endpoint_file is not None:
                    endpoint.write(endpoint_file)

            server = serving.serve(
                model_repository,
                image or None,
                name=name,
                gpus=read_gpus(gpus),
                n_gpus=n_gpus,
                cpu=cpu,
                gpu_timeout_s=gpu_timeout_s,
                server_args=server_arg or (),
                log_file=log_file,
                ports=None if ports is None else _ports(ports),
                listen=listen,
                insecure=insecure,
                advertise=advertise,
                stop_timeout_s=stop_timeout_s,
                endpoint_file=endpoint_file,
                started_by="command",
            )
            serving.run_with_restarts(
                monitoring.monitored(server, monitor),
                timeout_s=timeout_s,
                is_wanted=lambda: not stopped.is_set() and (watch is None or watch.is_moving()),
                publish=publish,
                most_restarts=restarts,
            )
        if watch is not None and not stopped.is_set():
            typer.echo(f"the beacon {beacon} stands still: the server has ended", err=True)


def _beacon_reader(file: Path) -> BeaconReader:
    if not file.is_file():
        raise ParameterError("while", f"there is no file {file}; its driver has to make it first")
    return BeaconReader(file)


def _ports(text: str) -> Any:
    if text == "auto":
        return text
    try:
        grpc, http, metrics = (int(port) for port in text.split(","))
    except ValueError:
        raise ParameterError("ports", f"{text!r} is neither auto nor like 8001,8000,8002") from None
    return serving.Ports(grpc=grpc, http=http, metrics=metrics)
