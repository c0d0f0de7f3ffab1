"""The report of a validation: one JSON-able dict, written as JSON and as a page to read offline."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hermes.errors import MissingExtraError, OutputError
from workflows import _monitor_plot
from workflows._gates import GateResult
from workflows._metrics import MetricsResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCHEMA = 1
NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TEMPLATES = Path(__file__).parent / "templates"
MAX_TABLE_CLASSES = 20
MAX_LEGEND = 8

LABELS = {
    "log_loss": "Log loss",
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "mse": "Mean squared error",
    "mae": "Mean absolute error",
    "r2": "R²",
    "max_absolute_error": "Largest absolute error",
    "reference": "Agreement with expected outputs",
}

# Drawn in these, then exchanged for variables of the page, which has a light and a dark scheme.
TEXT, LINE = "#010203", "#040506"
SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
STYLE: dict[Any, Any] = {
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "axes.labelcolor": TEXT,
    "axes.prop_cycle": f"cycler('color', {list(SERIES)})",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "font.size": 10,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "text.color": TEXT,
    "xtick.color": LINE,
    "xtick.labelcolor": TEXT,
    "ytick.color": LINE,
    "ytick.labelcolor": TEXT,
}


def build_report(
    *,
    title: str,
    model: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    inputs: Sequence[Mapping[str, Any]] = (),
    metrics: MetricsResult | None = None,
    gates: Sequence[GateResult] = (),
    throughput: Mapping[str, Any] | None = None,
    monitor: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    outputs: Mapping[str, str | Path] | None = None,
    notes: Sequence[str] = (),
    directory: Path | None = None,
    created: datetime | None = None,
) -> dict[str, Any]:
    """Return the report as a dict of plain JSON values; a section that was not given is left out.

    Paths become strings, arrays lists, and numbers that JSON lacks the strings ``"NaN"``,
    ``"Infinity"`` and ``"-Infinity"``, which ``float`` reads.

    Parameters
    ----------
    title
        The headline.
    model
        ``name``, ``version``, ``repository``, ``platform``.
    server
        ``version``, ``address``, ``runtime``, ``image``, ``gpus``.
    inputs
        For each file ``file`` and ``rows``.
    metrics
        What `compute_metrics` gave.
    gates
        What `evaluate_gates` gave: the verdict follows from them.
    throughput
        ``rows_per_s``, ``megabytes_per_s``, ``seconds``, ``requests``, ``latency_ms`` (with
        ``p50``, ``p90``, ``p99``), ``retries``, ``failures``; and ``files``, with ``file``,
        ``rows`` and any of these keys for each file.
    monitor
        What `workflows._monitor_plot.summarise` gave.
    parameters, versions
        What was asked for, and what it ran on, by name.
    outputs
        The files that were written, by what they hold.
    notes
        Sentences to the reader; those of the metrics are added.
    directory
        The folder the report is for: paths of outputs are made relative to it.
    created
        When the report was made; now where it is None.

    Returns
    -------
    dict
        ``schema`` (1), ``title``, ``verdict`` (``"passed"``, ``"failed"`` or ``"no
        requirements"``), ``created`` (ISO 8601, UTC), and, where there are any, ``model``,
        ``server``, ``inputs``, ``rows``, ``metrics`` (scalars by name), ``gates`` (``metric``,
        ``operator``, ``threshold``, ``value``, ``passed``, ``margin``, ``text``),
        ``reference``, ``throughput``, ``monitor``, ``parameters``, ``versions``, ``outputs``,
        ``notes``, ``confusion_matrix``, ``curves``.
    """
    verdict = "no requirements"
    if gates:
        verdict = "passed" if all(gate.passed for gate in gates) else "failed"
    paths = {name: os.fspath(path) for name, path in (outputs or {}).items()}
    if directory is not None:
        paths = {name: os.path.relpath(path, directory) for name, path in paths.items()}
    rows = [int(file["rows"]) for file in inputs if "rows" in file]
    sections = {
        "model": model,
        "server": server,
        "inputs": inputs,
        "rows": sum(rows) if rows else metrics and metrics.n_rows,
        "metrics": metrics and metrics.scalars,
        "gates": [gate.to_json() for gate in gates],
        "reference": metrics and metrics.reference,
        "throughput": throughput,
        "monitor": monitor,
        "parameters": parameters,
        "versions": versions,
        "outputs": paths,
        "notes": [*notes, *(metrics.notes if metrics else ())],
        "confusion_matrix": metrics and metrics.confusion_matrix,
        "curves": metrics and metrics.curves,
    }
    when = (created or datetime.now(timezone.utc)).astimezone(timezone.utc)
    report = {
        "schema": SCHEMA,
        "title": title,
        "verdict": verdict,
        "created": when.isoformat(timespec="seconds"),
    } | {name: section for name, section in sections.items() if section}
    return {name: _plain(section) for name, section in report.items()}


def write_report_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report as JSON, whole or not at all.

    Raises
    ------
    OutputError
        When it cannot be written; what was there before stays.
    """
    _write(path, json.dumps(report, indent=2, allow_nan=False) + "\n")


def write_report_html(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report as one HTML page that needs nothing else, whole or not at all.

    Raises
    ------
    MissingExtraError
        When jinja2 or matplotlib is not installed.
    OutputError
        When it cannot be written; what was there before stays.
    """
    _write(path, render_report(report))


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
        "number": _number,
        "duration": _duration,
        "text": _text,
        "label": _label,
        "link": _link,
    }
    template = environment.get_template("report.html")
    return template.render(
        report=report,
        confusion=_confusion_rows(report.get("confusion_matrix")),
        plots=_plots(report),
        files=_file_rows(report.get("throughput") or {}),
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


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            # A path that is no UTF-8 can be in the text; the page need not repeat its bytes.
            beside.write_bytes(text.encode(errors="replace"))
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(path=str(path), problem=error.strerror or str(error)) from error


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


# ----------------------------------------------------------------------- words and numbers


def _number(value: Any) -> str:
    """Return a number with as many digits as a reader wants."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _text(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if 1000 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    # What is not 1 does not read as 1.
    texts = (f"{value:.{digits}g}" for digits in range(4, 18))
    return next((text for text in texts if text not in {"1", "-1"}), repr(value))


def _duration(seconds: float) -> str:
    if not isinstance(seconds, int | float) or seconds < 60:
        return f"{_number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return NOTHING
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value) or NOTHING
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items()) or NOTHING
    return str(value)


