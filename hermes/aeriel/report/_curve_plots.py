"""Curves of a classifier: ROC, precision and recall, calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hermes.aeriel.report._layout import legend_above
from hermes.aeriel.report._words import fixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LEGEND = 6
# Of more classes than fit a legend as many are named, the worst ones.
MAX_NAMED = 4
MAX_PAIRS = 3

Curves = Sequence[Mapping[str, Any]]


def draw_roc(figure: Figure, curves: Curves) -> None:
    """Draw the ROC of each class."""
    axes = figure.add_subplot()

    def draw(curve: Mapping[str, Any], **how: Any) -> None:
        axes.plot(curve["false_positive_rate"], curve["true_positive_rate"], **how)

    _draw_curves(curves, draw, "auc", "AUC")
    axes.plot([0, 1], [0, 1], color="C6", linewidth=0.7, linestyle=":")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    _finish(figure, axes)


def draw_roc_pair(figure: Figure, both: tuple[Curves, Curves]) -> None:
    """Draw the ROC of two models, of the classes whose areas differ most; the baseline's dashed."""
    axes = figure.add_subplot()
    classes = {curve["class"]: curve for curve in both[1]}
    pairs = [(curve, classes[curve["class"]]) for curve in both[0] if curve["class"] in classes]
    pairs.sort(key=lambda pair: -abs(float(pair[0]["auc"]) - float(pair[1]["auc"])))
    for index, pair in enumerate(pairs[:MAX_PAIRS]):
        for curve, line, what in zip(pair, ("-", "--"), ("", ", baseline"), strict=True):
            axes.plot(
                curve["false_positive_rate"],
                curve["true_positive_rate"],
                color=f"C{index}",
                linestyle=line,
                label=f"{curve['name']}{what}: AUC {fixed(curve['auc'])}",
            )
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
        legend_above(figure, 2)
