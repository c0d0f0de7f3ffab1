"""A validation in its output directory: predictions merged, measured and reported."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py

from hermes.aeriel._options import ValidationOptions
from hermes.aeriel.files import (
    DatasetFacts,
    file_stamp,
    fingerprint,
    fingerprint_of,
    versions,
)
from hermes.aeriel.metrics import (
    Comparison,
    MetricsResult,
    Requirement,
    RequirementResult,
    evaluate_requirements,
)
from hermes.aeriel.report import (
    build_report,
    describe_server,
    summarise,
    write_report_html,
    write_report_json,
)
from hermes.aeriel.repository import class_names
from hermes.aeriel.validation._baseline import (
    compare_with,
    describe_baseline,
)
from hermes.aeriel.validation._directory import ValidationDirectory
from hermes.aeriel.validation._merge import merge
from hermes.aeriel.validation._outputs import describe_outputs
from hermes.aeriel.validation._validation import (
    FilePredictions,
    describe_inputs,
    describe_slides,
    finite_warnings,
    measure,
    throughput,
)
from hermes.errors import RequirementError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MergeJob:
    """Predictions that are to be one file.

    Parameters
    ----------
    predictions
        The files, in the order that their rows are to have; they need not be there yet.
    fingerprints
        What stands for each of them.
    output_file
        The file to write.
    target
        The dataset with the targets; none where it is empty.
    target_files
        The file that it is in, for each of the predictions; where there are none, it is in each
        input file.
    model_name
        The model that made the predictions.
    """

    predictions: Sequence[Path]
    fingerprints: Sequence[str]
    output_file: Path
    target: str
    target_files: Sequence[Path] = ()
    model_name: str

    @property
    def fingerprint(self) -> str:
        """What stands for everything that the merged file depends on."""
        facts: dict[str, Any] = {"parts": list(self.fingerprints), "target": self.target}
        if self.target_files:  # else the fingerprints of the parts stand for the targets too
            facts["target_stamps"] = [stamp for _, stamp in self._target_stamps]
        return fingerprint(**facts)

    @functools.cached_property
    def _target_stamps(self) -> tuple[tuple[Path, str], ...]:
        return tuple((file, file_stamp(file)) for file in self.target_files)

    def is_complete(self) -> bool:
        """Tell whether the merged file is there, and is that of these predictions."""
        return fingerprint_of(self.output_file) == self.fingerprint

    def run(self, on_progress: Callable[[int, int], None]) -> None:
        """Merge the files.

        Parameters
        ----------
        on_progress
            Called with the rows done and the rows in all.

        Raises
        ------
        ParameterError, DataError, OutputError
            As `merge` does.
        """
        merge(
            [each.part for each in FilePredictions.read_run(self.predictions)],
            self.output_file,
            target=self.target or None,
            target_files=self._target_stamps,
            fingerprint=self.fingerprint,
            attributes={"model_name": self.model_name, "hermes": version("hermes-aeriel")},
            on_progress=on_progress,
        )


def write_reports(
    directory: ValidationDirectory,
    predictions: Sequence[FilePredictions],
    options: ValidationOptions,
    chosen: tuple[Sequence[str], Sequence[Requirement]],
    *,
    target: DatasetFacts | None,
    baseline: Path | None,
    fingerprint: str,
    request: str | None = None,
    parameters: Mapping[str, Any],
    gpus: Sequence[int | str] | None = None,
    warnings: Sequence[str] = (),
    monitor_tables: Sequence[Path] = (),
    outputs: Mapping[str, Path] | None = None,
) -> None:
    """Measure merged predictions, write the reports, and fail where a requirement was missed.

    Parameters
    ----------
    directory
        Has the merged file, and gets the reports.
    predictions
        What the files that were merged say of themselves.
    options
        What they are measured by.
    chosen
        The metrics and requirements: what `choose_metrics` returned.
    target
        What is known of the targets of the first input file.
    baseline
        The merged file to compare with, if any: what `find_baseline` returned.
    fingerprint
        What `report_fingerprint` returned.
    request
        What `request_fingerprint` returned, where the inputs reach no other files.
    parameters
        What was asked for, for the reader.
    gpus, warnings, monitor_tables
        What is known of the server: its GPUs, what is other than a reader may think, and the CSV
        file of its `ServerMonitor`; of several servers, one each.
    outputs
        Further files that were written, by what they hold.

    Raises
    ------
    ParameterError, DataError
        A metric cannot be computed, as `measure` says.
    RequirementError
        A requirement was missed; the reports are written.
    OutputError
        They cannot be written.
    """
    names, requirements = chosen
    result: MetricsResult | None = None
    comparison: Comparison | None = None
    outcomes: tuple[RequirementResult, ...] = ()
    if names:
        required = {requirement.scalar for requirement in requirements}
        optional = () if options.metrics else set(names) - required
        result = measure(directory.merged, names, options, optional=optional)
        scalars = result.scalars
        if baseline is not None:
            comparison = compare_with(baseline, directory.merged, result, names, options)
            scalars = scalars | comparison.scalars
        outcomes = evaluate_requirements(requirements, scalars)
    since = min(part.started for part in predictions)
    described = (describe_server(table, since=since) for table in monitor_tables)
    of_model = predictions[0].attributes
    of_repository, of_server = _origin(of_model, gpus)
    report = build_report(
        title=options.title or f"Validation of {of_model['model_name']}",
        warnings=[*warnings, *finite_warnings(predictions)],
        model={
            "name": of_model["model_name"],
            "version": of_model["model_version"],
            "platform": of_model["model_platform"],
            **of_repository,
        },
        server={
            "address": of_model["server"],
            "version": of_model["server_version"],
            **of_server,
        },
        servers=[each for each in described if each is not None],
        inputs=describe_inputs(predictions),
        slides=describe_slides(predictions),
        predictions=() if result else describe_outputs(directory.merged),
        class_names=_class_names(of_model, options.output_name, target),
        metrics=result,
        comparison=comparison,
        baseline=None if baseline is None else describe_baseline(baseline),
        requirements=outcomes,
        throughput=throughput(predictions),
        monitor=summarise(monitor_tables[0], since=since) if monitor_tables else None,
        parameters=parameters,
        versions=versions(),
        outputs={"merged predictions": directory.merged, **(outputs or {})},
        directory=directory.path,
    )
    write_report_html(directory.report_html, report)
    write_report_json(
        directory.report_json, {**report, "fingerprint": fingerprint, "request": request}
    )
    misses = tuple(str(outcome) for outcome in outcomes if not outcome.passed)
    if misses:
        raise RequirementError(misses, str(directory.report_html))


def _origin(
    attributes: Mapping[str, Any], gpus: Sequence[int | str] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is known of a model and its server, besides what the server says.

    Of a server that somebody else ran, that is nothing.
    """
    if "model_repository" not in attributes:
        return {}, {}
    image = attributes["image"]
    runtime = "Singularity/Apptainer" if image else "local"
    return (
        {"repository": attributes["model_repository"]},
        {"runtime": runtime, "image": image, "gpus": gpus},
    )


def _class_names(
    attributes: Mapping[str, Any], output_name: str, target: DatasetFacts | None
) -> tuple[str, ...]:
    """Return what the classes are called, where the model repository or the targets say it."""
    repository = attributes.get("model_repository")
    named = class_names(repository, attributes["model_name"], output_name) if repository else ()
    enum = target and h5py.check_enum_dtype(target.dtype)
    # HDF5's own names of integers, where they are those of classes.
    by_class = {number: name for name, number in (enum or {}).items()}
    is_whole = set(by_class) == set(range(len(by_class)))
    return named or tuple(by_class[n] for n in range(len(by_class)) if is_whole)
