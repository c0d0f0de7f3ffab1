"""Whatever a file is like, and however its rows travel, the predictions are onnxruntime's own."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest

from hermes.aeriel.client import TransportName
from hermes.aeriel.files import InferenceOptions, NamedServer, infer_files, plan_files
from hermes.aeriel.serve import TritonInstance, serve
from tests.conformance import SAMPLE, formats
from tests.conformance.formats import Link, ModelKind, Storage

TRANSPORTS = [name for name in get_args(TransportName) if name != "auto"]
COMBINATIONS = list(itertools.product(TRANSPORTS, get_args(ModelKind)))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("formats") / "models"
    formats.write_models(repository)
    return repository


@pytest.fixture(scope="module")
def server(repository: Path, triton_home: Path) -> Iterator[TritonInstance]:
    with serve(repository, ports="auto", gpus=[], wait=True) as instance:
        yield instance


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[ModelKind], list[Path]]:
    """Return a function: a file of each storage and link for a kind of model."""
    directory = tmp_path_factory.mktemp("files")

    def written(kind: ModelKind) -> list[Path]:
        found = []
        for storage in get_args(Storage):
            for link in get_args(Link):
                file = directory / kind / f"{storage}, {link}.h5"
                if not file.exists():
                    file.parent.mkdir(exist_ok=True)
                    formats.write_file(file, storage, link, kind)
                found.append(file)
        return found

    return written


def differences(model: Path, kind: ModelKind, files: list[Path], outputs: Path) -> list[str]:
    """Return the datasets whose predictions are not what onnxruntime answers in this process."""
    found = []
    for file in files:
        expected = formats.answers_in_process(model, kind, formats.read_rows(file))
        predicted = formats.read_predictions(outputs / file.name)
        found += [
            f"{file.name}: {name}"
            for name, values in expected.items()
            if not formats.is_same(predicted[name], values)
        ]
    return found


@pytest.mark.parametrize(("transport", "kind"), COMBINATIONS)
def test_predictions_are_onnxruntimes_to_the_bit(
    transport: TransportName,
    kind: ModelKind,
    repository: Path,
    server: TritonInstance,
    files: Callable[[ModelKind], list[Path]],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    options = InferenceOptions(model_name=kind, transport=transport)
    # Of a sample, each combination has others.
    step = 1 if SAMPLE == 1 else 4
    some = files(kind)[COMBINATIONS.index((transport, kind)) % step :: step]

    jobs = plan_files(options, [(file,) for file in some], tmp_path, model_stamp="")
    infer_files(NamedServer(server.endpoint), jobs)

    found = differences(repository / kind / "1" / "model.onnx", kind, some, tmp_path)
    tried = len(some) * len(formats.KINDS)
    record_property("formats", f"{tried} datasets tried, {tried - len(found)} right")
    assert found == []


def test_the_command_gives_the_same(
    repository: Path,
    server: TritonInstance,
    files: Callable[[ModelKind], list[Path]],
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "hermes", "infer", server.endpoint.grpc, "batched"]

    subprocess.run([*command, *files("batched"), "--output-dir", tmp_path], check=True)

    model = repository / "batched" / "1" / "model.onnx"
    assert differences(model, "batched", files("batched"), tmp_path) == []
