"""Predictions of many files as one file, measured, held against requirements, and reported."""

from typing import TYPE_CHECKING

from hermes._lazy import import_on_use

if TYPE_CHECKING:
    from hermes.aeriel._options import ValidationOptions
    from hermes.aeriel.validation._baseline import find_baseline, find_same_rows
    from hermes.aeriel.validation._directory import (
        ValidationDirectory,
        report_fingerprint,
        request_fingerprint,
    )
    from hermes.aeriel.validation._find import (
        check_targets_named,
        find_predictions,
        inputs_with_targets,
        merge_job,
    )
    from hermes.aeriel.validation._index import Part
    from hermes.aeriel.validation._merge import check_all_rows, check_output_names, merge
    from hermes.aeriel.validation._outputs import describe_outputs
    from hermes.aeriel.validation._run import (
        MergeJob,
        write_reports,
    )
    from hermes.aeriel.validation._validation import (
        FilePredictions,
        check_writable,
        choose_metrics,
        measure,
    )
else:
    __getattr__, __dir__ = import_on_use(__name__)

__all__ = [
    "FilePredictions",
    "MergeJob",
    "Part",
    "ValidationDirectory",
    "ValidationOptions",
    "check_all_rows",
    "check_output_names",
    "check_targets_named",
    "check_writable",
    "choose_metrics",
    "describe_outputs",
    "find_baseline",
    "find_predictions",
    "find_same_rows",
    "inputs_with_targets",
    "measure",
    "merge",
    "merge_job",
    "report_fingerprint",
    "request_fingerprint",
    "write_reports",
]
