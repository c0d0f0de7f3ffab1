"""The command that finds the settings with which a model is fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hermes._cli_options import (
    CPU,
    Command,
    ExitCode,
    GPUs,
    Image,
    NGPUs,
    ServerArg,
    errors_as_text,
    interrupts_as_text,
    read_gpus,
    read_options,
    with_options,
)
from hermes.aeriel import files, repository, tuning
from hermes.aeriel._options import InferenceOptions

app = typer.Typer()


@app.command(cls=Command, epilog="Example: hermes tune models digits --inputs 'data/*.h5'")
@with_options(InferenceOptions, without=("model_name",))
def tune(
    models: Annotated[Path, typer.Argument(help="The model repository, a directory.")],
    model: Annotated[str, typer.Argument(help="The model's name.")],
    inputs: Annotated[
        list[str], typer.Option(help="HDF5 files to measure with; paths and globs, repeatable.")
    ],
    seconds: Annotated[float, typer.Option(min=10, help="How long to search.")] = 300.0,
    output_dir: Annotated[
        Path | None,
        typer.Option(help="For config.tuned.pbtxt and the plot; none: the model's directory."),
    ] = None,
    image: Image = "",
    gpus: GPUs = None,
    n_gpus: NGPUs = None,
    cpu: CPU = False,
    server_arg: ServerArg = None,
    **options: Any,
) -> None:
    """Find what makes a model fast on this machine, by measuring.

    Serves the model with one set of settings after another: instances, threads, dynamic batcher,
    rows of a request, requests in flight. Writes config.tuned.pbtxt beside config.pbtxt, which is
    left as it is.
    """
    with errors_as_text(ExitCode.REFUSED):
        tuning.check_extra()
        given = read_options(InferenceOptions, options, model_name=model)
        known = repository.read_model(
            str(models), model, given.model_version, server_args=server_arg or ()
        ).specification
        found = files.find_inputs(inputs, given, known).inputs
        for each in found:
            facts = files.examine(each, given, known)
        if known is not None:
            files.plan(facts, given, known)
        directory = (models / model).absolute() if output_dir is None else output_dir
        directory.mkdir(parents=True, exist_ok=True)
        config = tuning.free_name(directory, "config.tuned", ".pbtxt")
        plot = tuning.free_name(directory, "tuned", ".png")

    def show(measurement: tuning.Measurement) -> None:
        pairs = zip(tuning.HEADS, tuning.row(measurement), strict=True)
        line = ", ".join(f"{name} {text}" for name, text in pairs if text)
        typer.echo(f"{line}{': ' if measurement.problem else ''}{measurement.problem}", err=True)

    with errors_as_text(ExitCode.FAILED), interrupts_as_text("Nothing was written."):
        result = tuning.tune(
            models.absolute(),
            model,
            found,
            given,
            seconds=seconds,
            on_measured=show,
            image=image or None,
            gpus=read_gpus(gpus),
            n_gpus=n_gpus,
            cpu=cpu,
            server_args=server_arg or (),
        )
        typer.echo(tuning.table(result))
        tuning.draw(plot, result)
        typer.echo(f"\nthe plot is {plot}")
        most = result.limits.max_batch_size
        if result.best.settings.batch_size == most:
            typer.echo(
                f"requests are as large as max_batch_size, {most}: a larger one may be faster"
            )
        if len(result.measurements) == 1:
            typer.echo("there was no time for other settings than those of now; give more seconds")
            return
        if not result.is_faster:
            again = ", when both were measured again" if result.confirmed else ""
            typer.echo(f"no settings were faster by 5 % than those of now{again}")
            return
        if result.best.settings.model != result.now.settings.model:
            tuning.write_config(config, result)
            typer.echo(f"the fastest configuration is {config}")
        client = tuning.client_options(result.best.settings)
        typer.echo(f"{result.gain:.2f} times the rows per second of now, with {client}")
