"""Metrics that are computed a few rows at a time, as those of large files are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from hermes.aeriel import metrics
from hermes.aeriel.metrics import MetricsResult, _pairs


def compute_metrics(
    names: Sequence[str],
    predictions: Any,
    targets: Any,
    *,
    chunk_rows: int | None = None,
    **options: Any,
) -> MetricsResult:
    """Return the metrics, read in chunks of so many rows, by default the usual ones."""
    with pytest.MonkeyPatch.context() as patch:
        if chunk_rows is not None:
            row_elements = max(math.prod(array.shape[1:]) for array in (predictions, targets))
            patch.setattr(_pairs, "CHUNK_ELEMENTS", chunk_rows * max(1, row_elements))
        return metrics.compute_metrics(names, predictions, targets, **options)
