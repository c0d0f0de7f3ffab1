"""Names of a package that are imported when they are first used.

Most commands need a part of hermes alone, and imports take time, above all from a file system that
many hosts share. So a package says as imports below ``if TYPE_CHECKING`` what it consists of, and
each of them is carried out when somebody asks for its name::

    if TYPE_CHECKING:
        from hermes.aeriel.files._infer import infer_file
    else:
        __getattr__, __dir__ = import_on_use(__name__)
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any


def import_on_use(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package.

    Parameters
    ----------
    package
        Its name.
    """

    @functools.cache
    def modules() -> Mapping[str, str]:
        """Return the module of each name."""
        body = ast.parse(inspect.getsource(sys.modules[package])).body
        only_typed = next(each for each in body if isinstance(each, ast.If))
        imports = [each for each in only_typed.body if isinstance(each, ast.ImportFrom)]
        return {name.name: str(each.module) for each in imports for name in each.names}

    def load(name: str) -> Any:
        if name.startswith("__") or name not in modules():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules()[name]), name)
        setattr(sys.modules[package], name, value)  # not asked for again
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules()})

    return load, names
