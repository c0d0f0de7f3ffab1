"""What a program written for ml4gw-hermes, which owns some of the same names, gets to read."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from hermes.errors import OverwrittenError

P = ParamSpec("P")
T = TypeVar("T")

# Modules that only ml4gw-hermes has, beside those that both have.
_THEIRS = ("client/client.py", "serve/serve.py", "monitor/monitor.py")
_PACKAGES = ("client", "serve", "monitor")
_GUIDE = "see docs/coming-from-ml4gw-hermes.md"


def other_package(directory: Path) -> str:
    """Return what is wrong where ml4gw-hermes is installed too, or nothing.

    Parameters
    ----------
    directory
        That of ``hermes.aeriel``.
    """
    if not any((directory / module).exists() for module in _THEIRS):
        return ""
    advice = (
        "pip uninstall ml4gw-hermes, then pip install --force-reinstall --no-deps hermes-aeriel; "
        "keep what needs ml4gw-hermes in an environment of its own"
    )
    both = "ml4gw-hermes is installed in this environment too, and has files of the same names"
    return f"{both} ({directory}): {advice}"


def overwritten(directory: Path) -> list[str]:
    """Return which packages are those of ml4gw-hermes, which was installed later."""
    return [name for name in _PACKAGES if not _is_ours(directory / name / "__init__.py", name)]


def check_installation(directory: Path) -> None:
    """Warn where ml4gw-hermes is installed too.

    Raises
    ------
    OverwrittenError
        It has overwritten modules of this package.
    """
    problem = other_package(directory)
    if not problem:
        return
    if names := overwritten(directory):
        raise OverwrittenError(tuple(f"hermes.aeriel.{name}" for name in names), problem)
    warnings.warn(problem, RuntimeWarning, stacklevel=3)


def old_keywords(**advice: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator: keywords of ml4gw-hermes raise a TypeError that names the new ones."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            for name in kwargs:
                if name in advice:
                    call = function.__qualname__.removesuffix(".__init__")
                    raise TypeError(f"{call}() takes no {name!r}: {advice[name]}; {_GUIDE}")
            return function(*args, **kwargs)

        return checked

    return decorate


def _is_ours(file: Path, name: str) -> bool:
    try:
        return f"from hermes.aeriel.{name}." in file.read_text()
    except FileNotFoundError:
        return False
