"""What a model repository says of a model before any server reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import triton_to_np_dtype

from hermes.aeriel.files import RowInputs, most_rows, row_inputs
from hermes.aeriel.serve import check_model_repository
from hermes.errors import ModelLoadError, ModelNotFoundError


@dataclass(frozen=True, kw_only=True)
class RepositoryModel:
    """A model as its files describe it.

    Parameters
    ----------
    inputs
        The shape of a row (-1: any length) and the dtype of each input, or None where only a
        server can tell (no configuration, or one without inputs).
    max_batch_size
        The most rows of a request; None where only a server can tell.
    stateful
        Whether the model, or a step of the ensemble, has a sequence batcher; None likewise.
    stamp
        Changes when a file of the model, or of a step of the ensemble, does (by size or
        modification time).
    """

    inputs: RowInputs | None = None
    max_batch_size: int | None = None
    stateful: bool | None = None
    stamp: str


def read_model(model_repository: str, model_name: str, model_version: str = "") -> RepositoryModel:
    """Return what a repository says of a model.

    Raises
    ------
    ParameterError
        There is no repository.
    ModelNotFoundError
        It has no such model, or not this version.
    ModelLoadError
        The model's configuration cannot be understood.
    """
    if "://" in model_repository:
        return RepositoryModel(stamp=model_repository)
    repository = Path(check_model_repository(model_repository))
    directory = repository / model_name
    where = f"the model repository {repository}"
    if not model_name or not directory.is_dir():
        models = tuple(sorted(path.name for path in repository.iterdir() if path.is_dir()))
        raise ModelNotFoundError(model=model_name, where=where, available=models)
    if model_version and not (directory / model_version).is_dir():
        versions = tuple(sorted(path.name for path in directory.iterdir() if path.name.isdigit()))
        available = tuple(f"{model_name} version {version}" for version in versions)
        raise ModelNotFoundError(
            model=f"{model_name} version {model_version}", where=where, available=available
        )
    configs = _read_configs(repository, model_name, where)
    stamp = _stamp(repository, configs)
    config = configs[model_name]
    if config is None or not config.input:
        return RepositoryModel(stamp=stamp)
    inputs = {tensor.name: (tuple(tensor.dims), _dtype(tensor)) for tensor in config.input}
    stateful = any(
        one is not None and one.HasField("sequence_batching") for one in configs.values()
    )
    return RepositoryModel(
        inputs=row_inputs(inputs, batched=config.max_batch_size > 0),
        max_batch_size=most_rows(inputs, config.max_batch_size, stateful=stateful),
        stateful=stateful,
        stamp=stamp,
    )


def _read_configs(repository: Path, model_name: str, where: str) -> dict[str, Any]:
    """Return the configurations of a model and, for an ensemble, of all its steps, by name."""
    configs: dict[str, Any] = {}
    names = [model_name]
    while names:
        name = names.pop()
        if name not in configs:
            configs[name] = config = _read_config(repository / name, where)
            if config is not None:
                names += [step.model_name for step in config.ensemble_scheduling.step]
    return configs


def _read_config(directory: Path, where: str) -> Any:
    file = directory / "config.pbtxt"
    if not file.is_file():
        return None
    config: Any = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(file.read_text(), config)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        reason = f"{file} cannot be understood: {error}"
        raise ModelLoadError(model=directory.name, where=where, reason=reason) from error
    return config


def _dtype(tensor: Any) -> np.dtype[Any]:
    name = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    dtype: np.dtype[Any] = np.dtype(triton_to_np_dtype("BYTES" if name == "STRING" else name))
    return dtype


def _stamp(repository: Path, models: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for model in sorted(models):
        for path in sorted((repository / model).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                status = path.stat()
                facts = f"{path.relative_to(repository)} {status.st_size} {status.st_mtime_ns}\n"
                digest.update(facts.encode())
    return digest.hexdigest()
