"""Metrics of predictions against targets, and requirements on them."""

from workflows.metrics._classes import has_labels
from workflows.metrics._gates import Gate, GateResult, check_gates, evaluate_gates, parse_gate
from workflows.metrics._metrics import (
    METRICS,
    MetricsResult,
    check_extra,
    compute_metrics,
    parse_metrics,
    scalar_names,
)
from workflows.metrics._pairs import Pair
from workflows.metrics._scores import check_scores
from workflows.metrics._target import check_target, choose_output, varies

__all__ = [
    "METRICS",
    "Gate",
    "GateResult",
    "MetricsResult",
    "Pair",
    "check_extra",
    "check_gates",
    "check_scores",
    "check_target",
    "choose_output",
    "compute_metrics",
    "evaluate_gates",
    "has_labels",
    "parse_gate",
    "parse_metrics",
    "scalar_names",
    "varies",
]
