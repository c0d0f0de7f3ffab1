"""A model's configuration, read and changed; and a repository to serve it from."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from hermes.aeriel.tuning._settings import ModelSettings
from hermes.errors import ParameterError

CONFIG = "config.pbtxt"
# The name of the parameter for threads, by the beginning of `backend` or `platform`.
THREADS = {"onnxruntime": "intra_op_thread_count", "pytorch": "INTRA_OP_THREAD_COUNT"}


@dataclass(frozen=True, kw_only=True)
class TunedModel:
    """A model of a repository, and its configuration.

    Parameters
    ----------
    repository, name
        Where it is.
    config
        Its configuration as a protobuf message, which is not changed.
    """

    repository: Path
    name: str
    config: Any

    @classmethod
    def read(cls, repository: Path, name: str) -> TunedModel:
        """Return a model with what its ``config.pbtxt`` says; nothing where it has none.

        Raises
        ------
        ParameterError
            It is an ensemble.
        """
        config: Any = model_config_pb2.ModelConfig()
        file = repository / name / CONFIG
        if file.is_file():
            text_format.Parse(file.read_text(encoding="utf-8"), config)
        if config.HasField("ensemble_scheduling"):
            steps = ", ".join({step.model_name: 0 for step in config.ensemble_scheduling.step})
            problem = f"{name!r} is an ensemble, which has no instances of its own"
            raise ParameterError("model", f"{problem}; tune its steps: {steps}")
        return cls(repository=repository, name=name, config=config)

    def with_config(self, config: Any) -> TunedModel:
        """Return the same model with the configuration that a server says it has."""
        return replace(self, config=config)

    @property
    def thread_parameter(self) -> str | None:
        """The parameter for the threads of an instance; None where the backend has none."""
        backend = self.config.backend or self.config.platform
        return next((name for kind, name in THREADS.items() if backend.startswith(kind)), None)

    @property
    def on_cpu(self) -> bool:
        """Whether its configuration says that it is executed on the CPU."""
        groups = self.config.instance_group
        kinds = model_config_pb2.ModelInstanceGroup
        return bool(groups) and all(group.kind == kinds.KIND_CPU for group in groups)

    @property
    def settings(self) -> ModelSettings:
        """The settings that its configuration has."""
        config = self.config
        name = self.thread_parameter
        has_threads = name is not None and name in config.parameters
        threads = config.parameters[name].string_value if has_threads else ""
        has_batcher = config.HasField("dynamic_batching")
        return ModelSettings(
            instances=sum(max(1, group.count) for group in config.instance_group) or 1,
            threads=int(threads or 0),
            preferred=tuple(config.dynamic_batching.preferred_batch_size) if has_batcher else None,
        )

    def text(self, settings: ModelSettings) -> str:
        """Return its configuration with these settings, as the text of a ``config.pbtxt``."""
        config: Any = model_config_pb2.ModelConfig()
        config.CopyFrom(self.config)
        now = self.settings
        if settings.instances != now.instances:
            if not config.instance_group:
                config.instance_group.add()
            each = math.ceil(settings.instances / len(config.instance_group))
            for group in config.instance_group:
                group.count = each
        if settings.threads != now.threads and self.thread_parameter:
            if settings.threads:
                value = str(settings.threads)
                config.parameters[self.thread_parameter].string_value = value
            else:
                del config.parameters[self.thread_parameter]
        if settings.preferred != now.preferred:
            if settings.preferred is None:
                config.ClearField("dynamic_batching")
            else:
                config.dynamic_batching.SetInParent()
                config.dynamic_batching.ClearField("preferred_batch_size")
                config.dynamic_batching.preferred_batch_size.extend(settings.preferred)
        return str(text_format.MessageToString(config))

    def lay_out(self, directory: Path, settings: ModelSettings | None, *, copy: bool) -> None:
        """Make a repository with this model alone.

        Parameters
        ----------
        directory
            The repository; made anew.
        settings
            Those of its configuration; None for just its files.
        copy
            Whether files are copied, for a container, which does not see what links lead to.
        """
        shutil.rmtree(directory, ignore_errors=True)
        model, there = directory / self.name, self.repository / self.name
        model.mkdir(parents=True)
        replaced: Collection[str] = () if settings is None else (CONFIG,)
        for path in there.iterdir():
            if path.name not in replaced:
                _place(path, model / path.name, copy=copy)
        if settings is not None:
            (model / CONFIG).write_text(self.text(settings), encoding="utf-8")


def _place(path: Path, target: Path, *, copy: bool) -> None:
    if not copy:
        target.symlink_to(path.resolve())
    elif path.is_dir():
        shutil.copytree(path, target)
    else:
        shutil.copy2(path, target)
