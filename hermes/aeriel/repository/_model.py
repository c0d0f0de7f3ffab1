"""A model as its files in a repository describe it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from hermes.aeriel._options import LATEST
from hermes.aeriel.client import ModelSpecification
from hermes.aeriel.repository._model_files import configuration_of_onnx, is_model, problem_of
from hermes.aeriel.serve import check_model_repository
from hermes.aeriel.supervise import repository_stamp
from hermes.errors import ModelLoadError, ModelNotFoundError, ParameterError

# Of a text from a configuration, in a message.
SHOWN = 300
LONGEST_NAME = 255


@dataclass(frozen=True, kw_only=True)
class RepositoryModel:
    """A model as its files describe it.

    Parameters
    ----------
    specification
        What it takes and gives, as its configuration says, or an ONNX file where that leaves it to
        the server; None where only a server can tell.
    stamp
        Changes when a file of the model, or of a step of the ensemble, does (by size or
        modification time).
    """

    specification: ModelSpecification | None = None
    stamp: str


def read_model(
    model_repository: str,
    model_name: str,
    model_version: str = "",
    *,
    server_args: Sequence[str] = (),
) -> RepositoryModel:
    """Return what a repository says of a model.

    Parameters
    ----------
    model_repository, model_name, model_version
        The model.
    server_args
        The further arguments of the server that it is for: they may set what the model leaves out.

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
    if not _is_name(model_name) or not directory.is_dir():
        models = tuple(sorted(path.name for path in repository.iterdir() if is_model(path)))
        if not models and is_model(repository):
            problem = f"{repository} looks like a model; give its parent, {repository.parent}"
            raise ParameterError("model_repository", problem)
        raise ModelNotFoundError(model=model_name, where=where, available=models)
    model_version = "" if model_version == LATEST else model_version
    versions = sorted(path.name for path in directory.iterdir() if path.name.isdigit())
    if model_version and model_version not in versions:
        available = tuple(f"{model_name} version {version}" for version in versions)
        raise ModelNotFoundError(
            model=f"{model_name} version {model_version}", where=where, available=available
        )
    configs = _read_configs(repository, model_name, where)
    stamp = repository_stamp(str(repository), configs)
    config = configs[model_name]
    if config is None or not (config.input or config.output):
        configs[model_name] = configuration_of_onnx(directory, config, model_version, server_args)
    return RepositoryModel(specification=_specification(model_name, configs, where), stamp=stamp)


def check_model(model_repository: str, model_name: str, model_version: str = "") -> None:
    """Raise an error where the files of a model, or of a step of an ensemble, are not for Triton.

    That is what can be seen without a server: the directories and the names of files, what the
    configuration says of them, and the inputs and outputs in an ONNX file.

    Raises
    ------
    ModelLoadError
        A server would not load it.
    HermesError
        What `read_model` raises.
    """
    read_model(model_repository, model_name, model_version)
    if "://" in model_repository:
        return
    repository = Path(model_repository).absolute()
    where = f"the model repository {repository}"
    for name, config in _read_configs(repository, model_name, where).items():
        if not (repository / name).is_dir():
            reason = f"its config.pbtxt names {name!r} as a step, and there is no such model"
            raise ModelLoadError(model=model_name, where=where, reason=reason)
        version = model_version if name == model_name else ""
        if reason := problem_of(repository / name, config, version):
            raise ModelLoadError(model=name, where=where, reason=reason)


def class_names(model_repository: str, model_name: str, output: str) -> tuple[str, ...]:
    """Return what the classes of an output are called, from the output's ``label_filename``.

    Triton's own place for them: a text file in the model's directory with a name in each line.
    Nothing where there is none, or the repository is not on this machine.
    """
    if "://" in model_repository:
        return ()
    directory = Path(model_repository) / model_name
    config = _read_config(directory, f"the model repository {model_repository}")
    outputs = [] if config is None else config.output
    files = [each.label_filename for each in outputs if output in {"", each.name}]
    if len(files) != 1 or not files[0]:
        return ()
    try:
        return tuple((directory / files[0]).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        reason = f"its label_filename {files[0]!r} cannot be read: {error}"
        raise ModelLoadError(model=model_name, where=model_repository, reason=reason) from error


def _specification(
    model_name: str, configs: Mapping[str, Any], where: str
) -> ModelSpecification | None:
    config = configs[model_name]
    if config is None or not config.input or any(not each.data_type for each in config.input):
        return None
    steps = [step for name, step in configs.items() if name != model_name and step is not None]
    try:
        return replace(ModelSpecification.from_config(config, steps), name=model_name)
    except ValueError as error:
        reason = f"its config.pbtxt cannot be right: {str(error)[:SHOWN]}"
        raise ModelLoadError(model=model_name, where=where, reason=reason) from error


def _read_configs(repository: Path, model_name: str, where: str) -> dict[str, Any]:
    """Return the configurations of a model and, for an ensemble, of all its steps, by name."""
    configs: dict[str, Any] = {}
    names = [model_name]
    while names:
        name = names.pop()
        if name not in configs:
            configs[name] = config = _read_config(repository / name, where)
            steps = [] if config is None else config.ensemble_scheduling.step
            for step in steps:
                if not _is_name(step.model_name):
                    reason = f"its config.pbtxt names {step.model_name[:SHOWN]!r} as a step"
                    raise ModelLoadError(model=name, where=where, reason=reason)
                names.append(step.model_name)
    return configs


def _is_name(text: str) -> bool:
    """Return whether a text can be the name of a directory in a repository."""
    is_plain = Path(text).name == text != "" and text != ".." and "\0" not in text
    return is_plain and len(os.fsencode(text)) <= LONGEST_NAME


def _read_config(directory: Path, where: str) -> Any:
    file = directory / "config.pbtxt"
    if not file.is_file():
        return None
    config: Any = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(file.read_text(encoding="utf-8"), config)
    # Protobuf raises ValueError of numbers that are out of range, and RecursionError.
    except (text_format.ParseError, ValueError, OSError, RecursionError) as error:
        reason = f"{file} cannot be understood: {str(error)[:SHOWN]}"
        raise ModelLoadError(model=directory.name, where=where, reason=reason) from error
    return config
