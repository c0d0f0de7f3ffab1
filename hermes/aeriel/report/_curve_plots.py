"""Curves of a classifier: ROC, precision and recall, calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hermes.aeriel.report._words import fixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LEGEND = 6
# Of more classes than fit a legend as many are named, the worst ones.
MAX_NAMED = 4

Curves = Sequence[Mapping[str, Any]]


def draw_roc(figure: Figure, curves: Curves) -> None:
    """Draw the ROC of each class, or of the same classes of two models."""
    axes = figure.add_subplot()

    def draw(curve: Mapping[str, Any], **how: Any) -> None:
        axes.plot(curve["false_positive_rate"], curve["true_positive_rate"], **how)

    _draw_curves(curves, draw, "auc", "AUC")
    axes.plot([0, 1], [0, 1], color="C6", linewidth=0.7, linestyle=":")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    _finish(figure, axes)


def draw_precision_recall(figure: Figure, curves: Curves) -> None:
    """Draw precision over recall of each class."""
    axes = figure.add_subplot()

    def draw(curve: Mapping[str, Any], **how: Any) -> None:
        # Between two thresholds the precision is that of the higher recall, as AP has it.
        axes.plot(curve["recall"], curve["precision"], drawstyle="steps-pre", **how)

    _draw_curves(curves, draw, "average_precision", "AP")
    axes.set(xlabel="recall", ylabel="precision")
    _finish(figure, axes)


def draw_calibration(figure: Figure, calibration: Mapping[str, Any]) -> None:
    """Draw how often scores are right, with intervals, over the scores."""
    axes = figure.add_subplot()
    bins = calibration["bins"]
    scores = [each["mean_score"] for each in bins]
    shares = [each["value"] for each in bins]
    margins = [
        [each["value"] - each["low"] for each in bins],
        [each["high"] - each["value"] for each in bins],
    ]
    axes.plot([0, 1], [0, 1], color="C6", linewidth=0.7, linestyle=":")
    axes.errorbar(scores, shares, margins, marker="o", markersize=4, linewidth=1, capsize=2)
    axes.set(xlabel=calibration["label"], ylabel=f"fraction of {calibration['fraction_of']}")
    _finish(figure, axes)


def _draw_curves(curves: Curves, draw: Callable[..., None], key: str, short: str) -> None:
    named = list(curves)
    if len(curves) > MAX_LEGEND:
        named = sorted(curves, key=lambda curve: float(curve.get(key, 0)))[:MAX_NAMED]
        for curve in curves:
            draw(curve, color="C6", linewidth=0.7)
    for index, curve in enumerate(named):
        value = f": {short} {fixed(curve[key])}" if key in curve else ""
        draw(curve, color=f"C{index}", label=f"{curve['name']}{value}")


def _finish(figure: Figure, axes: Axes) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    if axes.get_legend_handles_labels()[0]:
        # Above the axes: no corner of them is free for every curve.
        figure.legend(loc="outside upper left", ncols=2)
