"""`Validate`: inference over many files, their predictions merged, measured and reported.

The main job, from a shell: ``luigi --module workflows.validate Validate …``; see the README.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import luigi

from hermes._reports import report
from hermes.aeriel import files, jobs, metrics, serve, validation
from hermes.aeriel.validation import ValidationOptions
from workflows._builds import is_driven_here, once_per_build
from workflows._readable import ReadableTask, texts_of
from workflows.merge import Merge, ValidationParameters
from workflows.parameters import (
    options_of,
    with_options,
)
from workflows.predict import Predict

__all__ = ["Merge", "Predict", "Validate"]

# The one whose messages Luigi shows.
logger = logging.getLogger("luigi-interface")


@with_options(ValidationOptions)
class MetricParameters:
    """How predictions are measured: a parameter for each field of `ValidationOptions`."""

    if TYPE_CHECKING:  # the decorator makes them

        def __getattr__(self, name: str) -> Any: ...

    @property
    def validation(self) -> ValidationOptions:
        """The parameters as options."""
        return options_of(ValidationOptions, self)


class Validate(ValidationParameters, MetricParameters, ReadableTask):
    """Predictions for every file, measured against targets, held against requirements, reported.

    The output directory gets ``predictions/`` (a file per input), ``merged.h5``, ``report.json``
    and ``report.html``. A requirement that is missed fails the task, after the report is written.
    A subclass may name a subclass of `Merge` as ``merge_task``.

    Parameters
    ----------
    inputs : list of str, or dict
        HDF5 files: paths and globs. A dict has those of each channel by its name, in the order that
        the model wants, such as ``{"H1": "H-*.hdf5", "L1": "L-*.hdf5"}``; files that begin at the
        same time are read side by side. One without a partner is refused; with `overlap`, files
        that have time in common are, and one without a partner is left out and named.
    output_dir : str
        A directory.
    target : str
        The dataset with the targets in each file; without one there are no metrics.
    target_file : str
        The file that it is in, where that is another than the input: ``*`` stands for the name of
        each input file without its suffix, as ``labels/*.h5``. Row i is the target of row i.
    metrics : list of str
        What to compute; by default what suits the target's dtype, and the output: there is no
        log loss of labels.
    require : list of str
        Requirements such as ``accuracy >= 0.95``.
    output_name : str
        The output to compare with the target, for a model with several.
    scores : str
        What scores of classes are: ``probabilities``, ``logits``, or ``auto``, which finds out or
        refuses to guess.
    rtol, atol : float
        The tolerance of the metric ``reference``: ``|p - t| <= atol + rtol * |t|``.
    baseline : str
        The output directory of another `Validate` of the same rows, which may be of another model:
        every metric is compared with its, and ``accuracy - baseline.accuracy >= -0.01`` is a
        requirement on the difference.
    title : str
        The headline of the report.
    files_per_task : int
        How many input files one task streams, one after the other; by default as many as make
        about a second of work, going by their sizes.
    """

    merge_task: type[Merge] = Merge

    def requires(self) -> Merge:
        """Return the task that merges the predictions, after checking what was asked for."""
        merge_task: Merge = self.clone(self.merge_task)
        self.check_metrics(merge_task.inputs_facts[0])
        if is_driven_here():
            self.check_targets  # noqa: B018 (a property, so that they are read once in a build)
        if self.baseline:
            logger.info("the baseline is %s", self.baseline_file)
        return merge_task

    def output(self) -> dict[str, luigi.LocalTarget]:
        """Return the two reports."""
        directory = self.directory
        return {
            "json": luigi.LocalTarget(str(directory.report_json)),
            "html": luigi.LocalTarget(str(directory.report_html)),
        }

    def complete(self) -> bool:
        """Tell whether there is a report of just this, whose requirements were met."""
        self.begin_terminal()
        return self.directory.is_reported(lambda: self.fingerprint, lambda: self.request)

    @once_per_build
    def request(self) -> str:
        """What stands for what was asked for, and for the inputs, which need not be opened."""
        merge_task: Merge = self.clone(self.merge_task)
        baseline = (
            files.fingerprint_of(validation.find_baseline(self.baseline)) if self.baseline else None
        )
        facts = {**merge_task.request, "baseline": baseline}
        return validation.request_fingerprint(merge_task.stamps, self.validation, **facts)

    @once_per_build
    def fingerprint(self) -> str:
        """What stands for everything that the report depends on."""
        baseline = self.baseline_file if self.baseline else None
        merged = self.clone(self.merge_task).job.fingerprint
        return validation.report_fingerprint(merged, self.validation, baseline)

    @once_per_build
    def check_targets(self) -> None:
        """Raises DataError where a target is NaN or infinite, if the metrics want numbers."""
        merge_task: Merge = self.clone(self.merge_task)
        facts = merge_task.inputs_facts
        names, _ = self.check_metrics(facts[0])
        metrics.check_finite_targets(facts, names)

    def check_metrics(
        self, facts: files.InputFacts
    ) -> tuple[tuple[str, ...], tuple[metrics.Requirement, ...]]:
        """Return the metrics to compute and the requirements on them.

        Parameters
        ----------
        facts
            Those of any input file: all of them agree.

        Raises
        ------
        ParameterError
            One is unknown, or there is no target for it, or no output.
        DataError
            The targets cannot be compared with the model's output.
        MissingExtraError
            Something for the report is not installed.
        """
        names, requirements = validation.choose_metrics(self.validation, facts.target)
        hooks = self.clone(self.merge_task).hooks
        # A hook may give other outputs than the model has.
        is_known = hooks.postprocess is None and not hooks.variants
        metrics.check_target(
            facts,
            names,
            self.model if is_known else None,
            kept=self.outputs,
            output_name=self.output_name,
            varying=self.varying,
            is_cut=bool(self.window),
        )
        return names, requirements

    @once_per_build
    def baseline_file(self) -> Path:
        """The merged predictions to compare with, once they are known to be of the same rows.

        Raises
        ------
        ParameterError
            They are not there, or not of the same rows.
        """
        inputs = self.clone(self.merge_task).inputs_facts
        return validation.find_same_rows(self.baseline, inputs, self.directory.path)

    def run(self) -> None:
        """Measure, write the reports, and fail where a requirement was missed."""
        report("step", text="measuring, and writing the report")
        merge_task = self.requires()
        facts = merge_task.inputs_facts[0]
        gpus = serve.GPURequest(gpus=self.gpus, n_gpus=self.n_gpus, cpu=self.cpu)
        logs = self.directory.path / "logs"
        validation.write_reports(
            self.directory,
            validation.FilePredictions.read_run(merge_task.job.predictions),
            self.validation,
            self.check_metrics(facts),
            target=facts.target,
            baseline=self.baseline_file if self.baseline else None,
            fingerprint=self.fingerprint,
            parameters=texts_of(self),
            request=self.request if merge_task.are_self_contained else None,
            gpus=self.gpus,
            warnings=[
                *serve.gpu_warnings(gpus),
                *merge_task.found_inputs.warnings,
            ],
            monitor_tables=[
                Path(jobs.file_of_server(self.monitor_table, number))
                for number in range(self.servers)
            ],
            outputs={
                "predictions": self.directory.path / "predictions",
                "server log": logs / "triton.log",
                "server over time": Path(self.monitor_table),
            },
        )
        logger.info("the report is %s", self.directory.report_html)


def _report_is_there(task: Validate) -> None:
    jobs.sweep_runs(task.directory.jobs)


Validate.event_handler(luigi.Event.DEPENDENCY_PRESENT)(_report_is_there)
