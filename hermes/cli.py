"""The command ``hermes``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import hermes
from hermes import _cli_files, _cli_serve, _cli_tune, _cli_validation, _command, _ps
from hermes._cli_options import (
    CPU,
    LINGER_S,
    Command,
    GPUs,
    Image,
    NGPUs,
    ServerArg,
    errors_as_text,
    read_gpus,
)
from hermes.aeriel import supervise
from hermes.errors import ParameterError

app = typer.Typer(
    help="Offline inference with NVIDIA Triton.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(_cli_serve.app)
app.add_typer(_cli_files.app)
app.add_typer(_cli_validation.app)
app.add_typer(_cli_tune.app)


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


@app.command("with", cls=Command, epilog="Example: hermes with models -- python score.py")
def with_server(
    models: Annotated[str, typer.Argument(help="The model repository.")],
    command: Annotated[list[str], typer.Argument(help="What to run, after --.")],
    image: Image = "",
    gpus: GPUs = None,
    n_gpus: NGPUs = None,
    cpu: CPU = False,
    server_arg: ServerArg = None,
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
    with errors_as_text():
        found = _command.find_command(command)
        spec = supervise.ServerSpec.of(
            models,
            image=image,
            gpus=read_gpus(gpus),
            n_gpus=n_gpus,
            cpu=cpu,
            server_args=tuple(server_arg or ()),
            timeout_s=timeout_s,
        )
        wishes = supervise.Wishes(
            log_file="" if log_file is None else str(log_file.absolute()), linger_s=linger_s
        )
        with supervise.shared_server(spec, what=" ".join(command), wishes=wishes) as server:
            code = _command.run_bound(found, HERMES_ENDPOINT=str(server.endpoint_file))
        sys.exit(code)


@app.command(cls=Command, epilog="Example: hermes ps --watch")
def ps(
    as_json: Annotated[bool, typer.Option("--json", help="All that is known, as JSON.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show them in the terminal until Ctrl-C.")
    ] = False,
) -> None:
    """List the servers of this user on this host."""
    from hermes import _display  # noqa: PLC0415 (an import of 0.1 s)

    if watch:
        with errors_as_text():
            if as_json or not sys.stdout.isatty():
                raise ParameterError("watch", "needs a terminal, and goes without --json")
            _display.watch(lambda: _ps.as_text(_ps.list_servers(supervise.state_home())))
        return
    servers = _ps.list_servers(supervise.state_home())
    if as_json:
        typer.echo(json.dumps([asdict(server) for server in servers], indent=2))
        return
    typer.echo(_ps.as_text(servers))


@app.command(cls=Command, epilog="Example: hermes stop --all")
def stop(
    server: Annotated[str, typer.Argument(help="The ID that `hermes ps` shows.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every server of yours.")] = False,
    timeout_s: Annotated[float, typer.Option(help="Seconds to wait until it is gone.")] = 60.0,
) -> None:
    """Stop a server, or all, for good: the pipelines that need it fail.

    A pipeline that is started later brings up a server of its own.
    """
    with errors_as_text():
        home = supervise.state_home()
        running = [state for state in supervise.ServerState.all(home) if state.owner()]
        chosen = [s for s in running if everything or _ps.short_id(s) == server]
        if not chosen and not (everything and not server):
            known = ", ".join(map(_ps.short_id, running)) or "none"
            raise ParameterError("server", f"{server!r} is not one of those that run: {known}")
        for state in chosen:
            supervise.stop_server(state, timeout_s=timeout_s)
            typer.echo(f"stopped {_ps.short_id(state)}")
        if not chosen:
            typer.echo("no server of yours runs on this host")


@app.command(cls=Command, epilog="Example: hermes check")
def check() -> None:
    """Say what this machine has, and what is missing for which feature."""
    from hermes import _check  # noqa: PLC0415 (an import of 0.1 s)

    with errors_as_text():
        for fact in _check.machine_facts():
            typer.echo(f"{'missing' if fact.is_missing else 'ok':8}{fact.subject}: {fact.text}")


@app.command(cls=Command, epilog="Example: hermes install-triton --with torch")
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

    with errors_as_text():
        triton = install(packages=with_ or (), report=typer.echo)
        typer.echo(f"Triton is at {triton.binary}")
