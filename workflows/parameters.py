"""Luigi parameters whose errors name the parameter, and say what it takes."""

# Over 300 lines: all kinds of parameters, each a few lines.
from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast, get_args, get_type_hints

import luigi
from luigi.freezing import FrozenOrderedDict

from hermes.aeriel._options import (
    SHIFTS,
    InputMap,
    Shifts,
    as_input_map,
    as_shifts,
    join_maps,
    join_shifts,
    read_map,
)
from hermes.errors import ParameterError

T = TypeVar("T")

# Of a value in a message, at most.
SHOWN = 200


# What reading and converting a value raises; deep nesting, and a number that no float can have.
_WRONG = (TypeError, ValueError, RecursionError, OverflowError)


class _Given(list[str]):
    """The texts that a command line gives for one option, in order."""


class _Append(argparse.Action):
    """Keeps every text of an option that is repeated; an empty one stands for the default."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 (argparse calls it)
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002 (likewise)
    ) -> None:
        if values:
            setattr(namespace, self.dest, _Given([*(getattr(namespace, self.dest) or ()), values]))


class _AppendFiles(_Append):
    """Likewise, of files; further words behind the option are reported as what they are."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        super().__call__(parser, namespace, values, option_string)
        vars(parser)["error"] = _refuse_words


def _refuse_words(message: str) -> NoReturn:
    """End the command as argparse does, without the hundred lines on how it is used."""
    advice = ""
    if message.startswith("unrecognized arguments: ") and " --" not in message:
        advice = "; a pattern of files stands in quotes, as --inputs 'data/*.h5'"
    print(f"hermes: {message}{advice}", file=sys.stderr)  # noqa: T201
    raise SystemExit(2)


class _Checked(luigi.Parameter[T]):
    """A parameter that is written as JSON, or as itself, and checks what it gets.

    An option that is given several times adds up where the parameter has several values, and is
    refused where it has one.
    """

    takes = "a text"
    _action: type[argparse.Action] = _Append

    @classmethod
    def _parser_kwargs(cls, param_name: str, task_name: str | None = None) -> dict[str, Any]:
        options = super()._parser_kwargs(param_name, task_name)  # type: ignore[no-untyped-call]  # Luigi's
        return {**options, "action": cls._action}

    def parse(self, x: Any) -> T:
        """Return the value of a text, or of a TOML file's value, or raise ParameterError."""
        if not isinstance(x, _Given):
            return self._parse_one(x)
        first, *others = map(self._parse_one, x)
        return self._joined([first, *others]) if others else first

    def normalize(self, x: Any) -> T:
        """Return the value in its own type, or raise ParameterError."""
        try:
            return self._checked(x)
        except _WRONG as error:
            raise self._error(x) from error

    def serialize(self, x: Any) -> str:
        """Return the text that `parse` reads."""
        return json.dumps(x)

    def _parse_one(self, given: Any) -> T:
        try:
            value = self._read(given) if isinstance(given, str) else given
        except _WRONG as error:
            raise self._error(given) from error
        return self.normalize(value)

    def _read(self, text: str) -> Any:
        return json.loads(text)

    def _checked(self, value: Any) -> T:
        raise NotImplementedError

    def _joined(self, values: Sequence[T]) -> T:
        """Return the value of an option that is given several times."""
        problem = f"is given {len(values)} times, but takes one value; give it once"
        raise ParameterError(self._attribute_name or "parameter", problem)

    def _error(self, value: object) -> ParameterError:
        shown = _shortened(repr(value))
        return ParameterError(self._attribute_name or "parameter", f"{shown} is not {self.takes}")


class Text(_Checked[str]):
    """A text; a number stands for its digits."""

    def serialize(self, x: Any) -> str:
        """Return the text."""
        return str(x)

    def _read(self, text: str) -> Any:
        return text

    def _checked(self, value: Any) -> str:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return str(_only(value, isinstance(value, str) or is_number))


