"""A server's statistics at one moment, as rows of a table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

COLUMNS = (
    "time",
    "state",
    "kind",
    "name",
    "version",
    "member_of",
    "requests",
    "failures",
    "inferences",
    "executions",
    "queue_s",
    "compute_input_s",
    "compute_infer_s",
    "compute_output_s",
    "pending",
    "utilisation",
    "memory_used_bytes",
    "memory_total_bytes",
    "power_w",
)
# The columns that never decrease while one server runs.
COUNTERS = COLUMNS[COLUMNS.index("requests") : COLUMNS.index("pending")]

# https://github.com/triton-inference-server/server/blob/main/docs/user_guide/metrics.md
_PENDING = "nv_inference_pending_request_count"
_GPU_METRICS = {
    "nv_gpu_utilization": "utilisation",
    "nv_gpu_memory_used_bytes": "memory_used_bytes",
    "nv_gpu_memory_total_bytes": "memory_total_bytes",
    "nv_gpu_power_usage": "power_w",
}

Row = dict[str, Any]
Metrics = Mapping[str, list[tuple[dict[str, str], float]]]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A server's statistics at one moment.

    Parameters
    ----------
    server_id
        The server's ``--id``, which is unique among those that hermes starts.
    rows
        A row for each model and each GPU.
    """

    server_id: str
    rows: list[Row]

    def is_of_another_server(self, before: Sample) -> bool:
        """Return whether the server was replaced: its id differs, or a counter is lower."""
        known = {_key(row): row for row in before.rows}
        return self.server_id != before.server_id or any(
            row.get(counter, 0) < known.get(_key(row), {}).get(counter, 0)
            for row in self.rows
            for counter in COUNTERS
        )


def parse_metrics(text: str) -> Metrics:
    """Return the labels and the value of each sample in a page of metrics, by metric.

    Raises
    ------
    ValueError
        The text is not in Prometheus' format.
    """
    samples: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name].append((sample.labels, sample.value))
    return samples


def model_rows(
    statistics: Iterable[Any], metrics: Metrics, member_of: Mapping[str, Iterable[str]]
) -> list[Row]:
    """Return a row for each version of each model.

    Parameters
    ----------
    statistics
        The ``model_stats`` of a ``ModelStatisticsResponse``.
    metrics
        The result of `parse_metrics`; empty if the server has no metrics.
    member_of
        The ensembles that a model is a step of, by its name.
    """
    pending = {
        (labels.get("model"), labels.get("version")): value
        for labels, value in metrics.get(_PENDING, ())
    }
    return [
        {
            "kind": "model",
            "name": model.name,
            "version": model.version,
            "member_of": " ".join(sorted(member_of.get(model.name, ()))),
            "requests": model.inference_stats.success.count,
            "failures": model.inference_stats.fail.count,
            "inferences": model.inference_count,
            "executions": model.execution_count,
            "queue_s": model.inference_stats.queue.ns / 1e9,
            "compute_input_s": model.inference_stats.compute_input.ns / 1e9,
            "compute_infer_s": model.inference_stats.compute_infer.ns / 1e9,
            "compute_output_s": model.inference_stats.compute_output.ns / 1e9,
            "pending": _whole(pending.get((model.name, model.version))),
        }
        for model in statistics
    ]


def gpu_rows(metrics: Metrics) -> list[Row]:
    """Return a row for each GPU, named by its UUID; without numbers where Triton has none yet.

    It asks the driver for the first time two seconds after its start, and says 0 until then, of
    the GPU's memory too.
    """
    rows: dict[str, Row] = {}
    for metric, column in _GPU_METRICS.items():
        for labels, value in metrics.get(metric, ()):
            uuid = labels.get("gpu_uuid", "")
            row = rows.setdefault(uuid, {"kind": "gpu", "name": uuid})
            row[column] = _whole(value) if column.endswith("_bytes") else value
    return [
        row if row.get("memory_total_bytes") else {"kind": "gpu", "name": uuid}
        for uuid, row in rows.items()
    ]


def _key(row: Row) -> tuple[Any, ...]:
    return row["kind"], row["name"], row.get("version")


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
