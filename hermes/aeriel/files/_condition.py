"""Which rows are stored: a condition on an output, such as ``snr > 8``."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.files._facts import RowInputs
from hermes.errors import ParameterError

_OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(
    r"\s*(?P<output>[^<>=!\[\]\s]+)\s*"
    r"(?:\[\s*(?P<index>any|\d{1,9}(?:\s*,\s*\d{1,9})*)\s*\])?\s*"
    r"(?P<operator>>=|<=|==|!=|>|<)\s*"
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*"
)
_EXAMPLES = "'snr > 8', 'scores[1] >= 0.5' (one number of a row) or 'scores[any] > 0.5'"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A condition on one output of a row.

    NaN meets no condition but ``!=``.

    Parameters
    ----------
    text
        As it was given.
    output
        The name of the output.
    index
        Which number of a row counts, as an index of its shape; ``"any"`` for all of them, of which
        one has to meet the condition; None for the only one.
    operator
        One of ``>``, ``>=``, ``<``, ``<=``, ``==`` and ``!=``.
    number
        What it is compared with.
    """

    text: str
    output: str
    index: tuple[int, ...] | str | None
    operator: str
    number: float

    @classmethod
    def parse(cls, text: str) -> Condition | None:
        """Return the condition that a text states; None for an empty one.

        Raises
        ------
        ParameterError
            It states none.
        """
        if not text:
            return None
        match = _CONDITION.fullmatch(text)
        if match is None or not math.isfinite(float(match["number"])):
            wanted = f"an output, one of {', '.join(_OPERATORS)} and a number"
            raise ParameterError("keep", f"{text!r} is not {wanted}, such as {_EXAMPLES}")
        index = match["index"]
        number = match["number"]
        return cls(
            text=text,
            output=match["output"],
            index=index
            if index in (None, "any")
            else tuple(int(part) for part in index.split(",")),
            operator=match["operator"],
            number=int(number) if re.fullmatch(r"[+-]?\d{1,18}", number) else float(number),
        )

    def check(self, outputs: RowInputs) -> None:
        """Check that the outputs have what the condition is on.

        Parameters
        ----------
        outputs
            The shape of a row (-1: any length) and the dtype of each.

        Raises
        ------
        ParameterError
            They do not.
        """
        if self.output not in outputs:
            raise self._problem(f"there is no output {self.output!r}, but {', '.join(outputs)}")
        shape, dtype = outputs[self.output]
        what = f"{dtype} of shape {shape}"
        if dtype.kind not in "biuf":
            raise self._problem(f"a row of it is {what}, not numbers")
        if self.index is None and any(length not in (-1, 1) for length in shape):
            advice = f"say which number, or any of them, as in {_EXAMPLES}"
            raise self._problem(f"a row of it is {what}; {advice}")
        if isinstance(self.index, tuple) and (
            len(self.index) != len(shape)
            or any(at >= n >= 0 for at, n in zip(self.index, shape, strict=True))
        ):
            raise self._problem(f"a row of it is {what}, which has no such index")

    def mask(self, outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """Return which rows meet the condition, as numpy compares: bool of shape ``(rows,)``.

        Raises
        ------
        ParameterError
            The outputs have not what the condition is on.
        """
        self.check({name: (array.shape[1:], array.dtype) for name, array in outputs.items()})
        array: Any = outputs[self.output]
        if isinstance(self.index, tuple):
            array = array[(slice(None), *self.index)]
        with np.errstate(over="ignore"):  # float16 has no number as large as some are
            met = _OPERATORS[self.operator](array, self.number)
        return np.asarray(met.any(axis=tuple(range(1, met.ndim))), bool)

    def _problem(self, problem: str) -> ParameterError:
        return ParameterError("keep", f"{self.text!r}: {problem}")
