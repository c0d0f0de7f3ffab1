"""The page of a report: one HTML file to read offline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hermes.aeriel.report._plots import MAX_TABLE_CLASSES, draw_plots
from hermes.aeriel.report._tables import (
    below,
    class_rows,
    common_folder,
    compared_metrics,
    measured_files,
    row_table,
)
from hermes.aeriel.report._words import (
    LEAST_REQUESTS,
    NOTHING,
    between,
    class_name,
    duration,
    fixed,
    is_set,
    label,
    latencies,
    minus,
    number,
    text,
)
from hermes.errors import MissingExtraError

TEMPLATES = Path(__file__).parent / "templates"


def render_report(report: Mapping[str, Any]) -> str:
    """Return the HTML page of a report, as `build_report` made it or read from its JSON.

    Raises
    ------
    MissingExtraError
        When jinja2 or matplotlib is not installed.
    """
    check_extra()
    import jinja2  # noqa: PLC0415 (an extra)

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "fixed": fixed,
        "duration": duration,
        "text": text,
        "label": label,
        "link": _link,
        "latencies": latencies,
        "between": between,
        "minus": minus,
    }
    environment.tests["set"] = is_set
    template = environment.get_template("report.html")
    return template.render(
        report=report,
        confusion=_confusion_rows(report),
        plots=draw_plots(report),
        files=_file_rows(report.get("throughput") or {}),
        measured=measured_files(report),
        classes=class_rows(report),
        worst=row_table(report, report.get("worst_rows") or []),
        compared=compared_metrics(report),
        changed=row_table(report, (report.get("comparison") or {}).get("changed_rows") or []),
    )


def check_extra() -> None:
    """Check, before anything runs, that what draws the page is installed.

    Raises
    ------
    MissingExtraError
        When jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2  # noqa: F401, PLC0415 (an extra)
        import matplotlib as mpl  # noqa: F401, PLC0415 (an extra)
    except ImportError as error:
        package = (error.name or "matplotlib").partition(".")[0]
        raise MissingExtraError(package=package, extra="report") from error


def _link(path: str) -> str | None:
    """Return a link to a file beside the report; None where it is somewhere else."""
    return None if Path(path).is_absolute() else f"./{quote(path, errors='surrogateescape')}"


def _confusion_rows(report: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return name and cells of each class, for a matrix that fits on a page.

    A cell is a count with its share of its row.
    """
    matrix = report.get("confusion_matrix")
    if not matrix or len(matrix) > MAX_TABLE_CLASSES:
        return None
    names = report.get("class_names") or []
    return [
        {
            "name": class_name(names, index),
            "cells": [{"count": count, "share": count / max(1, sum(row))} for count in row],
        }
        for index, row in enumerate(matrix)
    ]


def _file_rows(throughput: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of files, with only those columns that some file has."""
    files = [
        {**file, **{f"latency_{key}": value for key, value in latencies(file).items()}}
        for file in throughput.get("files") or []
    ]
    columns: list[tuple[str, str, Callable[[Any], str]]] = [
        ("rows", "Rows", number),
        ("seconds", "Time", duration),
        ("rows_per_s", "Rows/s", number),
        ("megabytes_per_s", "MB/s", number),
        *((f"latency_{key}", f"Latency {key}, ms", number) for key in LEAST_REQUESTS),
        ("retries", "Retries", number),
        ("failures", "Failures", number),
    ]
    there = [column for column in columns if any(column[0] in file for file in files)]
    fastest = max((file.get("rows_per_s") or 0 for file in files), default=0)
    paths = [str(file.get("file", "")) for file in files]
    folder = common_folder(paths)
    return {
        "folder": folder,
        "heads": [head for _, head, _ in there],
        "rows": [
            {
                "file": below(folder, path),
                "cells": [show(file[key]) if key in file else NOTHING for key, _, show in there],
                "share": (file.get("rows_per_s") or 0) / fastest if fastest else 0,
            }
            for path, file in zip(paths, files, strict=True)
        ],
    }
