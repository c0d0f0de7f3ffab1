"""Luigi parameters whose errors name the parameter, and say what it takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import luigi
from luigi.freezing import FrozenOrderedDict

from hermes.errors import ParameterError

T = TypeVar("T")


class _Checked(luigi.Parameter[T]):
    """A parameter that is written as JSON, or as itself, and checks what it gets."""

    takes = "a text"

    def parse(self, x: str) -> T:
        """Return the value of a text, or raise ParameterError."""
        try:
            value = self._read(x)
        except ValueError as error:
            raise self._error(x) from error
        return self.normalize(value)

    def normalize(self, x: Any) -> T:
        """Return the value in its own type, or raise ParameterError."""
        try:
            return self._checked(x)
        except (TypeError, ValueError) as error:
            raise self._error(x) from error

    def serialize(self, x: Any) -> str:
        """Return the text that `parse` reads."""
        return json.dumps(x)

    def _read(self, text: str) -> Any:
        return json.loads(text)

    def _checked(self, value: Any) -> T:
        raise NotImplementedError

    def _error(self, value: object) -> ParameterError:
        return ParameterError(self._attribute_name or "parameter", f"{value!r} is not {self.takes}")


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
    """Texts: one as it is, or a JSON list of them."""

    takes = 'a text, or a JSON list of texts, such as \'["a", "b"]\''

    def _read(self, text: str) -> Any:
        return json.loads(text) if text.lstrip().startswith("[") else text

    def _checked(self, value: Any) -> tuple[str, ...]:
        values = [value] if isinstance(value, str | Path) else _only(value, _is_list(value))
        return tuple(str(_only(text, isinstance(text, str | Path))) for text in values)


class GPUs(_Checked["tuple[int | str, ...] | None"]):
    """Indices and UUIDs of GPUs as a JSON list; null for no choice."""

    takes = 'a JSON list of GPUs, such as [0, 3] or ["GPU-…"], or null'

    def _checked(self, value: Any) -> tuple[int | str, ...] | None:
        if value is None:
            return None
        gpus = _only(value, _is_list(value))
        return tuple(_only(gpu, isinstance(gpu, int | str)) for gpu in gpus)


class TextMap(_Checked[Mapping[str, str]]):
    """A JSON object of texts."""

    takes = 'a JSON object of texts, such as \'{"x": "/path/in/file"}\''

    def serialize(self, x: Any) -> str:
        """Return the text that `parse` reads."""
        return json.dumps(dict(x))

    def _checked(self, value: Any) -> Mapping[str, str]:
        items = _only(value, isinstance(value, Mapping)).items()
        return FrozenOrderedDict((name, _only(text, isinstance(text, str))) for name, text in items)


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
        return text if not text or "://" in text else str(Path(text).expanduser().absolute())


class ImagePath(AbsolutePath):
    """A path or URI of an image; a relative one that is not here is looked for later."""

    takes = "a path or URI of an image"

    def _checked(self, value: Any) -> str:
        text = str(_only(value, isinstance(value, str | Path)))
        return super()._checked(value) if Path(text).expanduser().exists() else text


def _only(value: Any, is_right: bool) -> Any:
    if not is_right:
        raise ValueError(value)
    return value


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
