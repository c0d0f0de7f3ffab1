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

_REQUIREMENT = re.compile(r"\s*([A-Za-z_]\w*)(\s*-\s*baseline\.(\w+))?\s*(>=|<=|==|>|<)\s*(\S+)\s*")


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A requirement on a metric: its value must compare so with a threshold.

    Attributes
    ----------
    metric
        The name of a scalar, or of its difference from a baseline's, as `difference_name` gives it.
    operator
        One of `OPERATORS`.
    threshold
        The number to compare with.
    """

    metric: str
    operator: str
    threshold: float

    @property
    def scalar(self) -> str:
        """The name of the scalar that has to be computed."""
        return self.metric.partition(" ")[0]

    def __str__(self) -> str:
        return f"{self.metric} {self.operator} {self.threshold:.12g}"


@dataclass(frozen=True, kw_only=True)
class RequirementResult:
    """Whether a metric meets its requirement.

    Attributes
    ----------
    requirement
        The requirement.
    value
        What the metric is.
    passed
        Whether the value meets the requirement; NaN never does.
    margin
        By how much: the distance to the threshold, negative where the value is on its wrong side.
    """

    requirement: Requirement
    value: float
    passed: bool
    margin: float

    def __str__(self) -> str:
        value, threshold = f"{self.value:.6g}", f"{self.requirement.threshold:.6g}"
        if value == threshold:
            # Rounded, a near miss would read as equality.
            value = f"{self.value!r}"
        if math.isnan(self.value):
            return f"{self.requirement}: is {value}, which never passes"
        outcome = "passes" if self.passed else "misses"
        return f"{self.requirement}: is {value}, {outcome} by {abs(self.margin):.6g}"

    def to_json(self) -> dict[str, Any]:
        """Return the facts and the sentence as plain values."""
        return {
            "metric": self.requirement.metric,
            "operator": self.requirement.operator,
            "threshold": self.requirement.threshold,
            "value": self.value,
            "passed": self.passed,
            "margin": self.margin,
            "text": str(self),
        }


def parse_requirement(text: str) -> Requirement:
    """Return the requirement that a text such as ``accuracy >= 0.95`` states.

    ``accuracy - baseline.accuracy >= -0.01`` is one on the difference from a baseline.

    Raises
    ------
    ParameterError
        For a text that is no such requirement.
    """
    match = _REQUIREMENT.fullmatch(text)
    threshold = _number(match[5]) if match else math.nan
    if match is None or not math.isfinite(threshold):
        raise ParameterError(
            "require",
            f"given {text!r}, wanted a metric, one of {', '.join(OPERATORS)} and a number, "
            "for example 'accuracy >= 0.95' or 'accuracy - baseline.accuracy >= -0.01'",
        )
    metric, difference, other, operation = match[1], match[2], match[3], match[4]
    if difference and other != metric:
        problem = f"{text!r} is on two metrics, {metric} and {other}; a difference is of one"
        raise ParameterError("require", problem)
    name = difference_name(metric) if difference else metric
    return Requirement(metric=name, operator=operation, threshold=threshold)


def difference_name(metric: str) -> str:
    """Return the name of the difference between a metric and a baseline's."""
    return f"{metric} - baseline.{metric}"


def check_requirements(requirements: Sequence[Requirement], metric_names: Collection[str]) -> None:
    """Check, before anything runs, that each requirement is on a metric that will be computed.

    Parameters
    ----------
    requirements
        The requirements.
    metric_names
        The scalars there will be, as `scalar_names` gives them.

    Raises
    ------
    ParameterError
        For a requirement on any other name.
    """
    for requirement in requirements:
        if requirement.metric not in metric_names:
            there = ", ".join(metric_names) or "none"
            raise ParameterError(
                "require",
                f"{str(requirement)!r} is on a metric that is not computed; computed are: {there}",
            )


def evaluate_requirements(
    requirements: Sequence[Requirement], scalars: Mapping[str, float]
) -> tuple[RequirementResult, ...]:
    """Return whether each requirement is met, and by how much, in order.

    Raises
    ------
    ParameterError
        For a requirement on a metric that was not computed.
    """
    check_requirements(requirements, scalars)
    return tuple(
        _evaluate(requirement, float(scalars[requirement.metric])) for requirement in requirements
    )


def _evaluate(requirement: Requirement, value: float) -> RequirementResult:
    above = value - requirement.threshold
    margin = (
        -abs(above)
        if requirement.operator == "=="
        else above
        if ">" in requirement.operator
        else -above
    )
    passed = OPERATORS[requirement.operator](value, requirement.threshold)
    return RequirementResult(
        requirement=requirement, value=value, passed=passed, margin=margin + 0.0
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
