"""The command ``hermes``."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

import hermes
from hermes._cli_options import inference_options, with_inference_options
from hermes.errors import HermesError, ParameterError

if TYPE_CHECKING:
    from hermes.aeriel.endpoint import Endpoint
    from hermes.aeriel.serve import TritonInstance


LINGER_S = 10.0


class _Command(TyperCommand):
    """A command that refuses an option that is repeated, where click takes the last one alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Return the arguments that are left, of which there are none."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for option, times in Counter(given).items():
            # An argument has neither; all of its values are one.
            repeats = getattr(option, "multiple", True) or getattr(option, "is_flag", True)
            if times > 1 and not repeats:
                problem = "is given several times, but takes one value; give it once"
                raise typer.BadParameter(problem, ctx, param_hint=option.opts[0])
        return super().parse_args(ctx, args)


app = typer.Typer(
    help="Offline inference with NVIDIA Triton.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Offline inference with NVIDIA Triton."""
    if version:
        typer.echo(hermes.__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(cls=_Command)
def serve(
    model_repository: Annotated[str, typer.Argument(help="A directory, or a URL.")],
    image: Annotated[
        str | None, typer.Option(help="A Singularity/Apptainer image; none: a local Triton.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the container instance.")] = None,
    gpus: Annotated[
        str | None,
        typer.Option(help="GPUs by global index or UUID, as 0,3; '' hides all of them."),
    ] = None,
    n_gpus: Annotated[
        int | None, typer.Option(help="How many GPUs, out of those that are visible and free.")
    ] = None,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="Serve on the CPU, also models that ask for a GPU.")
    ] = False,
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
    server_arg: Annotated[
        list[str] | None, typer.Option(help="A further flag of tritonserver; repeatable.")
    ] = None,
    log_file: Annotated[Path | None, typer.Option(help="Takes the server's output.")] = None,
    endpoint_file: Annotated[
        Path | None, typer.Option(help="Written when the server is ready, removed at its end.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="Seconds to wait until it is ready.")] = 600.0,
    stop_timeout_s: Annotated[
        float, typer.Option(help="Seconds that it may take to finish when it stops.")
    ] = 30.0,
    monitor: Annotated[
        Path | None, typer.Option(help="CSV file that says once a second what the server does.")
    ] = None,
) -> None:
    """Serve a model repository until SIGTERM or SIGINT."""
    from hermes.aeriel import serve as serving  # noqa: PLC0415 (an import of 0.3 s)

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    with _errors_as_text():
        if endpoint_file is not None:
            directory = endpoint_file.absolute().parent
            if endpoint_file.is_dir() or not os.access(directory, os.W_OK):
                raise ParameterError("endpoint_file", f"{endpoint_file} cannot be written")
            endpoint_file.unlink(missing_ok=True)  # of a server that was killed
        request = serving.GPURequest(gpus=_gpus(gpus), n_gpus=n_gpus, cpu=cpu)
        start = functools.partial(
            serving.serve,
            model_repository,
            image,
            name=name,
            server_args=server_arg or (),
            log_file=log_file,
            ports=None if ports is None else _ports(ports),
            listen=listen,
            insecure=insecure,
            stop_timeout_s=stop_timeout_s,
            endpoint_file=endpoint_file,
            started_by="command",
        )

        def server(**options: Any) -> AbstractContextManager[TritonInstance]:
            started = start(**options)
            return started if monitor is None else _monitored(started, monitor)

        with serving.stop_signal() as stopped:

            def publish(endpoint: serving.Endpoint) -> None:
                typer.echo(f"ready: GRPC at {endpoint.grpc}, HTTP at {endpoint.http}")
                if endpoint_file is not None:
                    endpoint.write(endpoint_file)

            def unpublish() -> None:
                if endpoint_file is not None:
                    endpoint_file.unlink(missing_ok=True)

            serving.run_with_restarts(
                server(gpus=request.gpus, n_gpus=n_gpus, cpu=cpu, gpu_timeout_s=gpu_timeout_s),
                timeout_s=timeout_s,
                is_wanted=lambda: not stopped.is_set(),
                publish=publish,
                unpublish=unpublish,
            )


@app.command(cls=_Command)
@with_inference_options
def infer(
    server: Annotated[
        str,
        typer.Argument(
            help="host:port of a server's GRPC service, or an endpoint file; not with --models."
        ),
    ],
    model: Annotated[str, typer.Argument(help="The model's name.")],
    output_dir: Annotated[Path, typer.Option(help="Directory for a file for each input.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(help="HDF5 files; paths and globs.", show_default=False)
    ] = None,
    models: Annotated[
        str,
        typer.Option(help="Serve this model repository for it, as `hermes with` does by default."),
    ] = "",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where a run stopped; the model must be the same."),
    ] = False,
    **options: Any,
) -> None:
    """Stream HDF5 files through a model into HDF5 files."""
    from hermes.aeriel import files  # noqa: PLC0415 (an import of 0.4 s)

    with _errors_as_text():
        named = [server, model, *(inputs or ())]
        with _server(models, named) as endpoint:
            model_name, *patterns = named
            if not patterns:
                raise ParameterError("inputs", "are missing; give HDF5 files, as paths or globs")
            done = files.infer_files(
                endpoint,
                inference_options(model_name, options),
                files.find_files(patterns),
                output_dir,
                resume=resume,
            )
        typer.echo(files.summary(done))


@app.command("with", cls=_Command)
def with_server(
    models: Annotated[str, typer.Argument(help="The model repository.")],
    command: Annotated[list[str], typer.Argument(help="What to run, after --.")],
    image: Annotated[
        str, typer.Option(help="Singularity/Apptainer image; none: a Triton of this machine.")
    ] = "",
    gpus: Annotated[
        str | None,
        typer.Option(help="GPUs by global index or UUID, as 0,3; '' hides all of them."),
    ] = None,
    n_gpus: Annotated[int | None, typer.Option(help="How many GPUs, whichever are free.")] = None,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="Serve on the CPU, also models that ask for a GPU.")
    ] = False,
    server_arg: Annotated[
        list[str] | None, typer.Option(help="A further flag of tritonserver; repeatable.")
    ] = None,
    log_file: Annotated[
        Path | None, typer.Option(help="Takes the server's output while the command runs.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="Seconds to wait for the server.")] = 600.0,
    linger_s: Annotated[
        float, typer.Option(min=0, help="Seconds that the server stays after its last command.")
    ] = LINGER_S,
) -> None:
    """Run a command with a server that it shares with others of the same options.

    Its endpoint file is in the command's environment, as HERMES_ENDPOINT. The server starts with
    the first command, is started again when it crashes, and is gone when all of them are. The exit
    code is the command's.
    """
    from hermes import _command  # noqa: PLC0415 (as above)
    from hermes.aeriel import supervise  # noqa: PLC0415 (as above)

    with _errors_as_text():
        found = _command.find_command(command)
        spec = supervise.ServerSpec.of(
            models,
            image=image,
            gpus=_gpus(gpus),
            n_gpus=n_gpus,
            cpu=cpu,
            server_args=tuple(server_arg or ()),
            timeout_s=timeout_s,
        )
        wishes = supervise.Wishes(
            log_file="" if log_file is None else str(log_file.absolute()), linger_s=linger_s
        )
        with supervise.shared_server(spec, what=" ".join(command), wishes=wishes) as endpoint_file:
            code = _command.run_bound(found, HERMES_ENDPOINT=str(endpoint_file))
        sys.exit(code)


@app.command(cls=_Command)
def ps(
    as_json: Annotated[bool, typer.Option("--json", help="All that is known, as JSON.")] = False,
) -> None:
    """List the servers of this user on this host."""
    from hermes import _ps  # noqa: PLC0415 (as above)
    from hermes.aeriel.supervise import state_home  # noqa: PLC0415 (as above)

    servers = _ps.list_servers(state_home())
    if as_json:
        typer.echo(json.dumps([asdict(server) for server in servers], indent=2))
        return
    typer.echo(_ps.as_table([_ps.HEADER, *(server.row() for server in servers)]))
    for server in servers:
        if server.detail:
            typer.echo(f"\n{server.id} waits: {server.detail}")


@app.command(cls=_Command)
def stop(
    server: Annotated[str, typer.Argument(help="The ID that `hermes ps` shows.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every server of yours.")] = False,
    timeout_s: Annotated[float, typer.Option(help="Seconds to wait until it is gone.")] = 60.0,
) -> None:
    """Stop a server, or all, for good: the pipelines that need it fail.

    A pipeline that is started later brings up a server of its own.
    """
    from hermes import _ps  # noqa: PLC0415 (as above)
    from hermes.aeriel.supervise import ServerState, state_home, stop_server  # noqa: PLC0415 (as above)

    with _errors_as_text():
        running = [state for state in ServerState.all(state_home()) if state.owner()]
        chosen = [s for s in running if everything or _ps.short_id(s) == server]
        if not chosen and not (everything and not server):
            known = ", ".join(map(_ps.short_id, running)) or "none"
            raise ParameterError("server", f"{server!r} is not one of those that run: {known}")
        for state in chosen:
            stop_server(state, timeout_s=timeout_s)
            typer.echo(f"stopped {_ps.short_id(state)}")
        if not chosen:
            typer.echo("no server of yours runs on this host")


@app.command(cls=_Command)
def check() -> None:
    """Say what this machine has, and what is missing for which feature."""
    from hermes import _check  # noqa: PLC0415 (as above)

    with _errors_as_text():
        for fact in _check.machine_facts():
            typer.echo(f"{'missing' if fact.is_missing else 'ok':8}{fact.subject}: {fact.text}")


@app.command(cls=_Command)
def install_triton(
    with_: Annotated[
        list[str] | None,
        typer.Option("--with", help="A further package for the models, such as torch."),
    ] = None,
) -> None:
    """Bring a Triton for this machine into a private environment.

    It goes to HERMES_TRITON_HOME, by default to the user's cache, and touches nothing else.
    """
    from hermes.runtime import install_triton as install  # noqa: PLC0415 (as above)

    with _errors_as_text():
        triton = install(packages=with_ or (), report=typer.echo)
        typer.echo(f"Triton is at {triton.binary}")


@contextmanager
def _server(models: str, named: list[str]) -> Iterator[Endpoint]:
    """Yield a server for a model repository, or else the one that is named first."""
    from hermes.aeriel import endpoint  # noqa: PLC0415 (it loads gRPC)

    if not models:
        yield endpoint.Endpoint.of(named.pop(0))
        return
    from hermes.aeriel import supervise  # noqa: PLC0415 (as above)

    spec = supervise.ServerSpec.of(models)
    wishes = supervise.Wishes(linger_s=LINGER_S)
    with supervise.shared_server(spec, what=f"infer {named[0]}", wishes=wishes) as endpoint_file:
        yield endpoint.Endpoint.read(endpoint_file)


@contextmanager
def _monitored(
    server: AbstractContextManager[TritonInstance], path: Path
) -> Iterator[TritonInstance]:
    from hermes.aeriel.monitor import ServerMonitor  # noqa: PLC0415 (as above)

    # Not the endpoint of now: a server that lost its ports to another one takes others.
    with server as instance, ServerMonitor(lambda: instance.endpoint, path):
        yield instance


@contextmanager
def _errors_as_text() -> Iterator[None]:
    try:
        yield
    except HermesError as error:
        typer.echo(f"hermes: {error}", err=True)
        sys.exit(1)


def _gpus(text: str | None) -> tuple[int | str, ...] | None:
    if text is None:
        return None
    return tuple(int(gpu) if gpu.isdigit() else gpu for gpu in text.split(",") if gpu)


def _ports(text: str) -> Any:
    from hermes.aeriel.serve import Ports  # noqa: PLC0415 (as above)

    if text == "auto":
        return text
    try:
        grpc, http, metrics = (int(port) for port in text.split(","))
    except ValueError:
        raise ParameterError("ports", f"{text!r} is neither auto nor like 8001,8000,8002") from None
    return Ports(grpc=grpc, http=http, metrics=metrics)
