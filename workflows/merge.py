"""`Merge`: inference over many files, and their predictions in one.

`workflows.validate` requires it; it is a task of its own for predictions that are not measured.
"""

# Over 300 lines: the parameters of the tasks, and the tasks that make the predictions.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import luigi

from hermes._reports import report
from hermes.aeriel import client, files, jobs, repository, validation
from hermes.aeriel.files import InferenceOptions
from workflows._builds import found_by_driver, is_driven_here, once_per_build
from workflows._division import SizedInput, divide
from workflows._plain_errors import install_plain_errors
from workflows._progress import Progress
from workflows._readable import ReadableTask
from workflows._settings import apply_settings
from workflows._terminal import begin_terminal, expect_files, warn
from workflows.inference import InferenceParameters
from workflows.jobs import InferenceJobs, JobParameters
from workflows.parameters import (
    AbsolutePath,
    FilePatterns,
    Text,
    WholeNumber,
)
from workflows.predict import Predict
from workflows.server import ServerParameters, TritonServerTask

EVERYWHERE = "0.0.0.0"  # noqa: S104 (with a certificate)


apply_settings()


install_plain_errors()


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
    def directory(self) -> validation.ValidationDirectory:
        """The files that are written."""
        return validation.ValidationDirectory(Path(self.output_dir))

    @property
    def model(self) -> client.ModelSpecification | None:
        """The model as its files describe it, or None where only a server can tell.

        Raises
        ------
        ParameterError, ModelError
            There is none, or its configuration cannot be understood.
        """
        return repository.read_model(
            self.model_repository,
            self.model_name,
            self.model_version,
            server_args=self.server_args,
        ).specification

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


