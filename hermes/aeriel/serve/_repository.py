"""The model repository that a server is to have."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from hermes.errors import ParameterError

_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://")


def check_model_repository(model_repository: str | Path) -> str:
    """Return the repository as an absolute path or a URL.

    Raises
    ------
    ParameterError
        The path is empty, is not that of a directory, or has a model whose name needs quoting.
    """
    if isinstance(model_repository, str) and _REMOTE.match(model_repository):
        return model_repository
    if not str(model_repository):
        raise ParameterError("model_repository", "is empty; give a directory or a URL")
    path = Path(model_repository).absolute()
    if not path.is_dir():
        problem = "is not a directory" if path.exists() else "does not exist"
        raise ParameterError("model_repository", f"{path} {problem}")
    for model in path.iterdir():
        # See LocalInstance: the name of a model becomes part of a shell's command line.
        if model.is_dir() and shlex.quote(model.name) != model.name:
            problem = f"{path} has a model named {model.name!r}; Triton does not accept such names"
            raise ParameterError("model_repository", problem)
    return str(path)
