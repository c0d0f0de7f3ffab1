"""`InferenceTask`: one HDF5 file through a model into one HDF5 file."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import luigi
from luigi.task import flatten

from hermes._reports import RowsProgress
from hermes.aeriel import files
from hermes.aeriel.files import InferenceOptions
from hermes.errors import ParameterError
from workflows._builds import once_per_build
from workflows._endpoints import EndpointTarget
from workflows._progress import Progress
from workflows._readable import ReadableTask, texts_of
from workflows.parameters import options_of, with_options
from workflows.server import ServerParameters

# A server may take long to come up again.
RETRY_FOR_S = 600.0


@with_options(InferenceOptions, retry_for_s=RETRY_FOR_S)
class InferenceParameters:
    """How a file goes through a model: a parameter for each field of `InferenceOptions`."""

    if TYPE_CHECKING:  # the decorator makes them

        def __getattr__(self, name: str) -> Any: ...

    @property
    def options(self) -> InferenceOptions:
        """The parameters as options."""
        return options_of(InferenceOptions, self)


class InferenceTask(InferenceParameters, ReadableTask):
    """Streams the rows of one HDF5 file through a model into another HDF5 file.

    A subclass says where things are: ``requires`` returns a `TritonServerTask`, or another task
    whose output is an `EndpointTarget`, as ``"server"``, and the task that makes the file as
    ``"input"``; or several, or one with several targets, where each file has one channel of every
    series (a file for each detector, in the order that the model wants). ``output`` returns a
    `luigi.LocalTarget`. The output has a dataset for each of the model's outputs, rows as in the
    input, and its provenance as attributes. It appears whole or not at all; a run that was killed
    goes on from its last checkpoint, and one with another input, model or parameter starts afresh.

    A subclass may define what is done to the rows, as `hermes.aeriel.files.Hooks` has it:
    ``preprocess(self, inputs, rows)`` before they are sent, ``postprocess(self, outputs, rows)``
    before the outputs are stored, ``block_rows`` for the latter, and ``variants``. What the hooks
    are counts for the result: their source, the attribute ``version``, and the significant
    parameters that the subclass adds.

    Parameters
    ----------
    model_name, model_version : str
        The model; by default the version that the server chooses.
    input_map : dict
        The path of the dataset for each model input. By default the dataset of the same name;
        for a model with one input, the only dataset. A list of paths is that of the channels of a
        series: datasets of shape ``(time,)``, which are read side by side. With a file for each
        channel, one path is that of the dataset in every file.
    outputs : list of str
        The outputs to keep; all by default.
    batch_size : int
        Rows of one request; by default as many as suit the model: 1 where it keeps a state.
    rows_per_sequence : int
        After how many rows, or windows, a new sequence begins, for a model that keeps a state (one
        with a sequence batcher); by default the whole file is one sequence.
    cast : bool
        Whether a dataset of another precision (``float64``, where the model takes ``FP32``) is
        rounded as it is read; by default it is refused.
    finite : str
        What has to be finite: ``"inputs"``, ``"outputs"`` or ``"inputs,outputs"``. NaN and
        infinities are counted in any case, as attributes of the output.
    allow_external_data : bool
        Whether raw bytes of a dataset may come from files outside the input's directory.
    keep : str
        The rows to store, as ``"snr > 8"``, ``"scores[1] >= 0.5"`` or ``"scores[any] > 0.5"``; all
        by default. The output has the numbers of the rows, and their times where those are known,
        as ``index/row`` and ``index/time``.
    varying : list of str
        The outputs of varying length, such as the boxes that a detector finds. The model announces
        one free length (-1) in a row of each. A request is one row then, and the output has a group
        with ``values`` and ``offsets``: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.
    window, stride : str
        For datasets that are time series, of shape ``(channels, time)`` or ``(time,)``: the length
        of the windows that the model takes as its rows, and the way from one to the next. Samples,
        as ``"1024"``, or seconds, as ``"1.5s"``, which have to be a whole number of samples. The
        output has a row for each window, its ``sample_rate``, and the ``start_time`` of the first
        window, which is the time of its first sample, as attributes of each dataset.
    shifts : list of str, or of such lists
        How much later the windows of each channel begin, likewise; negative for earlier. A list of
        lists has those of each time slide: the file is read once for each of them, and ``output``
        returns as many targets.
    n_slides, slide_step : int, str
        Makes that list: in slide k, from 0, channel c is shifted by k * c steps.
    sample_rate : float
        Samples per second; by default what attributes of the dataset or its groups say
        (``sample_rate``, ``Xspacing``, ``dx``, ``dt``, ``delta_t``).
    overlap : bool
        Whether channels that begin at other times, or have other lengths, are cut to the time that
        they have in common; by default they are refused.
    max_in_flight : int
        Requests under way at once.
    transport : str
        How tensors travel: ``"auto"``, ``"shm"``, ``"http"`` or ``"grpc"``; see `InferenceClient`.
    rate_hz : float
        Most requests in a second, to a server that others need too; 0 for no limit.
    timeout_s : float
        Seconds that one request may take.
    retry_for_s : float
        Seconds to go on without progress when the server was lost.
    """

    # What a subclass may define, as `hermes.aeriel.files.Hooks` says.
    preprocess: ClassVar[Callable[..., Any] | None] = None
    postprocess: ClassVar[Callable[..., Any] | None] = None
    block_rows: int = 0
    variants: tuple[str, ...] = ()

    @property
    def hooks(self) -> files.Hooks:
        """What the task does to the rows, and to the outputs."""
        return files.Hooks(
            preprocess=self.preprocess,
            postprocess=self.postprocess,
            block_rows=self.block_rows,
            variants=self.variants,
        )

    @property
    def input_files(self) -> tuple[Path, ...]:
        """The HDF5 files to read: the target, or the targets, of the requirement ``"input"``."""
        return tuple(Path(target.path) for target in flatten(self.input()["input"]))

    @property
    def output_files(self) -> tuple[Path, ...]:
        """The HDF5 file to write; with time slides, one for each of them."""
        return tuple(Path(target.path) for target in flatten(self.output()))

    @property
    def server(self) -> EndpointTarget:
        """The endpoint of the server that this task requires.

        Raises
        ------
        ParameterError
            It requires none, or several.
        """
        targets = [target for task in flatten(self.requires()) for target in flatten(task.output())]
        servers = [target for target in targets if isinstance(target, EndpointTarget)]
        if len(servers) != 1:
            problem = f"{self.task_family} has to require one server, such as a TritonServerTask"
            raise ParameterError("requires", f"{problem}, not {len(servers)}")
        return servers[0]

    @property
    def file_jobs(self) -> Sequence[files.FileJob]:
        """What is to be done: an output, or one of each time slide.

        Raises
        ------
        ParameterError
            There are not as many outputs as time slides.
        """
        return self.jobs_of(self.input_files, self.output_files)

    def jobs_of(
        self, input_files: tuple[Path, ...], output_files: Sequence[Path]
    ) -> Sequence[files.FileJob]:
        """Return what is to be done with an input."""
        slides = files.slides_of(
            self.options, lambda plain: files.examine(input_files, plain, None, hooks=self.hooks)
        )
        if len(slides) != len(output_files):
            problem = f"{self.task_family} has {len(output_files)} for {len(slides)} slides"
            raise ParameterError("output", f"{problem}; return a target for each time slide")
        return [
            files.FileJob(
                input_files=input_files,
                output_file=output_file,
                options=options,
                model_stamp=self._model_stamp,
                hooks=self.hooks,
                facts=self.facts_of_hooks(),
            )
            for options, output_file in zip(slides, output_files, strict=True)
        ]

    def _model_stamp(self) -> str:
        return self.server.model_stamp(self.model_name, self.model_version)

    def complete(self) -> bool:
        """Tell whether the output is there, and is that of this input, model and parameters."""
        # The input of a task that has not run may have to be made first.
        is_there = all(file.exists() for file in self.output_files)
        return is_there and all(job.is_complete() for job in self.file_jobs)

    def facts_of_hooks(self) -> Mapping[str, Any]:
        """Return what the hooks depend on: themselves, and the parameters that a subclass adds."""
        hooks = self.hooks.facts()
        if not hooks:
            return {}
        own = {
            name: value
            for name, value in self.result_parameters(only_significant=True).items()
            if not (hasattr(InferenceParameters, name) or hasattr(ServerParameters, name))
        }
        return {"hooks": hooks, "parameters": own}

    def run(self) -> None:
        """Stream the file, and go on where it stopped when the server is lost on the way."""
        todo = [job for job in self.file_jobs if not job.is_complete()]
        rows = RowsProgress()
        seen: set[Path] = set()
        progress = Progress(
            self.set_status_message,
            self.set_progress_percentage,
            unit="rows" if len(todo) == 1 else "files",
        )

        def show(request: files.Request, done: int, total: int) -> None:
            rows(str(request.input_files[0]), done, total)
            seen.add(request.output_file)
            if len(todo) == 1:
                progress(done, total)
            else:
                progress(len(seen) - (done < total), len(todo))

        requests = [functools.partial(self.request, job) for job in todo]
        files.infer_with_reconnects(self.server, self.options, requests, show)

    def request(self, job: files.FileJob) -> files.Request:
        """Return what is to be done with an input, and what its output is to say of that."""
        shifts = json.dumps(job.options.shifts)
        return job.request(
            {
                **self.provenance,
                "model_stamp": job.model_stamp(),
                "parameters": {**self.provenance["parameters"], "shifts": shifts},
            }
        )

    @once_per_build
    def provenance(self) -> Mapping[str, Any]:
        """What all outputs say of the task and its server."""
        return {
            **self.server.provenance(),
            "task": self.task_id,
            "parameters": self.result_parameters(),
        }

    def result_parameters(self, *, only_significant: bool = False) -> dict[str, str]:
        """Return the parameters that an output names, and that a hook may go by."""
        return texts_of(self, only_significant=only_significant)


def _will_run(_task: InferenceTask, _dependency: luigi.Task) -> None:
    # Imported before Luigi forks its workers, each of which would do it for itself.
    files.infer_with_reconnects  # noqa: B018


InferenceTask.event_handler(luigi.Event.DEPENDENCY_DISCOVERED)(_will_run)