def _label(name: str) -> str:
    if match := re.fullmatch(r"top_(\d+)_accuracy", name):
        return f"Top-{match[1]} accuracy"
    return LABELS.get(name, name.replace("_", " ").capitalize())


def _link(path: str) -> str | None:
    """Return a link to a file beside the report; None where it is somewhere else."""
    from urllib.parse import quote  # noqa: PLC0415 (a name of the standard library, used once)

    return None if Path(path).is_absolute() else f"./{quote(path, errors='surrogateescape')}"


def _confusion_rows(matrix: Sequence[Sequence[int]] | None) -> list[list[dict[str, Any]]] | None:
    """Return each count with its share of its row, for a matrix that fits on a page."""
    if not matrix or len(matrix) > MAX_TABLE_CLASSES:
        return None
    return [
        [{"count": count, "share": count / max(1, sum(row))} for count in row] for row in matrix
    ]


def _file_rows(throughput: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of files, with only those columns that some file has."""
    files = throughput.get("files") or []
    columns: list[tuple[str, str, Callable[[Any], str]]] = [
        ("rows", "Rows", _number),
        ("seconds", "Time", _duration),
        ("rows_per_s", "Rows/s", _number),
        ("megabytes_per_s", "MB/s", _number),
        ("latency_ms", "Latency, ms (p50 / p90 / p99)", _latency),
        ("retries", "Retries", _number),
        ("failures", "Failures", _number),
    ]
    there = [column for column in columns if any(column[0] in file for file in files)]
    fastest = max((file.get("rows_per_s") or 0 for file in files), default=0)
    paths = [str(file.get("file", "")) for file in files]
    folders = {os.path.dirname(path) for path in paths}  # noqa: PTH120 (a string may be any path)
    folder = folders.pop() if len(folders) == 1 else ""
    return {
        "folder": folder,
        "heads": [head for _, head, _ in there],
        "rows": [
            {
                "file": path[len(folder) :].lstrip("/") if folder else path,
                "cells": [show(file[key]) if key in file else NOTHING for key, _, show in there],
                "share": (file.get("rows_per_s") or 0) / fastest if fastest else 0,
            }
            for path, file in zip(paths, files, strict=True)
        ],
    }


def _latency(latency: Mapping[str, float]) -> str:
    return " / ".join(_number(latency.get(key)) for key in ("p50", "p90", "p99"))


# ----------------------------------------------------------------------------------- plots


def _plots(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return title and SVG of each plot that the report has the numbers for, by name."""
    curves = report.get("curves") or {}
    matrix = report.get("confusion_matrix") or []
    files = (report.get("throughput") or {}).get("files") or []
    monitor = report.get("monitor")
    candidates: list[tuple[str, str, Any, Callable[[Figure, Any], None]]] = [
        ("roc", "ROC", curves.get("roc"), _draw_roc),
        ("scores", "Scores", curves.get("score_histogram"), _draw_scores),
        ("predicted", "Predicted against true", curves.get("predicted_vs_true"), _draw_predicted),
        ("residuals", "Residuals", curves.get("residual_histogram"), _draw_residuals),
        (
            "confusion",
            "Confusion matrix",
            matrix if len(matrix) > MAX_TABLE_CLASSES else None,
            _draw_confusion,
        ),
        ("speeds", "Speed of each file", _with("rows_per_s", files), _draw_speeds),
        ("latencies", "Latency of each file", _with("latency_ms", files), _draw_latencies),
        ("server_speed", "Speed of the server", monitor, _monitor_plot.draw_speed),
        ("server_queue", "Wait in the server", monitor, _monitor_plot.draw_queue),
    ]
    return {
        name: {"title": title, "svg": _svg(name, title, draw, data)}
        for name, title, data, draw in candidates
        if data
    }


def _with(key: str, files: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]] | None:
    """Return several files of which some have a key; None where there is nothing to compare."""
    return files if len(files) > 1 and any(file.get(key) for file in files) else None


