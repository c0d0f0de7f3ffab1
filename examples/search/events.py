"""Events out of ranking statistics: clusters, false-alarm rates and efficiencies."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

Array = NDArray[np.float64]


def cluster(time_s: Array, statistic: Array, gap_s: float) -> NDArray[np.intp]:
    """Return the indices of the events: the loudest of what lies closer together than a gap."""
    order = np.argsort(time_s, kind="stable")
    if not len(order):
        return order
    groups = np.split(order, np.flatnonzero(np.diff(time_s[order]) > gap_s) + 1)
    return np.array([group[np.argmax(statistic[group])] for group in groups])


def false_alarm_rate_hz(statistic: Array, background: Array, live_time_s: float) -> Array:
    """Return how often noise is at least so loud, in events per second.

    One event is added to those of the background: a rate below one in the live time cannot be
    measured.
    """
    louder = len(background) - np.searchsorted(np.sort(background), statistic, side="left")
    return (1 + louder) / live_time_s


def nearest(time_s: Array, events_s: Array, within_s: float) -> NDArray[np.intp]:
    """Return the index of the event nearest to each time; -1 where none is so near."""
    if not len(events_s):
        return np.full(len(time_s), -1)
    distance = np.abs(time_s[:, None] - events_s[None, :])
    index = distance.argmin(axis=1)
    return np.where(distance.min(axis=1) <= within_s, index, -1)


def efficiency(
    found: NDArray[np.bool_], strength: Array, edges: Array
) -> list[tuple[float, float, float]]:
    """Return the share that was found in each bin of strength, and its exact 68 % interval."""
    shares = []
    for low, high in pairwise(edges):
        here = found[(strength >= low) & (strength < high)]
        if not len(here):
            shares.append((np.nan, np.nan, np.nan))
            continue
        interval = binomtest(int(here.sum()), len(here)).proportion_ci(0.68, method="exact")
        shares.append((float(here.mean()), interval.low, interval.high))
    return shares
