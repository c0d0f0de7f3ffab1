"""One HDF5 file through a model into one HDF5 file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hermes.aeriel._options import InferenceOptions
from hermes.aeriel.client import ClientStatistics, InferenceClient, Windows
from hermes.aeriel.files._hooks import NO_HOOKS, Hooks
from hermes.aeriel.files._kept import KeptWriter
from hermes.aeriel.files._opening import OpenInputs, open_inputs
from hermes.aeriel.files._plan import InferencePlan, examine, plan
from hermes.aeriel.files._predictions import PredictionWriter
from hermes.aeriel.files._provenance import run_attributes
from hermes.aeriel.files._publishing import Publisher
from hermes.aeriel.files._reading import InputData
from hermes.aeriel.files._rows import Arrays
from hermes.aeriel.files._sources import file_stamp
from hermes.aeriel.files._values import parse_finite
from hermes.aeriel.files._writer import WriterOptions, named
from hermes.errors import DataError, InferenceError

# A server is not asked for its times after each of many small files.
SERVER_EVERY_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to do with one file.

    Parameters
    ----------
    input_files
        The HDF5 file to read; or several, each of which has one channel of every series.
    output_file
        The HDF5 file to write.
    options
        How to read it, and what to ask of the model.
    fingerprint
        Stands for everything that the result depends on; or returns that, for what stands for the
        input, as `file_stamp` has it.
    provenance
        Attributes to write into the output file, besides those that `infer_file` knows itself.
    hooks
        What is done to the rows, and to the outputs. What they are, `Hooks.facts` says, has to be
        in the fingerprint.
    """

    input_files: tuple[Path, ...]
    output_file: Path
    options: InferenceOptions
    fingerprint: str | Callable[[str], str]
    provenance: Mapping[str, Any]
    hooks: Hooks = NO_HOOKS

    def fingerprint_of(self, stamp: str) -> str:
        """Return the fingerprint, with this standing for the input."""
        given = self.fingerprint
        return given if isinstance(given, str) else given(stamp)


def infer_file(
    client: InferenceClient,
    request: Request,
    on_progress: Callable[[int, int], None],
    publisher: Publisher | None = None,
) -> ClientStatistics:
    """Stream a file's rows through a model and write the predictions.

    They are row by row the same as the input, unless a hook or the option `keep` leaves rows out.

    Goes on from the checkpoint of an earlier call with the same fingerprint. A model that keeps a
    state gets the rows as sequences of updates; the one in which a call stopped is sent again from
    its beginning.

    Parameters
    ----------
    client
        A client for the model, with no request under way. Its statistics begin anew; it is closed
        where that is what it takes to end at once at Ctrl-C.
    request
        The files, and how to read them.
    on_progress
        Called with the rows done and the rows in all after each answer.
    publisher
        What gives the output its name, where it is one of many; by default it has its name, and is
        safe, when this returns.

    Returns
    -------
    ClientStatistics
        What the client has done for this file; its rows are those of the file.

    Raises
    ------
    DataError
        The input file cannot be used with this model, cannot be read to its end, or was changed
        meanwhile.
    ParameterError
        An option does not suit the model: see `plan`.
    HookError
        A hook failed, or returned what cannot be sent or stored.
    InferenceError
        A request failed for good.
    OutputError
        The predictions cannot be written.
    """
    try:
        with open_inputs(request.input_files) as opened:
            return _infer_file(client, request, opened, on_progress, publisher)
    except InferenceError as error:
        error.file = error.file or str(request.input_files[0])
        raise


def _infer_file(
    client: InferenceClient,
    request: Request,
    opened: OpenInputs,
    on_progress: Callable[[int, int], None],
    publisher: Publisher | None,
) -> ClientStatistics:
    started = datetime.now(UTC)
    client.restart_statistics(SERVER_EVERY_S)
    # It is the client that asks for the outputs, and it was told which.
    options = replace(request.options, outputs=tuple(client.outputs))
    model = client.specification
    # It is what the checkpoint is of, too, also where the fingerprint is older.
    stamp = file_stamp(*request.input_files, opened=opened)
    facts = examine(request.input_files, options, model, hooks=request.hooks, opened=opened)
    todo = plan(facts, options, model, request.hooks)
    requests, order = todo.requests, todo.order
    shared = {
        **request.provenance,
        **run_attributes(client, request.options),
        "input_map": {name: dataset.paths for name, dataset in facts.datasets.items()},
        "batch_size": requests.rows_per_request,
    }
    writer = _writer(request, todo, stamp, shared)
    with writer, todo.open(client, options, opened) as data:
        on_progress(writer.rows_done, facts.rows)
        for _ in requests.updates(data, range(order.first(writer.rows_done))):
            pass  # what an earlier run has read is looked at again, for the counts
        # Neither what fills a request up, nor what is sent again, is a row of the file.
        n_rows = facts.rows - writer.rows_done
        answers = order.stream(client, data, writer.rows_done)
        if isinstance(writer, PredictionWriter):
            for which, outputs in answers:
                writer.write(outputs, which.start)
                on_progress(writer.rows_done, facts.rows)
        else:
            _write_selected(writer, answers, todo, data, on_progress)
        check_unchanged(request.input_files, stamp)
        statistics = replace(client.statistics, rows=n_rows)
        writer.finish(
            {
                **named(request.input_files),
                "started": started.isoformat(timespec="milliseconds"),
                "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "rows": facts.rows,
                # As asdict() has it, which copies each number.
                "statistics": {**vars(statistics), "server": vars(statistics.server)},
                "not_finite_inputs": data.n_not_finite,
                **_times(data.windows),
            },
            _times_of_rows(data.windows),
            publisher,
        )
    return statistics