def _svg(name: str, title: str, draw: Callable[[Figure, Any], None], data: Any) -> Any:
    import matplotlib as mpl  # noqa: PLC0415 (an extra)
    from markupsafe import Markup, escape  # noqa: PLC0415 (comes with jinja2)
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    file = StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(4.6, 3.4), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure, data)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    box = re.search(r'viewBox="[^"]*"', svg)
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    # Identifiers are shared by everything on a page, and the fonts are the page's.
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body)
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = body.replace(TEXT, "var(--text)").replace(LINE, "var(--line)")
    opening = f'<svg role="img" aria-label="{escape(title)}" {box[0] if box else ""}>'
    return Markup(opening + body)  # noqa: S704 (matplotlib escaped it, and the data are numbers)


def _draw_roc(figure: Figure, curves: Sequence[Mapping[str, Any]]) -> None:
    axes = figure.add_subplot()
    few = len(curves) <= MAX_LEGEND
    for index, curve in enumerate(curves):
        axes.plot(
            curve["false_positive_rate"],
            curve["true_positive_rate"],
            label=f"class {curve['class']}: AUC {_number(curve['auc'])}",
            color=SERIES[index % len(SERIES)] if few else SERIES[0],
            alpha=1 if few else 0.4,
        )
    axes.plot([0, 1], [0, 1], color=TEXT, linewidth=0.7, linestyle=":")
    axes.set(
        xlabel="false positive rate",
        ylabel="true positive rate",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
    )
    if few:
        axes.legend(loc="lower right")


