"""Files through models, in this process, and what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.files import Hooks, InferenceOptions, Request, infer_file
from hermes.aeriel.serve import TritonInstance
from tests.helpers import DOUBLE, write_model
from tests.stateful import BATCHING, RUNNING_SUM

Arrays = dict[str, NDArray[Any]]


def write_models(repository: Path) -> Path:
    """Write models of rows of three numbers, of windows of two channels, and of a state."""
    write_model(repository, "rows", DOUBLE, inputs={"x": ("FP32", [3])})
    write_model(
        repository,
        "index",
        DOUBLE.replace("y=", "index="),
        inputs={"x": ("FP32", [3])},
        outputs={"index": ("FP32", [3])},
    )
    write_model(repository, "windows", DOUBLE, inputs={"x": ("FP32", [2, 8])})
    write_model(repository, "sums", RUNNING_SUM, inputs={"x": ("FP32", [3])}, config=BATCHING)
    return repository


def infer(server: TritonInstance, file: Path, hooks: Hooks, **options: Any) -> Path:
    """Stream a file through a model, and return the file that comes out."""
    chosen = InferenceOptions(**options)
    output = file.with_name("out.h5")
    request = Request(
        input_files=(file,),
        output_file=output,
        options=chosen,
        fingerprint=chosen.model_name,
        provenance={},
        hooks=hooks,
    )
    with InferenceClient(server.endpoint, **chosen.client()) as client:
        infer_file(client, request, lambda *_: None)
    return output


def datasets(file: Path) -> Arrays:
    """Return the datasets of a file by their paths."""
    found: Arrays = {}
    with h5py.File(file) as opened:
        opened.visititems(
            lambda name, entry: (
                found.update({name: entry[...]}) if isinstance(entry, h5py.Dataset) else None
            )
        )
    return found
