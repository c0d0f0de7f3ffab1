"""Metrics of predictions against targets, and requirements on them."""

from typing import TYPE_CHECKING

from hermes._lazy import import_on_use

if TYPE_CHECKING:
    from hermes.aeriel.metrics._classes import has_labels
    from hermes.aeriel.metrics._comparison import Comparison, compare_predictions
    from hermes.aeriel.metrics._metrics import (
        METRICS,
        MetricsResult,
        compute_metrics,
        parse_metrics,
        scalar_names,
    )
    from hermes.aeriel.metrics._pairs import Metric, MetricOptions, Pair
    from hermes.aeriel.metrics._requirements import (
        Requirement,
        RequirementResult,
        check_requirements,
        difference_name,
        evaluate_requirements,
        parse_requirement,
    )
    from hermes.aeriel.metrics._scores import check_scores
    from hermes.aeriel.metrics._target import (
        check_finite_targets,
        check_target,
        choose_output,
        varies,
    )
else:
    __getattr__, __dir__ = import_on_use(__name__)

__all__ = [
    "METRICS",
    "Comparison",
    "Metric",
    "MetricOptions",
    "MetricsResult",
    "Pair",
    "Requirement",
    "RequirementResult",
    "check_finite_targets",
    "check_requirements",
    "check_scores",
    "check_target",
    "choose_output",
    "compare_predictions",
    "compute_metrics",
    "difference_name",
    "evaluate_requirements",
    "has_labels",
    "parse_metrics",
    "parse_requirement",
    "scalar_names",
    "varies",
]
