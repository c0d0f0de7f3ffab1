"""The values of a report as a reader wants them: numbers, times, names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Of fewer requests a percentile is just the slowest of them.
LEAST_REQUESTS = {"p50": 1, "p90": 10, "p99": 100}
NOTHING = "\N{EN DASH}"
LABELS = {
    "log_loss": "Log loss",
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "mse": "Mean squared error",
    "rmse": "Root mean squared error",
    "bias": "Bias (mean of predicted \N{MINUS SIGN} true)",
    "mae": "Mean absolute error",
    "r2": "R²",
    "max_absolute_error": "Largest absolute error",
    "reference": "Agreement with expected outputs",
}


def number(value: Any) -> str:
    """Return a number with as many digits as a reader wants."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return text(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if 1000 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    # What is not 1 does not read as 1.
    rounded = (f"{value:.{digits}g}" for digits in range(4, 18))
    return next((shown for shown in rounded if shown not in {"1", "-1"}), repr(value))


def fixed(value: Any, unlike: float | None = None) -> str:
    """Return a metric with four decimals, or more where it would read as what it is not.

    Parameters
    ----------
    value
        A number, or what is said in place of one.
    unlike
        A number that the value may be near; where they differ, so do their texts.
    """
    ordinary = isinstance(value, float) and not value.is_integer() and 1e-3 <= abs(value) < 1e3
    if not ordinary:
        shown = number(value)
        return repr(value) if value != unlike and shown == number(unlike) else shown
    texts = (f"{value:.{digits}f}" for digits in range(4, 18))
    return next((shown for shown in texts if float(shown) not in {1.0, -1.0, unlike}), repr(value))


def minus(text: str) -> str:
    """Return the text of a number with a minus sign where it begins with a hyphen."""
    return re.sub(r"^-(?=[\d.])", "\N{MINUS SIGN}", text)


def between(interval: Any) -> str:
    """Return an interval; nothing where there is none, or its ends are no numbers."""
    low, high = (float(end) for end in interval or (math.nan, math.nan))
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"{minus(fixed(low))} to {minus(fixed(high))}"


def class_name(names: Sequence[str], number: int) -> str:
    """Return what a class is called; its number where it has no name."""
    return names[number] if number < len(names) else str(number)


def class_title(names: Sequence[str], number: int) -> str:
    """Return what a class is called where nothing else says that it is one."""
    return names[number] if number < len(names) else f"class {number}"


def is_set(value: Any) -> bool:
    """Tell whether a value of a report says anything: Luigi writes an unset parameter as a text."""
    return value not in (None, "", "null", "[]", "{}", [], {})


def latencies(speed: Mapping[str, Any]) -> dict[str, float]:
    """Return those percentiles of the latency that the number of requests allows, in ms.

    Parameters
    ----------
    speed
        ``latency_ms`` and ``requests``, of a file or of all of them, as a report has them.
    """
    there, requests = speed.get("latency_ms") or {}, speed.get("requests", math.inf)
    wanted = (key for key, least in LEAST_REQUESTS.items() if requests >= least)
    return {key: there[key] for key in wanted if key in there}


def duration(seconds: float) -> str:
    """Return a time in seconds, or in hours and minutes where it is long."""
    if not isinstance(seconds, int | float) or seconds < 60:
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def text(value: Any) -> str:
    """Return any value of a report in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return NOTHING
    if isinstance(value, list):
        return ", ".join(text(item) for item in value) or NOTHING
    if isinstance(value, dict):
        return ", ".join(f"{key}: {text(item)}" for key, item in value.items()) or NOTHING
    return str(value)


def label(name: str) -> str:
    """Return what a metric is called in a headline."""
    name, difference, _ = name.partition(" - baseline.")
    if difference:
        return f"{label(name)}, less the baseline's"
    if match := re.fullmatch(r"top_(\d+)_accuracy", name):
        return f"Top-{match[1]} accuracy"
    return LABELS.get(name, name.replace("_", " ").capitalize())
