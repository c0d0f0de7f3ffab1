"""Bootstrap intervals of metrics, from sums over groups of rows.

Rows are resampled one by one where there are few, and in runs of consecutive rows where there are
many (`GroupSums.bounds`): the interval is the same for independent rows, and honest where the
rows that follow each other are alike (Künsch, H. R. (1989), Ann. Stat. 17, 1217).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from hermes.aeriel.metrics._groups import GroupSums, Interval
from hermes.aeriel.metrics._pairs import Floats

N_REPLICATES = 1000
SEED = 0
# Fewer groups than this are too few to resample.
MIN_GROUPS = 20
LEVELS = (0.025, 0.975)


class Resampling:
    """The groups that each replicate draws, the same for all metrics and models.

    Parameters
    ----------
    n_groups
        How many groups there are to draw from.
    """

    def __init__(self, n_groups: int) -> None:
        random = np.random.default_rng(SEED)
        # float32 has every count, and half the bytes.
        self.weights = np.empty((N_REPLICATES, n_groups), np.float32)
        for weights in self.weights:
            drawn = random.integers(0, n_groups, n_groups)
            weights[:] = np.bincount(drawn, minlength=n_groups)

    def sums(self, sums: Floats) -> Floats:
        """Return sums over groups as sums over the groups of each replicate."""
        result: Floats = self.weights.astype(np.float64) @ sums
        return result


def metric_replicates(name: str, groups: GroupSums, resampling: Resampling) -> Floats | None:
    """Return a metric of each replicate, shape (replicates,); None where sums do not give it."""
    value = _OF_SUMS.get(name, _mean)
    n_rows = resampling.sums(np.diff(groups.bounds).astype(np.float64))
    needed = _NEEDED.get(name, (name,))
    if any(each not in groups.sums for each in needed):
        return None
    return value(n_rows, *(resampling.sums(groups.sums[each]) for each in needed))


def interval_of(replicates: Floats) -> Interval:
    """Return the percentile interval of 95 %; a replicate without a value, NaN, does not count."""
    low, high = np.nanquantile(replicates, LEVELS)
    return [float(low), float(high)]


def metric_intervals(names: Mapping[str, float], groups: GroupSums) -> dict[str, Interval]:
    """Return the interval of each metric that has one, by name."""
    if groups.n_groups < MIN_GROUPS:
        return {}
    resampling = Resampling(groups.n_groups)
    found = {name: metric_replicates(name, groups, resampling) for name in names}
    return {name: interval_of(values) for name, values in found.items() if values is not None}


def _mean(n_rows: Floats, total: Floats) -> Floats:
    return total / n_rows


def _rmse(n_rows: Floats, squared: Floats) -> Floats:
    result: Floats = np.sqrt(squared / n_rows[:, None]).mean(axis=1)
    return result


def _r2(n_rows: Floats, squared: Floats, deviation: Floats, deviation_squared: Floats) -> Floats:
    total = deviation_squared - deviation**2 / n_rows[:, None]
    # As the metric itself: a target that is constant in a replicate is 1 when met exactly, else 0.
    constant = total <= 1e-12 * deviation_squared
    ratio = squared / np.where(constant, 1, total)
    result: Floats = np.where(constant, squared == 0, 1 - ratio).mean(axis=1)
    return result


_NEEDED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"rmse": ("squared",), "r2": ("squared", "deviation", "deviation_squared")}
)
_OF_SUMS: Mapping[str, Callable[..., Floats]] = MappingProxyType({"rmse": _rmse, "r2": _r2})
