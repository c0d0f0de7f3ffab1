"""The figures of a report's page, as SVG that takes its colours and fonts from the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from hermes.aeriel.report import _monitor_plot
from hermes.aeriel.report._curve_plots import (
    draw_calibration,
    draw_precision_recall,
    draw_roc,
    draw_roc_pair,
)
from hermes.aeriel.report._layout import SIZE, legend_above, place_axes
from hermes.aeriel.report._words import class_title, latencies

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MINUS = "\N{MINUS SIGN}"
# A confusion matrix of more classes is drawn, one of fewer is a table.
MAX_TABLE_CLASSES = 20

MAX_OUTPUTS = 12

# Drawn in these, then exchanged for variables of the page, which has a light and a dark scheme.
TEXT, LINE, MUTED = "#010203", "#040506", "#070809"
SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
STYLE: dict[Any, Any] = {
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "axes.labelcolor": TEXT,
    # The last is that of what is there to compare with.
    "axes.prop_cycle": f"cycler('color', {[*SERIES, MUTED]})",
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


def draw_plots(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return title and SVG of each plot that the report has the numbers for, by name.

    Raises
    ------
    ImportError
        When matplotlib or markupsafe is not installed.
    """
    curves = report.get("curves") or {}
    matrix = report.get("confusion_matrix") or []
    files = (report.get("throughput") or {}).get("files") or []
    monitor = report.get("monitor")
    names = report.get("class_names") or []

    def named(key: str, of: Mapping[str, Any] = curves) -> list[dict[str, Any]]:
        return [
            {"name": class_title(names, curve["class"]), **curve} for curve in of.get(key) or []
        ]

    baseline = named("roc", (report.get("comparison") or {}).get("curves") or {})

    candidates: list[tuple[str, str, Any, Callable[[Figure, Any], None]]] = [
        ("roc", "ROC", named("roc"), draw_roc),
        (
            "roc_pair",
            "ROC of both models",
            baseline and (named("roc"), baseline),
            draw_roc_pair,
        ),
        (
            "precision_recall",
            "Precision and recall",
            named("precision_recall"),
            draw_precision_recall,
        ),
        ("calibration", "Calibration", curves.get("calibration"), draw_calibration),
        ("scores", "Scores", curves.get("score_histogram"), _draw_scores),
        ("predicted", "Predicted against true", curves.get("predicted_vs_true"), _draw_predicted),
        ("residuals", "Residuals", curves.get("residual_histogram"), _draw_residuals),
        *(
            (f"output_{index}", f"Values of {each['output']}", each["histogram"], _draw_values)
            for index, each in enumerate(report.get("predictions") or [])
            if "histogram" in each and index < MAX_OUTPUTS
        ),
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
    from markupsafe import Markup, escape  # noqa: PLC0415 (comes with jinja2)
    from matplotlib import style  # noqa: PLC0415 (an extra)
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415 (as above)
    from matplotlib.figure import Figure  # noqa: PLC0415 (as above)

    file = StringIO()
    # Not in the style of the user's matplotlibrc, which may want what this host lacks, as LaTeX.
    with style.context(["default", {**STYLE, "svg.hashsalt": name}]):
        figure = Figure(figsize=SIZE)
        place_axes(figure)
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
    body = (
        body.replace(TEXT, "var(--text)")
        .replace(LINE, "var(--line)")
        .replace(MUTED, "var(--muted)")
    )
    for index, colour in enumerate(SERIES):
        body = body.replace(colour, f"var(--series-{index})")
    opening = f'<svg role="img" aria-label="{escape(title)}" {box[0] if box else ""}>'
    return Markup(opening + body)  # noqa: S704 (matplotlib escaped it, and the data are numbers)


def _draw_scores(figure: Figure, histogram: Mapping[str, Any]) -> None:
    axes = figure.add_subplot()
    counts = histogram["counts"]
    for name, values in counts.items():
        _draw_bars(axes, values, histogram["edges"], label=name)
    axes.set(xlabel=histogram["label"], xlim=(0, 1))
    _count_axis(axes, np.concatenate(list(counts.values())))
    legend_above(figure, 2)


def _draw_bars(axes: Axes, counts: Sequence[int], edges: Sequence[float], **how: Any) -> None:
    """Draw a histogram: a pale area that others show through, and an edge in the full colour."""
    area = axes.stairs(counts, edges, fill=True, alpha=0.4, **how)
    axes.stairs(counts, edges, color=area.get_facecolor()[:3], linewidth=1)


def _draw_residuals(figure: Figure, histogram: Mapping[str, Any]) -> None:
    axes = figure.add_subplot()
    _draw_bars(axes, histogram["counts"], histogram["edges"])
    axes.axvline(0, color=TEXT, linewidth=0.7, linestyle=":")
    axes.set(xlabel=f"predicted {MINUS} true")
    axes.locator_params(axis="x", nbins=6)
    _count_axis(axes, np.asarray(histogram["counts"]))


def _draw_values(figure: Figure, histogram: Mapping[str, Any]) -> None:
    axes = figure.add_subplot()
    _draw_bars(axes, histogram["counts"], histogram["edges"])
    axes.set(xlabel="value")
    axes.locator_params(axis="x", nbins=6)
    _count_axis(axes, np.asarray(histogram["counts"]), of="values")


def _draw_predicted(figure: Figure, histogram: Mapping[str, Any]) -> None:
    axes = figure.add_subplot()
    low, high = histogram["edges"][0], histogram["edges"][-1]
    if points := histogram.get("points"):
        axes.plot(points["true"], points["predicted"], "o", markersize=3, alpha=0.7)
    else:
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
    # Points: files are not in an order that a line could follow.
    axes.plot(np.arange(1, len(files) + 1), speeds, "o", markersize=_size(files))
    axes.set(ylabel="rows/s")
    axes.set_ylim(bottom=0)
    _file_axis(axes, len(files))


def _draw_latencies(figure: Figure, files: Sequence[Mapping[str, Any]]) -> None:
    axes = figure.add_subplot()
    found = [latencies(file) for file in files]
    for key in max(found, key=len):
        values = [float(each.get(key, "nan")) for each in found]
        numbers = np.arange(1, len(files) + 1)
        axes.plot(numbers, values, "o", markersize=_size(files), label=key)
    axes.set(ylabel="latency, ms")
    axes.set_ylim(bottom=0)
    legend_above(figure, 3)
    _file_axis(axes, len(files))


def _size(points: Sequence[Any]) -> float:
    return 4 if len(points) <= 50 else 2


def _file_axis(axes: Axes, n_files: int) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 (an extra)

    axes.set(xlabel="file number", xlim=(0.5, n_files + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))


def _count_axis(axes: Axes, counts: Any, of: str = "rows") -> None:
    """Label an axis of counts; in the log where the rare would not be seen."""
    there = counts[counts > 0]
    if len(there) and there.max() > 100 * there.min():
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.set(ylabel=f"{of} (log scale)")
    else:
        axes.set(ylabel=of)