class Choice(Text):
    """One of some texts.

    Parameters
    ----------
    choices
        The texts.
    """

    def __init__(self, *, choices: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self.takes = f"one of {', '.join(choices)}"
        self.description = f"{self.description or ''} ({self.takes})".lstrip()
        self._choices = choices

    def _checked(self, value: Any) -> str:
        return str(_only(value, value in self._choices))


class Flag(luigi.BoolParameter):
    """True or false; true where the option is given without either."""

    def parse(self, x: Any) -> bool:
        """Return the value of a text, or raise ParameterError."""
        text = str(x).lower()
        if text not in {"true", "false"}:
            problem = f"{_shortened(repr(x))} is neither true nor false"
            raise ParameterError(self._attribute_name or "parameter", problem)
        return text == "true"

    def normalize(self, x: Any) -> bool:
        """Return the value, or raise ParameterError."""
        return self.parse(x)


class WholeNumber(_Checked[int]):
    """A whole number, 0 or more."""

    takes = "a whole number, 0 or more"

    def _checked(self, value: Any) -> int:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return int(_only(value, is_whole and value >= 0))


class OptionalWholeNumber(_Checked["int | None"]):
    """A whole number, 0 or more, or null."""

    takes = "a whole number, 0 or more, or null"

    def _checked(self, value: Any) -> int | None:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return None if value is None else int(_only(value, is_whole and value >= 0))


class Number(_Checked[float]):
    """A number, 0 or more."""

    takes = "a number, 0 or more"

    def _checked(self, value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(_only(value, is_number and 0 <= value < math.inf))


class TextList(_Checked[tuple[str, ...]]):
    """Texts: one as it is, or a JSON list of them; those of a repeated option are added."""

    takes = 'a text, or a JSON list of texts, such as \'["a", "b"]\''

    def _read(self, text: str) -> Any:
        return json.loads(text) if text.lstrip().startswith("[") else text

    def _checked(self, value: Any) -> tuple[str, ...]:
        return _texts(value)

    def _joined(self, values: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        return tuple(text for texts in values for text in texts)


class ShiftList(_Checked[Shifts]):
    """The shift of each channel, or a list of those of time slides; a repeated option adds up."""

    takes = SHIFTS

    def _read(self, text: str) -> Any:
        return json.loads(text) if text.lstrip().startswith("[") else text

    def _checked(self, value: Any) -> Shifts:
        return as_shifts(value)

    def _joined(self, values: Sequence[Shifts]) -> Shifts:
        return join_shifts(self._attribute_name or "parameter", values)


class FilePatterns(_Checked[tuple[str, ...] | InputMap]):
    """Paths and globs: one as it is, or a JSON list of them, or an object of those of channels."""

    _action = _AppendFiles

    takes = (
        "a path or glob, a JSON list of them, or a JSON object of those of each channel, such as "
        '\'{"H1": "H-*.h5", "L1": "L-*.h5"}\''
    )

    def serialize(self, x: Any) -> str:
        """Return the text that `parse` reads."""
        return json.dumps(dict(x) if isinstance(x, Mapping) else x)

    def _read(self, text: str) -> Any:
        return json.loads(text) if text.lstrip().startswith(("[", "{")) else text

    def _checked(self, value: Any) -> tuple[str, ...] | InputMap:
        if isinstance(value, Mapping):
            return FrozenOrderedDict(as_input_map(value))
        return _texts(value)

    def _joined(self, values: Sequence[tuple[str, ...] | InputMap]) -> tuple[str, ...] | InputMap:
        lists = [value for value in values if not isinstance(value, Mapping)]
        if not lists:
            maps = [value for value in values if isinstance(value, Mapping)]
            return FrozenOrderedDict(join_maps(self._attribute_name or "parameter", maps))
        if len(lists) < len(values):
            problem = "is given with channels and without; give each file a channel"
            raise ParameterError(self._attribute_name or "parameter", problem)
        return tuple(text for texts in lists for text in texts)


class TextLists(_Checked[tuple[tuple[str, ...], ...]]):
    """Lists of texts; a text stands for a list of it alone."""

    takes = 'a JSON list of texts, or of lists of them, such as \'[["a", "b"], ["c"]]\''

    def _read(self, text: str) -> Any:
        return json.loads(text) if text.lstrip().startswith("[") else [text]

    def _checked(self, value: Any) -> tuple[tuple[str, ...], ...]:
        return tuple(map(_texts, _only(value, _is_list(value))))


class GPUs(_Checked["tuple[int | str, ...] | None"]):
    """Indices and UUIDs of GPUs as a JSON list; null for no choice."""

    takes = 'a JSON list of GPUs, such as [0, 3] or ["GPU-…"], or null'

    def _checked(self, value: Any) -> tuple[int | str, ...] | None:
        if value is None:
            return None
        gpus = _only(value, _is_list(value))
        return tuple(_only(gpu, isinstance(gpu, int | str)) for gpu in gpus)


class DatasetMap(_Checked[InputMap]):
    """A JSON object of paths or lists of them, or one pair; those of a repeated option add up."""

    takes = (
        'a JSON object of paths, such as \'{"x": "/path"}\' or \'{"x": ["/a", "/b"]}\', '
        "or like x=/path"
    )

    def serialize(self, x: Any) -> str:
        """Return the text that `parse` reads."""
        return json.dumps(dict(x))

    def _read(self, text: str) -> Any:
        return read_map(text)

    def _checked(self, value: Any) -> InputMap:
        return FrozenOrderedDict(as_input_map(value))

    def _joined(self, values: Sequence[InputMap]) -> InputMap:
        return FrozenOrderedDict(join_maps(self._attribute_name or "parameter", values))


class AbsolutePath(_Checked[str]):
    """A path, made absolute; a URL, and nothing at all, stay as they are."""

    takes = "a path"

    def serialize(self, x: Any) -> str:
        """Return the path."""
        return str(x)

    def _read(self, text: str) -> Any:
        return text

    def _checked(self, value: Any) -> str:
        text = str(_only(value, isinstance(value, str | Path)))
        if not text or "://" in text:
            return text
        try:
            return str(Path(_only(text, "\0" not in text)).expanduser().absolute())
        except RuntimeError as error:  # "~" of a user who has no home
            raise ValueError(text) from error


class ImagePath(AbsolutePath):
    """A path or URI of an image; a relative one that is not here is looked for later."""

    takes = "a path or URI of an image"

    def _checked(self, value: Any) -> str:
        text = str(_only(value, isinstance(value, str | Path)))
        found = super()._checked(value)
        try:
            return found if Path(found).exists() else text
        except OSError:  # it cannot be looked at; whoever needs the image says why
            return text


_KINDS: dict[Any, Any] = {
    str: Text,
    int: WholeNumber,
    float: Number,
    bool: Flag,
    tuple[str, ...]: TextList,
    InputMap: DatasetMap,
    Shifts: ShiftList,
}
_HOW = {
    TextList: ", as a JSON list",
    ShiftList: ", as a JSON list",
    DatasetMap: ", as x=/path or as a JSON object",
}


def with_options(options: type, **defaults: Any) -> Callable[[type[T]], type[T]]:
    """Give a class a parameter for each field of a dataclass of options, for `options_of`.

    Parameters
    ----------
    options
        A dataclass, whose fields say in their metadata what they are (``help``), and whether they
        change the result (``changes_result``).
    defaults
        Other defaults than the fields have.
    """

    def decorate(tasks: type[T]) -> type[T]:
        kinds = get_type_hints(options)
        for each in fields(options):
            parameter = _option_parameter(each, kinds[each.name], defaults)
            setattr(tasks, each.name, parameter)
            parameter.__set_name__(tasks, each.name)  # as a class statement does
        return tasks

    return decorate


def options_of(options: type[T], task: Any) -> T:
    """Return the parameters of a task as options.

    Parameters
    ----------
    options
        A dataclass, of which `with_options` has given the task's class the parameters.
    task
        The task.
    """
    return options(**{each.name: getattr(task, each.name) for each in fields(cast("Any", options))})


def _option_parameter(
    option: Field[Any], kind: Any, defaults: Mapping[str, Any]
) -> luigi.Parameter[Any]:
    parameter = _KINDS.get(kind, Choice)
    text = option.metadata["help"].removesuffix(".") + _HOW.get(parameter, "")
    arguments: dict[str, Any] = {
        "description": text[0].lower() + text[1:],
        "significant": option.metadata["changes_result"],
        # The first positional parameter is one of the task's own: Luigi's range tools set it.
        "positional": False,
    }
    if parameter is Choice:
        arguments["choices"] = get_args(kind)
    if option.default_factory is not MISSING:
        arguments["default"] = option.default_factory()
    elif option.default is not MISSING:
        arguments["default"] = defaults.get(option.name, option.default)
    made: luigi.Parameter[Any] = parameter(**arguments)
    return made


def _texts(value: Any) -> tuple[str, ...]:
    """Return a text or path, or a list of them, as texts, or raise ValueError."""
    values = [value] if isinstance(value, str | Path) else _only(value, _is_list(value))
    return tuple(str(_only(text, isinstance(text, str | Path))) for text in values)


def _only(value: Any, is_right: bool) -> Any:
    if not is_right:
        raise ValueError(value)
    return value


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
