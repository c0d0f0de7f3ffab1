"""The report of a validation: one JSON-able dict, written as JSON and as a page to read offline."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hermes._files import write_whole
from hermes.aeriel.metrics import Comparison, MetricsResult, RequirementResult
from hermes.aeriel.report._page import render_report

SCHEMA = 1


def build_report(
    *,
    title: str,
    warnings: Sequence[str] = (),
    model: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    servers: Sequence[Mapping[str, Any]] = (),
    inputs: Sequence[Mapping[str, Any]] = (),
    slides: Sequence[Mapping[str, Any]] = (),
    predictions: Sequence[Mapping[str, Any]] = (),
    class_names: Sequence[str] = (),
    metrics: MetricsResult | None = None,
    comparison: Comparison | None = None,
    baseline: Mapping[str, Any] | None = None,
    requirements: Sequence[RequirementResult] = (),
    throughput: Mapping[str, Any] | None = None,
    monitor: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    outputs: Mapping[str, str | Path] | None = None,
    directory: Path | None = None,
) -> dict[str, Any]:
    """Return the report as a dict of plain JSON values; a section that was not given is left out.

    Paths become strings, arrays lists, and numbers that JSON lacks the strings ``"NaN"``,
    ``"Infinity"`` and ``"-Infinity"``, which ``float`` reads.

    Parameters
    ----------
    title
        The headline.
    warnings
        Sentences on what is other than a reader may think: the first lines of the page.
    model
        ``name``, ``version``, ``repository``, ``platform``.
    server
        ``version``, ``address``, ``runtime``, ``image``, ``gpus``.
    servers
        What `describe_server` gave of each.
    inputs
        For each file ``file``, ``rows``, and ``not_finite_inputs`` and ``not_finite_outputs``, how
        many values are NaN or infinite, and ``predictions``, the file with its predictions; and
        ``rows_kept``, where rows were left out.
    slides
        For each time slide ``slide``, ``shifts_s`` of the channels, ``rows``, ``rows_kept`` where
        rows were left out, and ``live_time_s``, for how many seconds it looks at all channels.
    predictions
        What `describe_outputs` gave, of a run without targets.
    class_names
        What the classes are called, in order.
    metrics
        What `compute_metrics` gave.
    comparison
        What `compare_predictions` gave.
    baseline
        ``model`` and ``merged_predictions``: what it was compared with.
    requirements
        What `evaluate_requirements` gave: the verdict follows from them.
    throughput
        ``rows_per_s``, ``megabytes_per_s``, ``seconds``, ``requests``, ``latency_ms`` (with
        ``p50``, ``p90``, ``p99``), ``retries``, ``failures``; and ``files``, with ``file``,
        ``rows`` and any of these keys for each file.
    monitor
        What `hermes.aeriel.report._monitor_plot.summarise` gave.
    parameters, versions
        What was asked for, and what it ran on, by name.
    outputs
        The files that were written, by what they hold.
    directory
        The folder the report is for: paths of outputs are made relative to it.

    Returns
    -------
    dict
        ``schema`` (1), ``title``, ``verdict`` (``"passed"``, ``"failed"`` or ``"no
        requirements"``), ``created`` (ISO 8601, UTC), and, where there are any, ``warnings``,
        ``model``, ``server``, ``servers``, ``inputs``, ``slides``, ``rows``, ``rows_kept``,
        ``live_time_s`` (of all slides), ``predictions``, ``metrics`` (scalars by name),
        ``requirements`` (``metric``, ``operator``, ``threshold``, ``value``,
        ``passed``, ``margin``, ``text``),
        ``reference``, ``throughput``, ``monitor``, ``parameters``, ``versions``, ``outputs``,
        ``notes``, ``class_names``, ``confusion_matrix``, ``intervals``, ``classes``,
        ``file_metrics`` and ``worst_rows`` (those of `MetricsResult`, each with its ``file``; the
        worst rows with ``row``, the index in the file, and ``merged_row``), ``comparison`` (that of
        `Comparison`, its rows likewise, and ``baseline``), ``curves``.
    """
    verdict = "no requirements"
    if requirements:
        verdict = "passed" if all(requirement.passed for requirement in requirements) else "failed"

    def relative(path: str | Path) -> str:
        return os.fspath(path) if directory is None else os.path.relpath(path, directory)

    inputs = [
        {**file, "predictions": relative(file["predictions"])} if "predictions" in file else file
        for file in inputs
    ]
    rows = [int(file["rows"]) for file in inputs if "rows" in file]
    sections = {
        "warnings": warnings,
        "model": model,
        "server": server,
        "servers": servers,
        "inputs": inputs,
        "slides": slides,
        "rows": sum(rows) if rows else metrics and metrics.n_rows,
        "predictions": predictions,
        "metrics": metrics and metrics.scalars,
        "requirements": [requirement.to_json() for requirement in requirements],
        "reference": metrics and metrics.reference,
        "throughput": throughput,
        "monitor": monitor,
        "parameters": parameters,
        "versions": versions,
        "outputs": {name: relative(path) for name, path in (outputs or {}).items()},
        "notes": metrics and metrics.notes,
        "class_names": class_names,
        "confusion_matrix": metrics and metrics.confusion_matrix,
        "intervals": metrics and metrics.intervals,
        "classes": metrics and metrics.classes,
        **(_of_files(metrics, inputs) if metrics else {}),
        "comparison": comparison
        and {
            "baseline": baseline,
            "metrics": comparison.metrics,
            "n_newly_right": comparison.n_newly_right,
            "n_newly_wrong": comparison.n_newly_wrong,
            "changed_rows": _with_files(comparison.changed_rows, metrics, inputs),
            "curves": comparison.curves,
        },
        "curves": metrics and metrics.curves,
    }
    report = {
        "schema": SCHEMA,
        "title": title,
        "verdict": verdict,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    } | {name: section for name, section in sections.items() if section}
    live_times = [float(slide["live_time_s"]) for slide in slides if "live_time_s" in slide]
    if live_times:
        report["live_time_s"] = sum(live_times)
    kept = [int(file["rows_kept"]) for file in inputs if "rows_kept" in file]
    if kept:  # also if it is 0
        report["rows_kept"] = sum(kept)
    return {name: _plain(section) for name, section in report.items()}


def write_report_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report as JSON, whole or not at all.

    Raises
    ------
    OutputError
        When it cannot be written; what was there before stays.
    """
    write_whole(path, json.dumps(report, indent=2, allow_nan=False) + "\n")


def write_report_html(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report as one HTML page that needs nothing else, whole or not at all.

    Raises
    ------
    MissingExtraError
        When jinja2 or matplotlib is not installed.
    OutputError
        When it cannot be written; what was there before stays.
    """
    write_whole(path, render_report(report))


def _of_files(
    metrics: MetricsResult, inputs: Sequence[Mapping[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Return the metrics of files and the worst rows, with the files that they are of."""
    if metrics.groups is None or len(metrics.groups.offsets) != len(inputs) + 1:
        return {}
    return {
        "file_metrics": [
            {"file": file["file"], **found}
            for file, found in zip(inputs, metrics.files, strict=True)
            if len(found) > 1
        ],
        "worst_rows": _with_files(metrics.worst_rows, metrics, inputs),
    }


def _with_files(
    rows: Sequence[Mapping[str, Any]],
    metrics: MetricsResult | None,
    inputs: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return facts on rows with the file that each is of, and its index there."""
    groups = None if metrics is None else metrics.groups
    if groups is None or len(groups.offsets) != len(inputs) + 1:
        return []
    found = []
    for facts in rows:
        number = int(np.searchsorted(groups.offsets, facts["row"], "right")) - 1
        row = facts["row"] - int(groups.offsets[number])
        where = {"file": inputs[number]["file"], "row": row, "merged_row": facts["row"]}
        found.append({**where, **_without(facts, "row")})
    return found


def _without(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key != name}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return str(value)