def pass_rows(
    client: InferenceClient, input_files: Sequence[Path], options: InferenceOptions
) -> Iterator[tuple[range, Arrays]]:
    """Yield the rows of each request that an input makes, and the model's answer.

    As `infer_file` reads and sends them; nothing is written, and no row is left out. An array is
    only good until the next one is asked for.

    Parameters
    ----------
    client
        A client for the model.
    input_files
        The HDF5 file; or several, each of which has one channel of every series.
    options
        How to read them.

    Raises
    ------
    DataError, ParameterError, InferenceError
        As `infer_file`.
    """
    options = replace(options, outputs=tuple(client.outputs))
    facts = examine(input_files, options, client.specification)
    todo = plan(facts, options, client.specification)
    with todo.open(client, options) as data:
        yield from todo.order.stream(client, data, 0)


def _times(windows: Windows | None) -> dict[str, Any]:
    """Return for how long a run looks at a series, and how much later at each channel."""
    if windows is None:
        return {}
    found: dict[str, Any] = {"shifts": windows.shifts} if any(windows.shifts) else {}
    if windows.sample_rate is not None:
        seconds = [shift / windows.sample_rate for shift in windows.shifts]
        found |= {"shifts_s": seconds} if found else {}
        # Each window counts for the time to the next one, or its own length where that is shorter.
        found["live_time_s"] = (
            len(windows) * min(windows.stride, windows.window) / windows.sample_rate
        )
    return found


def _times_of_rows(windows: Windows | None) -> dict[str, Any]:
    """Return what is to be said of the outputs, where they have a row for each window.

    ``window``, ``stride`` and ``shifts`` are those of the first input, in its samples. With a
    sample rate there are ``sample_rate`` and ``start_time`` of the rows: the time of a row is that
    of its window's first sample.
    """
    if windows is None:
        return {}
    attributes: dict[str, Any] = {"window": windows.window, "stride": windows.stride}
    if any(windows.shifts):
        attributes["shifts"] = windows.shifts
    if windows.output_rate is not None:
        attributes["sample_rate"] = windows.output_rate
        attributes["start_time"] = windows.time(0)
    return attributes


def _writer(
    request: Request, todo: InferencePlan, stamp: str, attributes: Mapping[str, Any]
) -> PredictionWriter | KeptWriter:
    common: WriterOptions = {
        "attributes": attributes,
        "rows": todo.facts.rows,
        "fingerprint": request.fingerprint_of(stamp),
        "input_stamp": stamp,
        "finite": "outputs" in parse_finite(request.options.finite),
    }
    if todo.selection is None:
        return PredictionWriter(request.output_file, **common, varying=todo.requests.varying)
    return KeptWriter(request.output_file, **common, keep=todo.selection.keep)


def _write_selected(
    writer: KeptWriter,
    answers: Iterator[tuple[range, Arrays]],
    todo: InferencePlan,
    data: InputData,
    on_progress: Callable[[int, int], None],
) -> None:
    assert todo.selection is not None  # noqa: S101 (for the type checker: the writer is for one)
    start, n_rows = writer.rows_done, todo.facts.rows

    def shown() -> Iterator[tuple[range, Arrays]]:
        for which, outputs in answers:
            # A block may take long: what was answered is progress, too.
            on_progress(max(start, which.stop), n_rows)
            yield which, outputs

    blocks = todo.selection.stream(
        shown(),
        files=todo.facts.files,
        windows=data.windows,
        n_rows=n_rows,
        start=start,
    )
    for block, outputs, rows in blocks:
        writer.write(outputs, block, rows)


def check_unchanged(files: Sequence[Path], stamp: str) -> None:
    """Raise DataError where a file, or one that it points at, is not what it was."""
    if file_stamp(*files) != stamp:
        file = " or ".join(map(str, files))
        problem = "was changed while it was read; run it again when nobody writes it any more"
        raise DataError(file=file, problem=problem)
