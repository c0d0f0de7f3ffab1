"""Where axes and legends are in a figure.

matplotlib's own layouts draw a figure twice, to measure its texts; here the margins are given.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (4.6, 3.4)
# As parts of the figure: room for labels of six digits, and a legend's row.
LEFT, RIGHT, BOTTOM, TOP = 0.18, 0.97, 0.15, 0.96
LEGEND_ROW = 0.06


def place_axes(figure: Figure) -> None:
    """Leave room for the labels of the axes."""
    figure.subplots_adjust(left=LEFT, right=RIGHT, bottom=BOTTOM, top=TOP)


def legend_above(figure: Figure, n_columns: int) -> None:
    """Put a legend above the axes: no corner of them is free for every curve."""
    legend = figure.legend(
        loc="upper left", bbox_to_anchor=(LEFT - 0.02, 1), borderaxespad=0.2, ncols=n_columns
    )
    n_rows = math.ceil(len(legend.get_texts()) / n_columns)
    figure.subplots_adjust(top=TOP - LEGEND_ROW * n_rows)
