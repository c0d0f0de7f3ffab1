"""`Validate`: inference over many files, their predictions merged, measured and reported.

The main job, from a shell: ``luigi --module workflows.validate Validate …``; see the README.
"""

# Over 300 lines: the parameters of the task, and the tasks that it consists of.
from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import luigi

from hermes._reports import report
from hermes.aeriel.files import (
    FileJob,
    FoundInputs,
    Hooks,
    InferenceOptions,
    InputFacts,
    check_agreement,
    examine,
    find_inputs,
    find_target_files,
    fingerprint_of,
    n_slides,
    output_names,
    own_stamp,
    plan,
    reaches_none,
    slide_file,
    slides_of,
)
from hermes.aeriel.metrics import Requirement, check_finite_targets, check_target
from hermes.aeriel.repository import check_model, read_model
from hermes.aeriel.serve import GPURequest, gpu_warnings
from hermes.aeriel.validation import (
    FilePredictions,
    MergeJob,
    ValidationDirectory,
    ValidationOptions,
    check_all_rows,
    check_output_names,
    check_targets_named,
    check_writable,
    choose_metrics,
    find_baseline,
    report_fingerprint,
    request_fingerprint,
    write_reports,
)
from hermes.errors import ParameterError
from workflows._builds import found_by_driver, is_driven_here, once_per_build
from workflows._division import SizedInput, divide
from workflows._plain_errors import install_plain_errors
from workflows._progress import Progress
from workflows._readable import ReadableTask, texts_of
from workflows._settings import apply_settings
from workflows._terminal import begin_terminal, expect_files, warn
from workflows.inference import InferenceParameters, InferenceTask
from workflows.jobs import InferenceJobs, JobParameters
from workflows.parameters import (
    AbsolutePath,
    FilePatterns,
    Text,
    TextList,
    TextLists,
    WholeNumber,
    options_of,
    with_options,
)
from workflows.server import ServerParameters, TritonServerTask

# The one whose messages Luigi shows.
logger = logging.getLogger("luigi-interface")

EVERYWHERE = "0.0.0.0"  # noqa: S104 (with a certificate)

apply_settings()
install_plain_errors()


class Predict(ServerParameters, InferenceTask):
    """The predictions for some files, with a server of the parameters' own.

    Each is whole or not there, and is made again alone.

    Parameters
    ----------
    files : list of list of str
        The HDF5 file to read, for each of the predictions; or several, each with one channel of
        every series.
    predictions : list of str
        The HDF5 files to write. The other parameters are those of `InferenceTask` and
        `TritonServerTask`.
    """

    files = TextLists(description="HDF5 files to read, as a JSON list of those of each input")
    predictions = TextList(description="HDF5 files to write, as a JSON list")

    @property
    def task_label(self) -> str:
        """What the name of the task says: the first of its inputs."""
        return Path(self.files[0][0]).name if self.files else ""

    def shown_parameters(self) -> dict[str, str]:
        """Return what is shown of the parameters: the name of the first input for all files."""
        first = "+".join(Path(file).name for files in self.files[:1] for file in files)
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        shown = super().shown_parameters()
        names = shown.keys() - {"files", "predictions"}
        return {"input": f"{first}{more}", **{name: shown[name] for name in sorted(names)}}

    @once_per_build
    def file_jobs(self) -> list[FileJob]:
        """What is to be done: a number of inputs, each of them for all time slides."""
        total = n_slides(self.options)
        return [
            job
            for files, predictions in zip(self.files, self.predictions, strict=True)
            for job in self.jobs_of(
                tuple(Path(file).absolute() for file in files),
                [
                    slide_file(Path(predictions).absolute(), number, total)
                    for number in range(total)
                ],
            )
        ]

    @once_per_build
    def model_stamp(self) -> str:
        """What stands for the model."""
        return super()._model_stamp()

    def _model_stamp(self) -> str:
        return self.model_stamp

    def result_parameters(self, *, only_significant: bool = False) -> dict[str, str]:
        """Return the parameters, but for those that say which files the task has."""
        parameters = super().result_parameters(only_significant=only_significant)
        return {name: parameters[name] for name in parameters.keys() - {"files", "predictions"}}

    def requires(self) -> dict[str, luigi.Task]:
        """Return the server."""
        return {"server": self.clone(TritonServerTask)}

    def output(self) -> list[luigi.LocalTarget]:
        """Return the files with the predictions, in the order of `file_jobs`."""
        total = n_slides(self.options)
        files = [
            slide_file(Path(file), number, total)
            for file in self.predictions
            for number in range(total)
        ]
        return [luigi.LocalTarget(str(file)) for file in files]


