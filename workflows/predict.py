"""`Predict`: the predictions for some files, with a server of the task's own parameters."""

from __future__ import annotations

from pathlib import Path

import luigi

from hermes._reports import report
from hermes.aeriel import files
from workflows._builds import once_per_build
from workflows.inference import InferenceTask
from workflows.parameters import (
    TextList,
    TextLists,
)
from workflows.server import ServerParameters, TritonServerTask


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
        first = "+".join(Path(file).name for of_input in self.files[:1] for file in of_input)
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        shown = super().shown_parameters()
        names = shown.keys() - {"files", "predictions"}
        return {"input": f"{first}{more}", **{name: shown[name] for name in sorted(names)}}

    @once_per_build
    def file_jobs(self) -> list[files.FileJob]:
        """What is to be done: a number of inputs, each of them for all time slides."""
        total = files.n_slides(self.options)
        return [
            job
            for of_input, predictions in zip(self.files, self.predictions, strict=True)
            for job in self.jobs_of(
                tuple(Path(file).absolute() for file in of_input),
                [
                    files.slide_file(Path(predictions).absolute(), number, total)
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
        total = files.n_slides(self.options)
        return [
            luigi.LocalTarget(str(files.slide_file(Path(file), number, total)))
            for file in self.predictions
            for number in range(total)
        ]


def _predict_is_done(task: Predict) -> None:
    for first, *_ in task.files:
        report("done", name=str(Path(first).absolute()))


def _predict_failed(task: Predict, *_: object) -> None:
    for first, *_ in task.files:
        report("failed", name=str(Path(first).absolute()))


Predict.event_handler(luigi.Event.DEPENDENCY_PRESENT)(_predict_is_done)
Predict.event_handler(luigi.Event.FAILURE)(_predict_failed)
Predict.event_handler(luigi.Event.PROCESS_FAILURE)(_predict_failed)
