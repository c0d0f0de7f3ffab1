"""Luigi parameters whose errors name the parameter, and say what it takes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import luigi

from hermes.errors import ParameterError


class _Named(luigi.Parameter):
    """A parameter that knows its name, and how it is written on a command line."""

    takes = "a text"

    def parse(self, x: str) -> Any:
        """Return the value of a text, or raise ParameterError."""
        try:
            return self._parsed(x)
        except (ValueError, TypeError) as error:
            raise self._error(x) from error

    def _parsed(self, text: str) -> Any:
        return super().parse(text)

    def _error(self, value: object) -> ParameterError:
        return ParameterError(self._attribute_name or "parameter", f"{value!r} is not {self.takes}")


class WholeNumber(_Named, luigi.IntParameter):
    """A whole number, 0 or more."""

    takes = "a whole number, 0 or more"

    def _parsed(self, text: str) -> int:
        return self.normalize(int(text))

    def normalize(self, x: Any) -> int:
        """Return the number, or raise ParameterError."""
        if not isinstance(x, int) or isinstance(x, bool) or x < 0:
            raise self._error(x)
        return x


class Number(_Named, luigi.FloatParameter):
    """A number, 0 or more."""

    takes = "a number, 0 or more"

    def _parsed(self, text: str) -> float:
        return self.normalize(float(text))

    def normalize(self, x: Any) -> float:
        """Return the number, or raise ParameterError."""
        if isinstance(x, bool) or not isinstance(x, int | float) or not 0 <= x < math.inf:
            raise self._error(x)
        return float(x)


class TextList(_Named, luigi.ListParameter):
    """Texts: one as it is, or a JSON list of them."""

    takes = 'a JSON list of texts, such as \'["a", "b"]\''

    def _parsed(self, text: str) -> Any:
        return self.normalize(json.loads(text) if text.lstrip().startswith("[") else [text])

    def normalize(self, x: Any) -> tuple[str, ...]:
        """Return the texts as a tuple, or raise ParameterError."""
        values = (x,) if isinstance(x, str | Path) else x
        if not isinstance(values, list | tuple) or not all(
            isinstance(v, str | Path) for v in values
        ):
            raise self._error(x)
        return tuple(map(str, values))


class GPUs(_Named, luigi.OptionalListParameter):
    """Indices and UUIDs of GPUs as a JSON list; null for no choice."""

    takes = 'a JSON list of GPUs, such as [0, 3] or ["GPU-…"]'

    def _parsed(self, text: str) -> Any:
        return self.normalize(json.loads(text) if text else None)

    def normalize(self, x: Any) -> tuple[int | str, ...] | None:
        """Return the GPUs as a tuple, or raise ParameterError."""
        if x is None:
            return None
        if not isinstance(x, list | tuple) or not all(isinstance(gpu, int | str) for gpu in x):
            raise self._error(x)
        return tuple(x)


class TextMap(_Named, luigi.DictParameter):
    """A JSON object of texts."""

    takes = 'a JSON object of texts, such as \'{"x": "/path/in/file"}\''

    def _parsed(self, text: str) -> Any:
        return self.normalize(json.loads(text))

    def normalize(self, x: Any) -> Any:
        """Return the mapping, or raise ParameterError."""
        if not hasattr(x, "items") or not all(isinstance(v, str) for v in x.values()):
            raise self._error(x)
        return super().normalize(x)


class AbsolutePath(_Named):
    """A path, made absolute; a URL, and nothing at all, stay as they are."""

    takes = "a path"

    def normalize(self, x: Any) -> str:
        """Return the absolute path, or raise ParameterError."""
        if not isinstance(x, str | Path):
            raise self._error(x)
        text = str(x)
        return text if not text or "://" in text else str(Path(text).expanduser().absolute())


class ImagePath(_Named):
    """A path or URI of an image; a relative one is looked for when the server starts."""

    takes = "a path or URI of an image"

    def normalize(self, x: Any) -> str:
        """Return the path, absolute where the working directory has it."""
        if not isinstance(x, str | Path):
            raise self._error(x)
        path = Path(x).expanduser()
        return str(path.absolute()) if str(x) and path.exists() else str(x)