class ValidationParameters(ServerParameters, InferenceParameters, JobParameters):
    """What is to be validated, and whether batch jobs do the inference."""

    inputs = FilePatterns(
        description="HDF5 files: a path or glob, a JSON list of them, or a JSON object of those "
        "of each channel, which are brought together by their times"
    )
    target = Text(default="", description="dataset with the targets in each input file")
    target_file = AbsolutePath(
        default="",
        description="file with the targets, if it is another: * stands for the name of each input "
        "file without its suffix, as labels/*.h5",
    )
    output_dir = AbsolutePath(description="directory for everything that is written")
    files_per_task = WholeNumber(
        default=0,
        significant=False,
        description="input files of one task; 0: as many as make about a second of work",
    )

    @property
    def task_label(self) -> str:
        """What the names of the tasks say."""
        return f"{self.model_name} {Path(self.output_dir).name}"

    @property
    def directory(self) -> ValidationDirectory:
        """The files that are written."""
        return ValidationDirectory(Path(self.output_dir))

    @property
    def monitor_table(self) -> str:
        """The CSV file that says what the server did."""
        return self.server_monitor or str(Path(self.output_dir) / "logs" / "triton.csv")

    @property
    def server_listens_on(self) -> str:
        """The server's ``listen``: jobs on other hosts cannot reach sockets."""
        is_wide = self.engine != "local" and self.listen == "unix"
        return EVERYWHERE if is_wide else self.listen

    def begin_terminal(self) -> None:
        """Show the build in the terminal of its command, from Luigi's first question on."""
        state = self.clone(TritonServerTask, listen=self.server_listens_on).state
        begin_terminal(
            f"{type(self).__name__} {self.model_name}", Path(self.output_dir), state.status
        )


@with_options(ValidationOptions)
class MetricParameters:
    """How predictions are measured: a parameter for each field of `ValidationOptions`."""

    if TYPE_CHECKING:  # the decorator makes them

        def __getattr__(self, name: str) -> Any: ...

    @property
    def validation(self) -> ValidationOptions:
        """The parameters as options."""
        return options_of(ValidationOptions, self)


