"""Files of predictions as one file, and what a validation finds in them."""

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
    "check_writable",
    "choose_metrics",
    "describe_inputs",
    "describe_outputs",
    "finite_warnings",
    "measure",
    "merge",
    "throughput",
]
