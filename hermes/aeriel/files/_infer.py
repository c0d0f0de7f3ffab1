"""One HDF5 file through a model into one HDF5 file."""

from __future__ import annotations

import getpass
import hashlib
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.client import ClientStatistics, InferenceClient, ModelSpecification, RowLayout
from hermes.aeriel.files._inputs import InputFacts, check_against_model, inspect, open_input
from hermes.aeriel.files._predictions import PredictionWriter
from hermes.aeriel.files._rows import (
    RowInputs,
    check_batch_size,
    most_rows,
    row_inputs,
    rows_of_outputs,
    takes_leading_rows,
)
from hermes.aeriel.files._series import Cut, SeriesPlan

REQUEST_BYTES = 16 << 20
PACKAGES = ("hermes-aeriel", "luigi", "tritonclient", "h5py", "numpy")

Arrays = dict[str, "NDArray[Any]"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to do with one file.

    Parameters
    ----------
    input_file, output_file
        HDF5 files.
    input_map
        The path of a dataset in the input file by the name of the model input that it is for.
    batch_size
        Rows of one request; 0 takes what suits the model.
    fingerprint
        Stands for everything that the result depends on.
    provenance
        Attributes to write into the output file.
    cut
        How the datasets are cut into windows, where they are time series; else they have rows.
    """

    input_file: Path
    output_file: Path
    input_map: Mapping[str, str]
    batch_size: int
    fingerprint: str
    provenance: Mapping[str, Any]
    cut: Cut | None = None


def infer_file(
    client: InferenceClient, request: Request, on_progress: Callable[[int, int], None]
) -> ClientStatistics:
    """Stream a file's rows through a model and write the predictions, row by row the same.

    Goes on from the checkpoint of an earlier call with the same fingerprint.

    Parameters
    ----------
    client
        A client for the model.
    request
        The files, and how to read them.
    on_progress
        Called with the rows done and the rows in all after each answer.

    Raises
    ------
    DataError
        The input file cannot be used with this model.
    InferenceError
        A request failed for good.
    OutputError
        The predictions cannot be written.
    """
    started = datetime.now(timezone.utc)
    model = client.specification
    facts = inspect(
        request.input_file,
        request.input_map,
        model_inputs=_required(model),
        shape_of=request.cut.shape_of if request.cut else None,
    )
    rows = RowPlan.of(model, request.batch_size)
    plan = SeriesPlan.of(rows, facts, request.cut) if request.cut else rows
    check_against_model(facts, plan.inputs)
    writer = PredictionWriter(request.output_file, rows=facts.rows, fingerprint=request.fingerprint)
    with writer, open_input(request.input_file) as opened:
        on_progress(writer.rows_done, facts.rows)
        for outputs in plan.stream(client, opened, facts, writer.rows_done):
            expected = min(plan.rows_per_request, facts.rows - writer.rows_done)
            writer.write(plan.rows_of(outputs, expected, client))
            on_progress(writer.rows_done, facts.rows)
        statistics = client.statistics
        writer.finish(
            {
                **request.provenance,
                "started": started.isoformat(timespec="milliseconds"),
                "created": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                "host": socket.gethostname(),
                "user": getpass.getuser(),
                "server_version": client.server_version,
                "model_name": model.name,
                "model_version": model.version,
                "model_platform": model.platform,
                "input_map": {name: facts.datasets[name].path for name in facts.datasets},
                "rows": facts.rows,
                "batch_size": plan.rows_per_request,
                "versions": versions(),
                "statistics": asdict(statistics),
            },
            plan.output_attributes(opened, facts) if isinstance(plan, SeriesPlan) else {},
        )
    return statistics


def fingerprint(**facts: Any) -> str:
    """Return a string that changes when one of the facts does."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of the packages that a result may depend on."""
    return {package: version(package) for package in PACKAGES}


def stamp_of(file: Path) -> str:
    """Return a string that changes when a file does, by size or modification time.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    """
    status = file.stat()
    return f"{file} {status.st_size} {status.st_mtime_ns}"


@dataclass(frozen=True, kw_only=True)
class RowPlan:
    """How rows of a file become requests of a model.

    Parameters
    ----------
    inputs
        The shape of a row (-1: any length) and the dtype of each input.
    rows_per_request
        The rows of one request.
    with_row_axis
        Whether a request has a leading axis of rows; else it is one row, and has none.
    """

    inputs: RowInputs
    rows_per_request: int
    with_row_axis: bool

    @classmethod
    def of(cls, model: ModelSpecification, batch_size: int) -> RowPlan:
        """Return the plan for a model.

        Raises
        ------
        ParameterError
            The model does not take so many rows at once.
        """
        tensors = {name: (tensor.shape, tensor.dtype) for name, tensor in model.inputs.items()}
        batched = model.max_batch_size > 0
        leading = not batched and takes_leading_rows(tensors)
        most = most_rows(tensors, model.max_batch_size)
        check_batch_size(batch_size, model.name, most)
        inputs = row_inputs(tensors, batched=batched)
        row_bytes = sum(
            dtype.itemsize * int(np.prod([max(1, length) for length in shape]))
            for shape, dtype in inputs.values()
        )
        return cls(
            inputs=inputs,
            rows_per_request=batch_size or max(1, min(most, REQUEST_BYTES // row_bytes)),
            with_row_axis=batched or leading,
        )

    def stream(
        self, client: InferenceClient, opened: h5py.File, facts: InputFacts, start: int
    ) -> Iterator[Arrays]:
        """Yield the outputs of the rows from `start` on, a request at a time.

        An array is only good until the next one is asked for.
        """
        datasets = {
            name: opened[facts.datasets[name].path]
            for name in self.inputs
            if name in facts.datasets
        }

        def read(begin: int, end: int, arrays: Mapping[str, NDArray[Any]]) -> None:
            for name, array in arrays.items():
                read_rows(datasets[name], begin, end, array)

        layout = RowLayout(
            shapes={name: dataset.shape[1:] for name, dataset in datasets.items()},
            rows_per_request=self.rows_per_request,
            with_row_axis=self.with_row_axis,
        )
        return client.stream_rows(read, range(start, facts.rows), layout)

    def rows_of(self, outputs: Arrays, expected: int, client: InferenceClient) -> Arrays:
        """Return the outputs with an axis of rows in front.

        Raises
        ------
        RequestError
            An output does not have a row for each row of the request.
        """
        return rows_of_outputs(
            outputs, expected, client, with_row_axis=self.with_row_axis, unit="rows"
        )


def _required(model: ModelSpecification) -> list[str]:
    return [name for name, tensor in model.inputs.items() if not tensor.optional]


def read_rows(dataset: h5py.Dataset, begin: int, end: int, array: NDArray[Any]) -> None:
    """Read rows of a dataset into an array of shape ``(end - begin, *shape)``."""
    if array.dtype == np.dtype(object):
        array[...] = dataset[begin:end]
        return
    # What Dataset.read_direct does, without the half of its time that goes into selections.
    there = dataset.id.get_space()
    there.select_hyperslab((begin, *[0] * (array.ndim - 1)), array.shape)
    here = h5py.h5s.create_simple(array.shape)
    dataset.id.read(here, there, array, h5py.h5t.py_create(array.dtype))
