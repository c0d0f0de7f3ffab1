"""What a server did during a validation: its monitor's table in short, and drawn."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.report._layout import legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 240
MAX_MODELS = 6


@dataclass(frozen=True, kw_only=True)
class _Change:
    """What a model did from one time to another."""

    model: str
    is_step: bool
    begin: float
    end: float
    requests: int
    inferences: int
    queue_s: float


def summarise(table: Path, *, since: datetime) -> dict[str, Any] | None:
    """Return the speed and the queue of each model over time, in some hundred steps at most.

    Parameters
    ----------
    table
        What `hermes.aeriel.monitor.ServerMonitor` wrote.
    since
        What happened before is left out.

    Returns
    -------
    dict or None
        ``seconds``, the ends of the steps since the first; and ``models``: by name (with that of
        its ensembles) ``rows_per_s`` and ``queue_ms``, the mean time that a request waited, each
        a list with None where nothing is known. The busiest models only. None where the table is
        not there, or nothing was asked of the server.
    """
    # Read twice rather than kept: a table may be long.
    rows: Counter[str] = Counter()
    ends: set[float] = set()
    begin = math.inf
    for change in _changes(table):
        if change.begin < since.timestamp():
            continue
        rows[change.model] += change.inferences
        begin = min(begin, change.begin)
        ends.add(change.end)
    models = [model for model, count in rows.most_common(MAX_MODELS) if count]
    if not models:
        return None
    n_steps = min(MAX_POINTS, len(ends))
    step_s = (max(ends) - begin) / n_steps
    sums = {model: np.zeros((4, n_steps)) for model in models}
    for change in _changes(table):
        if change.model in sums and change.begin >= since.timestamp():
            middle = (change.begin + change.end) / 2
            step = min(n_steps - 1, int((middle - begin) / step_s))
            seconds = change.end - change.begin
            sums[change.model][:, step] += (
                seconds,
                change.inferences,
                change.requests,
                change.queue_s,
            )
    return {
        "seconds": [(step + 1) * step_s for step in range(n_steps)],
        "models": {
            model: {
                "rows_per_s": _ratios(inferences, seconds),
                "queue_ms": _ratios(1e3 * queue_s, requests),
            }
            for model, (seconds, inferences, requests, queue_s) in sums.items()
        },
    }


def describe_server(table: Path, *, since: datetime) -> dict[str, Any] | None:
    """Return where a server listened, and what it did in all.

    Parameters
    ----------
    table
        What `hermes.aeriel.monitor.ServerMonitor` wrote.
    since
        What happened before is left out.

    Returns
    -------
    dict or None
        ``address``, the last one of the server; ``restarts``; and ``requests`` that succeeded, up
        to its last sample. None where the table is not there, or has nothing from that time on.
    """
    times: dict[str, str] = {}
    address = ""
    for row in _rows(table):
        if row["kind"] == "server" and row["name"]:
            address = row["name"]
        if datetime.fromisoformat(row["time"]) >= since and row["state"] != "unreachable":
            times[row["time"]] = row["state"]
    if not times:
        return None
    _, *later = times.values()
    return {
        "address": address,
        "restarts": later.count("restarted"),
        "requests": sum(
            change.requests
            for change in _changes(table)
            if change.end > since.timestamp() and not change.is_step
        ),
    }


def draw_speed(figure: Figure, monitor: Mapping[str, Any]) -> None:
    """Draw the rows per second of each model over time."""
    _draw(figure, monitor, "rows_per_s", "rows/s")


def draw_queue(figure: Figure, monitor: Mapping[str, Any]) -> None:
    """Draw how long the requests to each model waited, over time."""
    _draw(figure, monitor, "queue_ms", "time in the queue, ms")


def _draw(figure: Figure, monitor: Mapping[str, Any], key: str, label: str) -> None:
    axes: Axes = figure.add_subplot()
    seconds = monitor["seconds"]
    scale, unit = (60.0, "min") if seconds[-1] > 300 else (1.0, "s")
    times = [value / scale for value in seconds]
    marker = "o" if len(times) <= 20 else None
    for model, series in monitor["models"].items():
        values = [float("nan") if value is None else value for value in series[key]]
        axes.plot(times, values, label=model, linewidth=1, marker=marker, markersize=3)
    axes.set(xlabel=f"time, {unit}", ylabel=label)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    legend_above(figure, 2)


def _ratios(above: NDArray[Any], below: NDArray[Any]) -> list[float | None]:
    return [float(a / b) if b else None for a, b in zip(above, below, strict=True)]


def _rows(table: Path) -> Iterator[dict[str, str]]:
    try:
        file = table.open(newline="")
    except OSError:
        return
    with file:
        yield from csv.DictReader(file)


def _changes(table: Path) -> Iterator[_Change]:
    """Yield what each model did from one sample to the next of the same server."""
    before: dict[tuple[str, str], Mapping[str, str]] = {}
    for row in _rows(table):
        if row["kind"] != "model":
            continue
        name = row["name"]
        last = before.get((name, row["version"]))
        before[name, row["version"]] = row
        if last is None or row["state"] == "restarted" or row["time"] <= last["time"]:
            continue
        label = name if row["version"] == "1" else f"{name} version {row['version']}"
        yield _Change(
            model=f"{label} (in {row['member_of']})" if row["member_of"] else label,
            is_step=bool(row["member_of"]),
            begin=datetime.fromisoformat(last["time"]).timestamp(),
            end=datetime.fromisoformat(row["time"]).timestamp(),
            requests=int(row["requests"]) - int(last["requests"]),
            inferences=int(row["inferences"]) - int(last["inferences"]),
            queue_s=float(row["queue_s"]) - float(last["queue_s"]),
        )
