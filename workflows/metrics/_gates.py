"""Requirements on metrics, such as ``accuracy >= 0.95``, and whether they are met."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hermes.errors import ParameterError

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
    "==": operator.eq,
}

_GATE = re.compile(r"\s*([A-Za-z_]\w*)\s*(>=|<=|==|>|<)\s*(\S+)\s*")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A requirement on a metric: its value must compare so with a threshold."""

    metric: str
    operator: str
    threshold: float

    def __str__(self) -> str:
        return f"{self.metric} {self.operator} {self.threshold:.12g}"


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """Whether a metric meets its requirement.

    Attributes
    ----------
    gate
        The requirement.
    value
        What the metric is.
    passed
        Whether the value meets the requirement; NaN never does.
    margin
        By how much: the distance to the threshold, negative where the value is on its wrong side.
    """

    gate: Gate
    value: float
    passed: bool
    margin: float

    def __str__(self) -> str:
        value, threshold = f"{self.value:.6g}", f"{self.gate.threshold:.6g}"
        if value == threshold:
            # Rounded, a near miss would read as equality.
            value = f"{self.value!r}"
        if math.isnan(self.value):
            return f"{self.gate}: is {value}, which never passes"
        outcome = "passes" if self.passed else "misses"
        return f"{self.gate}: is {value}, {outcome} by {abs(self.margin):.6g}"

    def to_json(self) -> dict[str, Any]:
        """Return the facts and the sentence as plain values."""
        return {
            "metric": self.gate.metric,
            "operator": self.gate.operator,
            "threshold": self.gate.threshold,
            "value": self.value,
            "passed": self.passed,
            "margin": self.margin,
            "text": str(self),
        }


def parse_gate(text: str) -> Gate:
    """Return the requirement that a text such as ``accuracy >= 0.95`` states.

    Raises
    ------
    ParameterError
        For a text that is no such requirement.
    """
    match = _GATE.fullmatch(text)
    threshold = _number(match[3]) if match else math.nan
    if match is None or not math.isfinite(threshold):
        raise ParameterError(
            "require",
            f"given {text!r}, wanted a metric, one of {', '.join(OPERATORS)} and a number, "
            "for example 'accuracy >= 0.95'",
        )
    return Gate(metric=match[1], operator=match[2], threshold=threshold)


def check_gates(gates: Sequence[Gate], metric_names: Collection[str]) -> None:
    """Check, before anything runs, that each gate is on a metric that will be computed.

    Parameters
    ----------
    gates
        The requirements.
    metric_names
        The scalars there will be, as `scalar_names` gives them.

    Raises
    ------
    ParameterError
        For a gate on any other name.
    """
    for gate in gates:
        if gate.metric not in metric_names:
            there = ", ".join(metric_names) or "none"
            raise ParameterError(
                "require",
                f"{str(gate)!r} is on a metric that is not computed; computed are: {there}",
            )


def evaluate_gates(gates: Sequence[Gate], scalars: Mapping[str, float]) -> tuple[GateResult, ...]:
    """Return whether each requirement is met, and by how much, in order.

    Raises
    ------
    ParameterError
        For a gate on a metric that was not computed.
    """
    check_gates(gates, scalars)
    return tuple(_evaluate(gate, float(scalars[gate.metric])) for gate in gates)


def _evaluate(gate: Gate, value: float) -> GateResult:
    above = value - gate.threshold
    margin = -abs(above) if gate.operator == "==" else above if ">" in gate.operator else -above
    passed = OPERATORS[gate.operator](value, gate.threshold)
    return GateResult(gate=gate, value=value, passed=passed, margin=margin + 0.0)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