class Merge(ValidationParameters, ReadableTask):
    """The predictions for all files in one file, with an index back to file and row.

    The inputs are checked first, before a server is started. A subclass may name a subclass of
    `Predict`, with hooks, as ``predict_task``.
    """

    predict_task: type[Predict] = Predict

    @property
    def hooks(self) -> Hooks:
        """What is done to the rows of each file."""
        task: Predict = self.clone(self.predict_task, files=(), predictions=())
        return task.hooks

    @found_by_driver
    def predictions(self) -> list[Predict]:
        """The tasks that make the predictions, of one or several input files each."""
        directory = Path(self.output_dir) / "predictions"
        names = output_names([facts.files for facts in self.inputs_facts])
        inputs = [
            SizedInput(facts=facts, predictions=directory / name)
            for facts, name in zip(self.inputs_facts, names, strict=True)
        ]
        return [
            self.clone(
                self.predict_task,
                files=[each.facts.files for each in part],
                # As found beside the target, of which the task knows nothing.
                input_map=part[0].input_map,
                predictions=[str(each.predictions) for each in part],
                shifts=self.shifts_of_slides,
                n_slides=0,
                slide_step="",
                server_log=self.server_log or str(directory.parent / "logs" / "triton.log"),
                server_monitor=self.monitor_table,
                listen=self.server_listens_on,
            )
            for part in divide(inputs, self.files_per_task)
        ]

    @property
    def file_jobs(self) -> list[FileJob]:
        """What is done with each input file, slide by slide."""
        jobs = [job for task in self.predictions for job in task.file_jobs]
        total = len(jobs) // len(self.inputs_facts)
        return [job for number in range(total) for job in jobs[number::total]]

    def requires(self) -> list[Predict] | PredictInJobs:
        """Return what makes the predictions: tasks for some files each, or one for batch jobs."""
        if is_driven_here():
            self.warn_of_others  # noqa: B018 (a property, so that it warns once in a build)
        if self.engine == "local":
            return self.predictions
        jobs: PredictInJobs = self.clone(PredictInJobs)
        return jobs

    def output(self) -> luigi.LocalTarget:
        """Return the merged file."""
        return luigi.LocalTarget(str(self.directory.merged))

    def complete(self) -> bool:
        """Tell whether the merged file is there, and is that of these predictions."""
        self.begin_terminal()
        return self.directory.merged.exists() and self.job.is_complete()

    @found_by_driver
    def found_inputs(self) -> FoundInputs:
        """The files of each input.

        Raises
        ------
        ParameterError, DataError, ModelError
            There are none, or something is wrong with them.
        """
        repository = read_model(self.model_repository, self.model_name, self.model_version)
        return find_inputs(self.inputs, self.options, repository.specification)

    @found_by_driver
    def stamps(self) -> list[list[str]]:
        """What stands for the files of each input, and of its targets, before they are opened."""
        found = self.found_inputs
        return [
            [own_stamp(file) for file in (*files, *([target] if target else []))]
            for files, target in zip(found.inputs, self._target_files(found), strict=True)
        ]

    @property
    def are_self_contained(self) -> bool:
        """Whether the inputs reach no other files."""
        return all(reaches_none(stamp) for stamps in self.stamps for stamp in stamps)

    @once_per_build
    def request(self) -> Mapping[str, Any]:
        """What was asked for that the predictions depend on, as it was given."""
        task: Predict = self.clone(self.predict_task, files=(), predictions=())
        return {
            **self.options.facts(),
            "target": self.target,
            "target_file": bool(self.target_file),
            "model": task.model_stamp,
            "hooks": task.facts_of_hooks(),
        }

    @once_per_build
    def slides(self) -> tuple[InferenceOptions, ...]:
        """The options for each time slide.

        Raises
        ------
        ParameterError
            They cannot be made, or there are targets too.
        """
        repository = read_model(self.model_repository, self.model_name, self.model_version)
        slides = slides_of(
            self.options,
            lambda plain: examine(
                self.found_inputs.inputs[0], plain, repository.specification, hooks=self.hooks
            ),
        )
        if self.target:
            check_all_rows(self.target, is_selected=bool(self.keep), n_slides=len(slides))
        return slides

    @property
    def shifts_of_slides(self) -> Any:
        """The shifts of all time slides."""
        first, *others = self.slides
        return (first.shifts, *(each.shifts for each in others)) if others else first.shifts

    @found_by_driver
    def inputs_facts(self) -> list[InputFacts]:
        """What is known of the input files, after checking all that can be checked now.

        Raises
        ------
        ParameterError, DataError, ModelError, OutputError
            Something cannot work.
        """
        report("step", text="checking the inputs")
        self.job_options  # noqa: B018 (raises where they do not go together)
        check_targets_named(self.target, self.target_file)
        hooks = self.hooks
        if hooks.given and self.engine != "local":
            raise ParameterError("engine", "batch jobs do not have the hooks of a task; use local")
        check_model(self.model_repository, self.model_name, self.model_version)
        if self.target:
            check_all_rows(self.target, is_selected=bool(self.keep))
        repository = read_model(self.model_repository, self.model_name, self.model_version)
        model = repository.specification
        found = self.found_inputs
        self.stamps  # noqa: B018 (a property: what is found in the files is of these, or older)
        for warning in found.warnings:
            warn(warning)
        options = replace(self.options, shifts=self.shifts_of_slides, n_slides=0, slide_step="")
        facts = [
            examine(
                files,
                options,
                model,
                target=self.target or None,
                target_file=target_file,
                hooks=hooks,
            )
            for files, target_file in zip(found.inputs, self._target_files(found), strict=True)
        ]
        check_agreement(facts, with_rates=not self.sample_rate)
        if model is not None:
            plan(facts[0], self.slides[0], model, hooks)
            if hooks.postprocess is None and not hooks.variants:
                check_output_names(self.outputs or model.outputs)
        check_writable(Path(self.output_dir))
        if self.engine == "local":  # jobs report all of them together
            labels = output_names([each.files for each in facts])
            expected = zip(labels, facts, strict=True)
            rows = len(self.slides)
            expect_files(
                {str(each.files[0]): (label, rows * each.rows) for label, each in expected}
            )
        report("step", text="")
        return facts

    def _target_files(self, found: FoundInputs) -> Sequence[Path | None]:
        """Return the file with the targets of each input, where it is another than the input."""
        if self.target_file:
            return find_target_files(self.target_file, found.inputs)
        return [None] * len(found.inputs)

    @once_per_build
    def warn_of_others(self) -> None:
        """Warns of predictions that are there, and are of none of the inputs."""
        wanted = {job.output_file for task in self.predictions for job in task.file_jobs}
        directory = Path(self.output_dir) / "predictions"
        others = [path for path in sorted(directory.rglob("*.h5")) if path not in wanted]
        if others:
            files = f"{len(others)} files" if len(others) > 1 else "a file"
            warn(
                f"{directory} keeps {files} of other inputs, such as {others[0].name}: they stay, "
                "and are not in merged.h5 or the report"
            )

    @once_per_build
    def job(self) -> MergeJob:
        """What is to be merged."""
        jobs = self.file_jobs
        return MergeJob(
            predictions=[job.output_file for job in jobs],
            fingerprints=[job.fingerprint for job in jobs],
            output_file=self.directory.merged,
            target=self.target,
            target_files=[path for path in self._target_files(self.found_inputs) if path],
            model_name=self.model_name,
        )

    def run(self) -> None:
        """Merge the files."""
        progress = Progress(self.set_status_message, self.set_progress_percentage)

        def show(done: int, total: int) -> None:
            report("step", text=f"merging: {done:,} of {total:,} rows")
            progress(done, total)

        self.job.run(show)


