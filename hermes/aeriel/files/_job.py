"""Many HDF5 files through a model: which are still to do, and one after the other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hermes._reports import RowsProgress
from hermes.aeriel._options import InferenceOptions
from hermes.aeriel.client import ClientStatistics
from hermes.aeriel.files._finding import output_names
from hermes.aeriel.files._fingerprint import fingerprint
from hermes.aeriel.files._hooks import NO_HOOKS, Hooks
from hermes.aeriel.files._infer import Request
from hermes.aeriel.files._output import fingerprint_of
from hermes.aeriel.files._plan import examine
from hermes.aeriel.files._reconnect import infer_with_reconnects
from hermes.aeriel.files._servers import Server
from hermes.aeriel.files._slides import slide_file, slides_of
from hermes.aeriel.files._sources import file_stamp
from hermes.aeriel.files._writer import inputs_of, stamp_in
from hermes.errors import OutputError, ParameterError


@dataclass(frozen=True, kw_only=True)
class FileJob:
    """One input that is to go through a model.

    Parameters
    ----------
    input_files
        The HDF5 file to read; or several, each of which has one channel of every series.
    output_file
        The HDF5 file to write.
    options
        The model, and how to read the input.
    model_stamp
        Returns what stands for the model: a text that changes when the model does.
    hooks
        What is done to the rows, and to the outputs.
    facts
        What else the output depends on: what the hooks are.
    """

    input_files: tuple[Path, ...]
    output_file: Path
    options: InferenceOptions
    model_stamp: Callable[[], str]
    hooks: Hooks = NO_HOOKS
    facts: Mapping[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def fingerprint(self) -> str:
        """What stands for everything that the output depends on, as it is when it is first asked.

        A file that changes later gets a result that another fingerprint will be compared with.
        """
        return self._fingerprint_of(file_stamp(*self.input_files))

    def _fingerprint_of(self, stamp: str) -> str:
        facts = {**self.options.facts(), **self.facts}
        return fingerprint(input=stamp, model=self.model_stamp(), **facts)

    def is_complete(self) -> bool:
        """Tell whether the output is there, and is that of this input, model and options.

        Of an input that is gone, what the output says that it was made of counts.
        """
        found = fingerprint_of(self.output_file)
        if found is None:
            return False
        if all(file.exists() for file in self.input_files):
            return found == self.fingerprint
        stamp = stamp_in(self.output_file, self.input_files)
        return stamp is not None and found == self._fingerprint_of(stamp)

    def check_output(self) -> None:
        """Raise OutputError where the output is there, and is that of another input.

        Commands for one file each may have the same output directory, and files in different
        directories the same name. An input that is gone may have been moved, and an output that
        names none is of an earlier version.
        """
        if fingerprint_of(self.output_file) is None:
            return
        others = inputs_of(self.output_file)
        here = [file.resolve() for file in self.input_files]
        is_other = [file.resolve() for file in others] != here
        if others and is_other and not any(map(_is_gone, others)):
            problem = f"has the predictions of {' with '.join(map(str, others))}"
            raise OutputError(
                str(self.output_file), f"{problem}; give another output_dir, or remove the file"
            )

    def request(self, provenance: Mapping[str, Any]) -> Request:
        """Return what is to be done, with these attributes beside those of this."""
        is_known = "fingerprint" in vars(self)
        hooks = self.hooks.facts()
        made_by = {"hooks": fingerprint(**hooks)} if hooks else {}
        return Request(
            input_files=self.input_files,
            output_file=self.output_file,
            options=self.options,
            # Not now: whoever does it opens the input anyway, and knows then what stands for it.
            fingerprint=self.fingerprint if is_known else self._fingerprint_of,
            provenance={**made_by, **provenance},
            hooks=self.hooks,
        )


def plan_files(
    options: InferenceOptions,
    inputs: Sequence[Sequence[Path]],
    output_dir: Path,
    *,
    model_stamp: str,
) -> list[FileJob]:
    """Return what is to be done with some inputs, those that are complete included.

    Parameters
    ----------
    options
        The model, and how to read the files.
    inputs
        The HDF5 files of each, as `find_inputs` returns them.
    output_dir
        Gets a file for each, by its path below what all of them have in common; of each slide, if
        there are several.
    model_stamp
        Stands for the model.

    Raises
    ------
    ParameterError
        A result would replace an input.
    """
    outputs = [output_dir.absolute() / name for name in output_names(inputs)]
    taken = {file.resolve() for files in inputs for file in files}
    for output in outputs:
        if output.resolve() in taken:
            problem = f"{output} is an input too; give another directory"
            raise ParameterError("output_dir", problem)
    slides = slides_of(options, lambda plain: examine(inputs[0], plain, None))
    return [
        FileJob(
            input_files=tuple(files),
            output_file=slide_file(output, number, len(slides)),
            options=each,
            model_stamp=lambda: model_stamp,
        )
        for number, each in enumerate(slides)
        for files, output in zip(inputs, outputs, strict=True)
    ]


def infer_files(server: Server, jobs: Sequence[FileJob]) -> list[ClientStatistics]:
    """Stream files through a model, and return the numbers of each.

    Parameters
    ----------
    server
        The server; one that is lost may come back at another address.
    jobs
        The files, with the same options, but for the slides.

    Raises
    ------
    HermesError
        What `infer_with_reconnects` raises.
    """
    progress = RowsProgress()

    def show(request: Request, done: int, total: int) -> None:
        progress(str(request.output_file), done, total)

    requests = [functools.partial(_request, server, job) for job in jobs]
    return infer_with_reconnects(server, jobs[0].options, requests, show) if jobs else []


def summary(done: Sequence[ClientStatistics]) -> str:
    """Return what several files took together."""
    total = ClientStatistics.sum(done)
    latencies = ", ".join(f"p{100 * p:.0f} {total.latency_ms(p):.3g} ms" for p in (0.5, 0.9, 0.99))
    return (
        f"{len(done)} file{'s' * (len(done) != 1)}, {total.rows} rows in {total.seconds:.3g} s: "
        f"{total.rows_per_s:.4g} rows/s, {total.megabytes_per_s:.4g} MB/s\n"
        f"{total.requests} requests: {latencies}; {total.retries} retries"
    )


def _request(server: Server, job: FileJob) -> Request:
    return job.request({**server.provenance(), "model_stamp": job.model_stamp()})


def _is_gone(file: Path) -> bool:
    """Tell whether there is no such file; one in somebody's private directory may be there."""
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
