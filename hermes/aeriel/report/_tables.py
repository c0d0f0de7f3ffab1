"""The tables of a report's page: classes, files and the worst rows."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from hermes.aeriel.report._words import NOTHING, between, class_name, fixed, label, number

MAX_FILES = 100
MAX_CLASSES = 100
HIGH_IS_GOOD = "accuracy"
CLASSES = ("target", "predicted", "baseline_predicted")


def class_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return name, rows, recall, precision and F1 of each class, those of the lowest F1 first."""
    names = report.get("class_names") or []
    rows = [
        {
            "name": class_name(names, index),
            "rows": facts["rows"],
            "cells": [
                _cell(facts["recall"]),
                _cell(facts["precision"]),
                _cell({"value": facts["f1"]}),
            ],
            "f1": _finite(facts["f1"]),
        }
        for index, facts in enumerate(report.get("classes") or [])
    ]
    return (
        sorted(rows, key=lambda row: row["f1"])[:MAX_CLASSES] if len(rows) > MAX_CLASSES else rows
    )


def measured_files(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of each file's metrics, the worst first; nothing of a single file."""
    files = report.get("file_metrics") or []
    names = [name for name in report.get("metrics") or {} if any(name in file for file in files)]
    if len(files) < 2 or not names:
        return {}
    by = names[0]
    sign = 1 if by.endswith(HIGH_IS_GOOD) else -1
    ordered = sorted(files, key=lambda file: sign * abs(_finite(file[by]["value"])))
    paths = [str(file["file"]) for file in files]
    folder = common_folder(paths)
    return {
        "heads": [label(name) for name in names],
        "folder": folder,
        "n_files": len(files),
        "rows": [
            {
                "file": below(folder, str(file["file"])),
                "rows": file["rows"],
                "cells": [_cell(file.get(name) or {}) for name in names],
            }
            for file in ordered[:MAX_FILES]
        ],
    }


def compared_metrics(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return, for each metric, its value, the baseline's, and the difference with an interval."""
    metrics = (report.get("comparison") or {}).get("metrics") or {}
    return [
        {
            "name": label(name),
            "value": fixed(facts["value"]),
            "baseline": fixed(facts["baseline"]),
            "difference": _cell({**facts, "value": facts["difference"]}),
        }
        for name, facts in metrics.items()
    ]


def row_table(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the table of rows that are named one by one: the worst, or those that changed."""
    if not rows:
        return {}
    names = report.get("class_names") or []
    links = {file.get("file"): file.get("predictions") for file in report.get("inputs") or []}
    folder = common_folder([str(row["file"]) for row in rows])
    heads = [key for key in rows[0] if key not in {"file", "row", "merged_row"}]
    of_classes = bool(report.get("classes"))
    return {
        "heads": [key.replace("_", " ").capitalize() for key in heads],
        "folder": folder,
        "rows": [
            {
                "file": below(folder, str(row["file"])),
                "link": links.get(row["file"]),
                "row": row["row"],
                "merged_row": row["merged_row"],
                "cells": [
                    class_name(names, row[key])
                    if of_classes and key in CLASSES
                    else number(row[key])
                    if key in {"output", *CLASSES}
                    else fixed(row[key])
                    for key in heads
                ],
            }
            for row in rows
        ],
    }


def common_folder(paths: Sequence[str]) -> str:
    """Return the folder that all files are in; an empty text where they are in several."""
    folders = {os.path.dirname(path) for path in paths}  # noqa: PTH120 (a string may be any path)
    return folders.pop() if len(folders) == 1 else ""


def below(folder: str, path: str) -> str:
    """Return the path of a file below a folder."""
    return path[len(folder) :].lstrip("/") if folder else path


def _cell(facts: Mapping[str, Any]) -> dict[str, str]:
    if "value" not in facts or math.isnan(float(facts["value"])):
        return {"value": NOTHING, "interval": ""}
    return {
        "value": fixed(facts["value"]),
        "interval": between((facts["low"], facts["high"])) if "low" in facts else "",
    }


def _finite(value: Any) -> float:
    return math.inf if math.isnan(float(value)) else float(value)