class Merge(ValidationParameters, ReadableTask):
    """The predictions for all files in one file, with an index back to file and row.

    The inputs are checked first, before a server is started. A subclass may name a subclass of
    `Predict`, with hooks, as ``predict_task``.
    """

    predict_task: type[Predict] = Predict

    @property
    def hooks(self) -> files.Hooks:
        """What is done to the rows of each file."""
        task: Predict = self.clone(self.predict_task, files=(), predictions=())
        return task.hooks

    @found_by_driver
    def predictions(self) -> list[Predict]:
        """The tasks that make the predictions, of one or several input files each."""
        directory = Path(self.output_dir) / "predictions"
        names = files.output_names([facts.files for facts in self.inputs_facts])
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
    def file_jobs(self) -> list[files.FileJob]:
        """What is done with each input file, slide by slide."""
        every = [job for task in self.predictions for job in task.file_jobs]
        total = len(every) // len(self.inputs_facts)
        return [job for number in range(total) for job in every[number::total]]

    def requires(self) -> list[Predict] | PredictInJobs:
        """Return what makes the predictions: tasks for some files each, or one for batch jobs."""
        if is_driven_here():
            self.warn_of_others  # noqa: B018 (a property, so that it warns once in a build)
        if self.engine == "local":
            return self.predictions
        in_jobs: PredictInJobs = self.clone(PredictInJobs)
        return in_jobs

    def output(self) -> luigi.LocalTarget:
        """Return the merged file."""
        return luigi.LocalTarget(str(self.directory.merged))

    def complete(self) -> bool:
        """Tell whether the merged file is there, and is that of these predictions."""
        self.begin_terminal()
        return self.directory.merged.exists() and self.job.is_complete()

    @found_by_driver
    def found_inputs(self) -> files.FoundInputs:
        """The files of each input.

        Raises
        ------
        ParameterError, DataError, ModelError
            There are none, or something is wrong with them.
        """
        return files.find_inputs(self.inputs, self.options, self.model)

    @found_by_driver
    def stamps(self) -> list[list[str]]:
        """What stands for the files of each input, and of its targets, before they are opened."""
        every = zip(self.found_inputs.inputs, self.target_files, strict=True)
        return [
            [files.own_stamp(file) for file in (*of_input, *([target] if target else []))]
            for of_input, target in every
        ]

    @property
    def are_self_contained(self) -> bool:
        """Whether the inputs reach no other files."""
        return all(files.reaches_none(stamp) for stamps in self.stamps for stamp in stamps)

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
        slides = files.slides_of(
            self.options,
            lambda plain: files.examine(
                self.found_inputs.inputs[0], plain, self.model, hooks=self.hooks
            ),
        )
        if self.target:
            validation.check_all_rows(
                self.target, is_selected=bool(self.keep), n_slides=len(slides)
            )
        return slides

    @property
    def shifts_of_slides(self) -> Any:
        """The shifts of all time slides."""
        first, *others = self.slides
        return (first.shifts, *(each.shifts for each in others)) if others else first.shifts

    @found_by_driver
    def inputs_facts(self) -> list[files.InputFacts]:
        """What is known of the input files, after checking all that can be checked now.

        Raises
        ------
        ParameterError, DataError, ModelError, OutputError
            Something cannot work.
        """
        report("step", text="checking the inputs")
        self.job_options  # noqa: B018 (raises where they do not go together)
        validation.check_targets_named(self.target, self.target_file)
        hooks = self.hooks
        if self.engine != "local":
            jobs.refuse_hooks([hooks])
        repository.check_model(self.model_repository, self.model_name, self.model_version)
        if self.target:
            validation.check_all_rows(self.target, is_selected=bool(self.keep))
        model = self.model
        found = self.found_inputs
        self.stamps  # noqa: B018 (a property: what is found in the files is of these, or older)
        for warning in found.warnings:
            warn(warning)
        options = replace(self.options, shifts=self.shifts_of_slides, n_slides=0, slide_step="")
        facts = [
            files.examine(
                of_input,
                options,
                model,
                target=self.target or None,
                target_file=target_file,
                hooks=hooks,
            )
            for of_input, target_file in zip(found.inputs, self.target_files, strict=True)
        ]
        files.check_agreement(facts, with_rates=not self.sample_rate)
        if model is not None:
            files.plan(facts[0], self.slides[0], model, hooks)
            if hooks.postprocess is None and not hooks.variants:
                validation.check_output_names(self.outputs or model.outputs)
        validation.check_writable(Path(self.output_dir))
        if self.engine == "local":  # jobs report all of them together
            labels = files.output_names([each.files for each in facts])
            expected = zip(labels, facts, strict=True)
            rows = len(self.slides)
            expect_files(
                {str(each.files[0]): (label, rows * each.rows) for label, each in expected}
            )
        report("step", text="")
        return facts

    @found_by_driver
    def target_files(self) -> Sequence[Path | None]:
        """The file with the targets of each input, where it is another than the input."""
        inputs = self.found_inputs.inputs
        if self.target_file:
            return files.find_target_files(self.target_file, inputs)
        return [None] * len(inputs)

    @once_per_build
    def warn_of_others(self) -> None:
        """Warns of predictions that are there, and are of none of the inputs."""
        wanted = {job.output_file for task in self.predictions for job in task.file_jobs}
        directory = Path(self.output_dir) / "predictions"
        others = [path for path in sorted(directory.rglob("*.h5")) if path not in wanted]
        if others:
            found = f"{len(others)} files" if len(others) > 1 else "a file"
            warn(
                f"{directory} keeps {found} of other inputs, such as {others[0].name}: they stay, "
                "and are not in merged.h5 or the report"
            )

    @once_per_build
    def job(self) -> validation.MergeJob:
        """What is to be merged."""
        every = self.file_jobs
        return validation.MergeJob(
            predictions=[job.output_file for job in every],
            fingerprints=[job.fingerprint for job in every],
            output_file=self.directory.merged,
            target=self.target,
            target_files=[path for path in self.target_files if path],
            model_name=self.model_name,
        )

    def run(self) -> None:
        """Merge the files, and remove what runs of batch jobs have left whose drivers died."""
        jobs.sweep_runs(self.directory.jobs)
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
        return self.directory.jobs


def _merge_is_done(task: Merge) -> None:
    jobs.sweep_runs(task.directory.jobs)
    for facts in task.inputs_facts:
        report("done", name=str(facts.files[0]))


Merge.event_handler(luigi.Event.DEPENDENCY_PRESENT)(_merge_is_done)
