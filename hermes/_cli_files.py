"""The commands that work on files."""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from hermes._cli_options import (
    CPU,
    LINGER_S,
    Command,
    ExitCode,
    GPUs,
    Image,
    NGPUs,
    ServerArg,
    errors_as_text,
    interrupts_as_text,
    read_gpus,
    read_map_option,
    read_options,
    shown,
    with_options,
)
from hermes.aeriel import client, files, repository, supervise
from hermes.aeriel._options import InferenceOptions
from hermes.errors import ParameterError

app = typer.Typer()

_CHUNK = re.compile(r"(\d+)/(\d+)")


@app.command(
    cls=Command,
    epilog="Example: hermes infer --models models digits 'data/*.h5' --output-dir results",
)
@with_options(InferenceOptions, without=("model_name",))
def infer(
    server: Annotated[
        str,
        typer.Argument(
            help="host:port of a server's GRPC service, or an endpoint file; not with --models."
        ),
    ],
    output_dir: Annotated[Path, typer.Option(help="Directory for a file for each input.")],
    model: Annotated[str, typer.Argument(help="The model's name.", show_default=False)] = "",
    inputs: Annotated[
        list[str] | None, typer.Argument(help="HDF5 files; paths and globs.", show_default=False)
    ] = None,
    channels: Annotated[
        list[str] | None,
        typer.Option(
            "--inputs",
            help="HDF5 files with one channel each, in the order of the channels, as "
            "H1=data/H-*.h5 or as a JSON object; they are brought together by their times.",
        ),
    ] = None,
    files_from: Annotated[
        str, typer.Option(help="A file with the path of an input in each line; -: standard input.")
    ] = "",
    chunk: Annotated[
        str, typer.Option(help="As K/N: the Kth of N parts of the files, in their order.")
    ] = "",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Skip what is complete, and go on where a run stopped; the model must be the "
            "same. Always so with --models, which knows the model's files.",
        ),
    ] = False,
    wait_s: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for an endpoint file that is to come.")
    ] = 0.0,
    models: Annotated[
        str,
        typer.Option(help="Serve this model repository for it, as `hermes with` does."),
    ] = "",
    image: Image = "",
    gpus: GPUs = None,
    n_gpus: NGPUs = None,
    cpu: CPU = False,
    server_arg: ServerArg = None,
    server_timeout_s: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for the server of --models.")
    ] = 600.0,
    linger_s: Annotated[
        float,
        typer.Option(min=0, help="Seconds that the server of --models stays after its last use."),
    ] = LINGER_S,
    **options: Any,
) -> None:
    """Stream HDF5 files through a model into HDF5 files.

    Exits with 35 where something is refused before it runs, and with 30 where it fails, as the
    tasks do.
    """
    with errors_as_text(ExitCode.REFUSED):
        named = [server, *([model] if model else []), *(inputs or ())]
        served_by = "" if models else named.pop(0)
        if not named:
            raise ParameterError("model", "is missing; give the name of a model")
        model_name, *patterns = named
        asked = read_options(InferenceOptions, options, model_name=model_name)
        patterns += _lines(files_from)
        by_channel = read_map_option("inputs", channels)
        if by_channel and patterns:
            raise ParameterError("inputs", "is given with other files; give each file a channel")
        started = {
            "image": image,
            "gpus": read_gpus(gpus),
            "n_gpus": n_gpus,
            "cpu": cpu,
            "server_args": tuple(server_arg or ()),
        }
        spec = _spec(models, started, server_timeout_s)
        if spec is None:
            # A server does not show what its models are made of.
            known = repository.RepositoryModel(
                stamp="resumable" if resume else secrets.token_hex(8)
            )
            if not wait_s:
                client.Endpoint.of(served_by)
        elif wait_s:
            raise ParameterError("wait_s", "applies to an endpoint file, not with --models")
        else:
            repository.check_model(models, model_name, asked.model_version)
            known = repository.read_model(
                models, model_name, asked.model_version, server_args=server_arg or ()
            )
        found = files.find_inputs(by_channel or patterns, asked, known.specification)
        for warning in found.warnings:
            typer.echo(f"hermes: warning: {warning}", err=True)
        planned = files.plan_files(asked, found.inputs, output_dir, model_stamp=known.stamp)
        part = _chunk(planned, chunk, output_dir)
        pending = [job for job in part if not job.is_complete()]
        _check_outputs(pending)
        if spec is not None:
            _check(pending, known.specification)
    if len(pending) < len(part) or not part:
        typer.echo(f"{len(part) - len(pending)} of {len(part)} files are complete already")
    if not pending:
        return
    goes_on = "goes on where this one stopped" if resume or models else "with --resume goes on"
    with (
        errors_as_text(ExitCode.FAILED),
        interrupts_as_text(f"The same command {goes_on}."),
        shown(
            f"infer {model_name}",
            {
                str(job.output_file): (os.path.relpath(job.output_file, output_dir), None)
                for job in pending
            },
            None if spec is None else supervise.ServerState.of(spec).status,
        ),
        _served(spec, served_by, pending[0], wait_s, linger_s) as connected,
    ):
        done = files.infer_files(connected, pending)
    typer.echo(files.summary(done))


@contextmanager
def _served(
    spec: supervise.ServerSpec | None,
    name: str,
    first: files.FileJob,
    wait_s: float,
    linger_s: float,
) -> Iterator[files.Server]:
    """Yield the server of a spec, or else the one of a name."""
    if spec is None:
        yield files.NamedServer(name, wait_s=wait_s, return_s=first.options.retry_for_s)
        return
    wishes = supervise.Wishes(linger_s=linger_s)
    what = f"infer {first.options.model_name} {first.input_files[0]}"
    with supervise.shared_server(spec, what=what, wishes=wishes) as server:
        yield server


def _spec(models: str, options: dict[str, Any], timeout_s: float) -> supervise.ServerSpec | None:
    """Return what server of a model repository is wanted, if any."""
    if models:
        return supervise.ServerSpec.of(models, **options, timeout_s=timeout_s)
    for name, value in options.items():
        if value not in ("", None, False, ()):
            raise ParameterError(name, "applies to the server that --models starts; give --models")
    return None


def _check(pending: Sequence[files.FileJob], model: client.ModelSpecification | None) -> None:
    """Raise an error where a file does not suit the model, before a server is started."""
    for job in pending:
        facts = files.examine(job.input_files, job.options, model)
        if model is not None:
            files.plan(facts, job.options, model)


def _lines(file: str) -> list[str]:
    """Return the lines of a file, or of standard input, that are not empty."""
    if not file:
        return []
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        problem = f"{file} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ParameterError("files_from", problem) from error
    lines = [line for line in text.splitlines() if line]
    for line in lines:
        if not Path(line).is_file():
            raise ParameterError("files_from", f"{file} names {line!r}, which is not a file")
    return lines


def _chunk(jobs: Sequence[files.FileJob], text: str, output_dir: Path) -> Sequence[files.FileJob]:
    """Return the jobs of a chunk, given as K/N."""
    match = _CHUNK.fullmatch(text or "1/1")
    number, total = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= total:
        raise ParameterError("chunk", f"{text!r} is not like K/N, with K from 1 to N")
    if total > 1:
        files.check_division(output_dir, [job.output_file for job in jobs])
    return files.chunk_of(jobs, number, total)


def _check_outputs(jobs: Sequence[files.FileJob]) -> None:
    """Raise OutputError where an output would replace that of another input."""
    for job in jobs:
        job.check_output()
