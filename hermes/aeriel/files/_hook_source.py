"""What a hook is, for a fingerprint: its source, and what of its own module it goes by."""

from __future__ import annotations

import dis
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

# Classes of these are the library's: a new version of it does not make results anew.
_LIBRARIES = ("builtins", "hermes", "luigi", "workflows")
_VALUES = (bool, int, float, complex, str, bytes, Path, type(None))


def source_of(hook: Callable[..., Any]) -> list[str]:
    """Return the texts that say what a hook does.

    They are its source (of a method, that of each class that its class inherits it from), that of
    the functions and classes of the same module that it uses, and of the methods and properties of
    its class, and likewise for these; and the constants that they read there: numbers, texts and
    tuples of them, which a hook cannot change in place.

    Raises
    ------
    OSError, TypeError
        The source of the hook is not there.
    """
    called: Any = hook
    if not (inspect.isfunction(hook) or inspect.ismethod(hook)):
        called = called.__call__  # of an object that is called
    owner = getattr(called, "__self__", None)
    reached = _Reached(owner)
    if owner is None:
        reached.add_function(called)
    else:
        own = [vars(each).get(called.__name__) for each in reached.classes]
        for function in own:
            if function is not None:  # a task's own is None
                reached.add_function(inspect.unwrap(function))
    return reached.texts


class _Reached:
    """What functions use, and what these use.

    Parameters
    ----------
    owner
        What a method is bound to; None where there is no method.
    """

    def __init__(self, owner: Any) -> None:
        owner_class = owner if isinstance(owner, type) else type(owner)
        self.classes = () if owner is None else owner_class.__mro__
        self.texts: list[str] = []
        self._own = [each for each in self.classes if not _is_of_library(each)]
        # Of a task these are its parameters, and more, which are looked at elsewhere.
        is_plain = self._own == [each for each in self.classes if each is not object]
        self._state = getattr(owner, "__dict__", {}) if is_plain else {}
        self._seen: set[int] = set()

    def add_function(self, function: Any) -> None:
        """Add a function.

        Raises
        ------
        OSError, TypeError
            Its source is not there.
        """
        if not self._add_text(function) or not isinstance(function, FunctionType):
            return
        names, attributes = _names_in(function.__code__)
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        known = {**function.__globals__, **{name: _content(cell) for name, cell in cells}}
        for name in sorted(names & known.keys()):
            self._add(name, known[name], function.__module__)
        for name in sorted(attributes):
            found = [vars(each)[name] for each in self._own if name in vars(each)]
            for value in [self._state[name]] if not found and name in self._state else found:
                self._add(name, value, None)

    def _add_text(self, item: Any) -> bool:
        """Add the source of an item, and tell whether it was not there yet."""
        is_new = id(item) not in self._seen
        if is_new:
            self._seen.add(id(item))
            self.texts.append(_text_of(item))
        return is_new

    def _add(self, name: str, value: Any, module: str | None) -> None:
        """Add what is found under a name; of functions and classes only those of the module."""
        if isinstance(value, property):
            value = value.fget
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        value = getattr(value, "__dict__", {}).get("__wrapped__", value)
        if value is not None and _is_value(value):  # None is a hook that is not there
            self.texts.append(f"{name} = {value!r}")
        elif inspect.isclass(value) and value.__module__ == module:
            self._add_text(value)
        elif inspect.isfunction(value) and module in (None, value.__module__):
            self.add_function(value)


def _names_in(code: CodeType) -> tuple[set[str], set[str]]:
    """Return the names, and the attributes, that a function reads and never sets."""
    names: set[str] = set(code.co_freevars) - {"__class__"}  # that is for super()
    attributes: set[str] = set()
    changed: set[str] = set()
    for each in _codes_in(code):
        for instruction in dis.get_instructions(each):
            operation, name = instruction.opname, instruction.argval
            if operation in ("LOAD_GLOBAL", "LOAD_NAME"):
                names.add(name)
            elif operation.startswith("LOAD_") and operation.endswith(("ATTR", "METHOD")):
                attributes.add(name)
            elif operation.startswith(("STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR")):
                changed.add(name)
    return names - changed, attributes - changed


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes_in(constant)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return NotImplemented


def _is_value(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_value, value))
    return isinstance(value, _VALUES)


def _is_of_library(each: type) -> bool:
    return each.__module__.partition(".")[0] in _LIBRARIES


@functools.cache
def _text_of(item: Any) -> str:
    """Return the source as it was first: a file that is edited while a pipeline runs is not it."""
    return textwrap.dedent(inspect.getsource(item))