def _draw_scores(figure: Figure, histogram: Mapping[str, Any]) -> None:
    axes = figure.add_subplot()
    counts = histogram["counts"]
    for name, values in counts.items():
        axes.stairs(values, histogram["edges"], fill=True, alpha=0.55, label=name)
    axes.set(xlabel=histogram["label"], xlim=(0, 1))
    _count_axis(axes, np.concatenate(list(counts.values())))
    figure.legend(loc="outside upper right", ncols=2)


def _draw_residuals(figure: Figure, histogram: Mapping[str, Any]) -> None:
    axes = figure.add_subplot()
    axes.stairs(histogram["counts"], histogram["edges"], fill=True, alpha=0.8)
    axes.axvline(0, color=TEXT, linewidth=0.7, linestyle=":")
    axes.set(xlabel=f"predicted {MINUS} true")
    axes.locator_params(axis="x", nbins=6)
    _count_axis(axes, np.asarray(histogram["counts"]))


def _draw_predicted(figure: Figure, histogram: Mapping[str, Any]) -> None:
    axes = figure.add_subplot()
    low, high = histogram["edges"][0], histogram["edges"][-1]
    counts = np.asarray(histogram["counts"], float).T
    _draw_map(axes, np.log1p(counts), extent=(low, high, low, high), origin="lower")
    axes.plot([low, high], [low, high], color=TEXT, linewidth=0.7, linestyle=":")
    axes.set(xlabel="true", ylabel="predicted")
    axes.locator_params(nbins=6)


def _draw_confusion(figure: Figure, matrix: Sequence[Sequence[int]]) -> None:
    axes = figure.add_subplot()
    counts = np.asarray(matrix, float)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    _draw_map(axes, np.sqrt(shares), extent=None, origin="upper")
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.grid(visible=False)


def _draw_map(axes: Axes, values: Any, *, extent: Any, origin: Any) -> None:
    from matplotlib.colors import to_rgba  # noqa: PLC0415 (an extra)

    # By opacity, so that empty cells are the page in either scheme.
    image = np.empty((*values.shape, 4))
    image[..., :3] = to_rgba(SERIES[0])[:3]
    strength = values / (values.max() or 1)
    image[..., 3] = np.where(values > 0, 0.15 + 0.85 * strength, 0)
    axes.imshow(image, extent=extent, origin=origin, interpolation="none", zorder=1)


def _draw_speeds(figure: Figure, files: Sequence[Mapping[str, Any]]) -> None:
    axes = figure.add_subplot()
    speeds = [float(file.get("rows_per_s") or 0) for file in files]
    axes.stairs(speeds, np.arange(0.5, len(files) + 1), fill=True, alpha=0.8)
    axes.set(ylabel="rows/s")
    _file_axis(axes, len(files))


def _draw_latencies(figure: Figure, files: Sequence[Mapping[str, Any]]) -> None:
    axes = figure.add_subplot()
    marker = "o" if len(files) <= 50 else None
    for key in ("p50", "p90", "p99"):
        values = [float((file.get("latency_ms") or {}).get(key, "nan")) for file in files]
        numbers = np.arange(1, len(files) + 1)
        axes.plot(numbers, values, marker=marker, markersize=3, linewidth=1, label=key)
    axes.set(ylabel="latency, ms")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper right", ncols=3)
    _file_axis(axes, len(files))


def _file_axis(axes: Axes, n_files: int) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 (an extra)

    axes.set(xlabel="file number", xlim=(0.5, n_files + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))


def _count_axis(axes: Axes, counts: Any) -> None:
    """Label an axis of counts; in the log where the rare would not be seen."""
    there = counts[counts > 0]
    if len(there) and there.max() > 100 * there.min():
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.set(ylabel="rows (log scale)")
    else:
        axes.set(ylabel="rows")
