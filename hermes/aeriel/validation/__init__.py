"""Files of predictions as one file, and what a validation finds in them."""

from hermes.aeriel.validation._baseline import (
    check_same_rows,
    compare_with,
    describe_baseline,
    find_baseline,
)
from hermes.aeriel.validation._index import INDEX, Part
from hermes.aeriel.validation._merge import TARGET, check_all_rows, merge
from hermes.aeriel.validation._outputs import describe_outputs
from hermes.aeriel.validation._validation import (
    FilePredictions,
    check_writable,
    choose_metrics,
    describe_inputs,
    finite_warnings,
    measure,
    throughput,
)

__all__ = [
    "INDEX",
    "TARGET",
    "FilePredictions",
    "Part",
    "check_all_rows",
    "check_same_rows",
    "check_writable",
    "choose_metrics",
    "compare_with",
    "describe_baseline",
    "describe_inputs",
    "describe_outputs",
    "find_baseline",
    "finite_warnings",
    "measure",
    "merge",
    "throughput",
]