class PredictInJobs(ValidationParameters, InferenceJobs):
    """The predictions for all files, made by batch jobs."""

    def inferences(self) -> list[Predict]:
        """Return the tasks."""
        merge_task: Merge = self.clone(Merge)
        return merge_task.predictions

    @property
    def job_directory(self) -> Path:
        """A directory beside the results, which the hosts share."""
        return Path(self.output_dir) / "jobs"


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
        baseline = fingerprint_of(find_baseline(self.baseline)) if self.baseline else None
        facts = {**merge_task.request, "baseline": baseline}
        return request_fingerprint(merge_task.stamps, self.validation, **facts)

    @once_per_build
    def fingerprint(self) -> str:
        """What stands for everything that the report depends on."""
        baseline = self.baseline_file if self.baseline else None
        merged = self.clone(self.merge_task).job.fingerprint
        return report_fingerprint(merged, self.validation, baseline)

    @once_per_build
    def check_targets(self) -> None:
        """Raises DataError where a target is NaN or infinite, if the metrics want numbers."""
        merge_task: Merge = self.clone(self.merge_task)
        files = merge_task.inputs_facts
        names, _ = self.check_metrics(files[0])
        check_finite_targets(files, names)

    def check_metrics(self, facts: InputFacts) -> tuple[tuple[str, ...], tuple[Requirement, ...]]:
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
        names, requirements = choose_metrics(
            self.metrics, self.require, facts.target, scores=self.scores, baseline=self.baseline
        )
        hooks = self.clone(self.merge_task).hooks
        # A hook may give other outputs than the model has.
        is_known = hooks.postprocess is None and not hooks.variants
        model = read_model(self.model_repository, self.model_name, self.model_version)
        check_target(
            facts,
            names,
            model.specification if is_known else None,
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
        return self.directory.find_baseline(self.baseline, self.clone(self.merge_task).inputs_facts)

    def run(self) -> None:
        """Measure, write the reports, and fail where a requirement was missed."""
        report("step", text="measuring, and writing the report")
        merge_task = self.requires()
        facts = merge_task.inputs_facts[0]
        logs = self.directory.path / "logs"
        write_reports(
            self.directory,
            [FilePredictions.read(file) for file in merge_task.job.predictions],
            self.validation,
            self.check_metrics(facts),
            target=facts.target,
            baseline=self.baseline_file if self.baseline else None,
            fingerprint=self.fingerprint,
            parameters=texts_of(self),
            request=self.request if merge_task.are_self_contained else None,
            gpus=self.gpus,
            warnings=[
                *gpu_warnings(GPURequest(gpus=self.gpus, n_gpus=self.n_gpus, cpu=self.cpu)),
                *merge_task.found_inputs.warnings,
            ],
            monitor_table=Path(self.monitor_table),
            outputs={
                "predictions": self.directory.path / "predictions",
                "server log": logs / "triton.log",
                "server over time": Path(self.monitor_table),
            },
        )
        logger.info("the report is %s", self.directory.report_html)


def _predict_is_done(task: Predict) -> None:
    for files in task.files:
        report("done", name=str(Path(files[0]).absolute()))


def _predict_failed(task: Predict, *_: object) -> None:
    for files in task.files:
        report("failed", name=str(Path(files[0]).absolute()))


def _merge_is_done(task: Merge) -> None:
    for facts in task.inputs_facts:
        report("done", name=str(facts.files[0]))


Predict.event_handler(luigi.Event.DEPENDENCY_PRESENT)(_predict_is_done)
Predict.event_handler(luigi.Event.FAILURE)(_predict_failed)
Predict.event_handler(luigi.Event.PROCESS_FAILURE)(_predict_failed)
Merge.event_handler(luigi.Event.DEPENDENCY_PRESENT)(_merge_is_done)
