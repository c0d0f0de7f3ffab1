"""The commands that work on predictions: ``hermes merge`` and ``hermes validate``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from hermes._cli_options import (
    Command,
    ExitCode,
    errors_as_text,
    interrupts_as_text,
    read_options,
    shown,
    with_options,
)
from hermes._closing import closing_lines
from hermes._reports import report
from hermes.aeriel import validation
from hermes.aeriel._options import ValidationOptions
from hermes.errors import ParameterError

app = typer.Typer()

TargetFile = Annotated[
    str,
    typer.Option(
        help="File with the targets, if it is another: * stands for the name of each input file "
        "without its suffix, as 'labels/*.h5'."
    ),
]


@app.command(
    cls=Command,
    epilog="Example: hermes merge 'results/*.h5' --target label --output-file merged.h5",
)
def merge(
    predictions: Annotated[
        list[str], typer.Argument(help="Files of predictions; paths and globs.")
    ],
    output_file: Annotated[Path, typer.Option(help="The HDF5 file to write.")],
    target: Annotated[
        str, typer.Option(help="Dataset with the targets in each input file, to put beside them.")
    ] = "",
    target_file: TargetFile = "",
) -> None:
    """Bring the predictions for many files into one file, with an index back to file and row.

    Exits with 35 where something is refused before it is written, and with 30 where it fails, as
    the tasks do.
    """
    with errors_as_text(ExitCode.REFUSED):
        found = validation.find_predictions(predictions)
        inputs = validation.inputs_with_targets(found, target, target_file)
        output = output_file.absolute()
        for each in found:
            if output.resolve() in {file.resolve() for file in (each.path, *each.input_files)}:
                raise ParameterError("output_file", f"{output} is one of the files to read")
        validation.check_writable(output.parent)
    with errors_as_text(ExitCode.FAILED):
        _merge(validation.merge_job(found, output, inputs))


@app.command(
    cls=Command,
    epilog="Example: hermes validate 'predictions/*.h5' --target label "
    "--require 'accuracy >= 0.95' --output-dir results",
)
@with_options(ValidationOptions)
def validate(
    predictions: Annotated[
        list[str], typer.Argument(help="Files of predictions; paths and globs.")
    ],
    output_dir: Annotated[
        Path, typer.Option(help="Directory for the merged predictions and the report.")
    ],
    target: Annotated[
        str, typer.Option(help="Dataset with the targets in each input file; none: no metrics.")
    ] = "",
    target_file: TargetFile = "",
    **options: Any,
) -> None:
    """Merge predictions, measure them, hold them against requirements, and write the report.

    Exits with 35 where something is refused before anything is written, and with 30 where it fails
    or a requirement is missed, as the task Validate does.
    """
    with errors_as_text(ExitCode.REFUSED):
        asked = read_options(ValidationOptions, options)
        found = validation.find_predictions(predictions)
        inputs = validation.inputs_with_targets(found, target, target_file)
        targets = inputs[0].target if inputs else None
        chosen = validation.choose_metrics(asked, targets)
        directory = validation.ValidationDirectory(output_dir.absolute())
        baseline = None
        if asked.baseline:
            baseline = validation.find_same_rows(asked.baseline, inputs, directory.path)
        validation.check_writable(directory.path)
    with errors_as_text(ExitCode.FAILED):
        job = validation.merge_job(found, directory.merged, inputs)
        fingerprint = validation.report_fingerprint(job.fingerprint, asked, baseline)
        if not (directory.is_reported(lambda: fingerprint) and job.is_complete()):
            _merge(job)
            validation.write_reports(
                directory,
                found,
                asked,
                chosen,
                target=targets,
                baseline=baseline,
                fingerprint=fingerprint,
                parameters={"target": target, "target_file": target_file, **asdict(asked)},
            )
        typer.echo("\n".join(closing_lines(directory.path)))


def _merge(job: validation.MergeJob) -> None:
    if job.is_complete():
        typer.echo(f"{job.output_file} is complete already")
        return
    with (
        interrupts_as_text("The same command begins the merge anew."),
        shown(f"merge into {job.output_file.name}", {}),
    ):
        job.run(lambda done, total: report("step", text=f"{done:,} of {total:,} rows"))
    typer.echo(f"merged {len(job.predictions)} files into {job.output_file}")
