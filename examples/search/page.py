"""The page of a search: what was found, and how well."""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO
from string import Template
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

Array = NDArray[Any]

PAGE = Template("""\
<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Search</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
figure { margin: 0; background: #fff; color: #222; border-radius: 6px }
figcaption { padding: 0 1rem 1rem } svg { width: 100%; height: auto; display: block }
main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)) }
:root { color-scheme: light dark }
</style>
<h1>Loudest event: $rank one false alarm in $every</h1>
<p>At GPS $time with a network signal-to-noise ratio of $snr, in $live_time of data of two
detectors. The background is $background_events events in $background_live_time of time slides.
Of $injections injections, $found were louder than all of the background ($threshold).</p>
<main>$figures</main>
</html>
""")


def page_of(
    numbers: Mapping[str, Any],
    background: Array,
    foreground: Array,
    injections: Mapping[str, Array],
    is_found: NDArray[np.bool_],
) -> str:
    """Return the page."""
    figures = [
        (_rates(numbers, background, foreground), "Events at least so loud."),
        (_efficiency(numbers), "Injections found, with the 68 % interval of a binomial share."),
        (_injections(injections, is_found), "Injections found and missed over time."),
    ]
    return PAGE.substitute(
        numbers,
        rank="less than" if numbers["loudest_snr"] > numbers["threshold"] else "about",
        every=_duration(1 / numbers["false_alarm_rate_hz"]),
        time=f"{numbers['loudest_time']:.3f}",
        snr=f"{numbers['loudest_snr']:.2f}",
        threshold=f"{numbers['threshold']:.2f}",
        live_time=_duration(numbers["live_time_s"]),
        background_live_time=_duration(numbers["background_live_time_s"]),
        figures="".join(
            f"<figure>{svg}<figcaption>{text}</figcaption></figure>" for svg, text in figures
        ),
    )


def _rates(numbers: Mapping[str, Any], background: Array, foreground: Array) -> str:
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for values, live_time_s, label, marker in (
        (background, numbers["background_live_time_s"], "time slides", "-"),
        (foreground, numbers["live_time_s"], "no slide", "o"),
    ):
        ranked = np.sort(values)[::-1]
        axes.plot(
            ranked,
            np.arange(1, len(ranked) + 1) * 3600 / live_time_s,
            marker,
            label=label,
            markersize=4,
        )
    axes.set(xlabel="signal-to-noise ratio", ylabel="events per hour", yscale="log")
    axes.legend()
    return _svg(figure)


def _efficiency(numbers: Mapping[str, Any]) -> str:
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    share, low, high = np.transpose(numbers["efficiency"])
    edges = np.asarray(numbers["strengths"])
    axes.errorbar(
        (edges[1:] + edges[:-1]) / 2, share, (share - low, high - share), fmt="o", capsize=3
    )
    axes.set(xlabel="injected signal-to-noise ratio", ylabel="share found", ylim=(-0.03, 1.03))
    return _svg(figure)


def _injections(injections: Mapping[str, Array], is_found: NDArray[np.bool_]) -> str:
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    start = np.floor(injections["time"].min())
    for chosen, marker, label in ((is_found, "o", "found"), (~is_found, "x", "missed")):
        axes.plot(
            injections["time"][chosen] - start, injections["snr"][chosen], marker, label=label
        )
    axes.set(xlabel=f"seconds after GPS {start:.0f}", ylabel="injected signal-to-noise ratio")
    axes.legend(loc="upper right", framealpha=1)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    file = StringIO()
    figure.savefig(file, format="svg")
    return file.getvalue().partition("<svg")[1] + file.getvalue().partition("<svg")[2]


def _duration(seconds: float) -> str:
    for unit, length in (("years", 3.15576e7), ("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} seconds"
