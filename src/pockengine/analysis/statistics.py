"""How sure a measured difference is, and what is best believed of it.

Each quantity is the difference of two measurements with the same seed, and there are few seeds. So
the spread is pooled over all quantities, which are measured in the same way. Intervals are
Student's.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pockengine.extras import require

CONFIDENCE = 0.9
Key = TypeVar("Key")


@dataclass(frozen=True)
class Interval:
    """A mean of `count` values and the interval that holds its expectation with CONFIDENCE."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


@dataclass(frozen=True)
class Spread:
    """The standard deviation of a difference, infinite where nothing repeats, and its degrees of
    freedom.
    """

    deviation: float
    freedom: int

    def interval(self, values: Sequence[float]) -> Interval:
        """The interval of the mean of some values."""
        mean, count = float(np.mean(values)), len(values)
        if not self.freedom:
            return Interval(mean, -math.inf, math.inf, count)
        stats = require("scipy.stats", "SciPy", "analysis", "an analysis")
        quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, self.freedom)
        half = float(quantile) * self.deviation / math.sqrt(count)
        return Interval(mean, mean - half, mean + half, count)


def spread_of(differences: Iterable[Sequence[float]]) -> Spread:
    """The spread of a difference of two measurements, from several differences to the same one.

    differences[i][s] = effect i + noise of i with seed s - noise of what all are compared with

    The last term is the same for all with one seed, so it is taken off with the mean of each seed;
    what is left is the noise of one measurement, and a difference has twice its variance. Only
    what was measured with every seed counts.

    >>> spread_of([[1.0, 3.0], [5.0, 5.0], [7.0]])
    Spread(deviation=1.4142135623730951, freedom=1)
    """
    rows = [list(values) for values in differences]
    seeds = max(map(len, rows), default=1)
    table = np.array([values for values in rows if len(values) == seeds]).reshape(-1, seeds)
    freedom = (len(table) - 1) * (seeds - 1)
    if freedom < 1:
        return Spread(math.inf, 0)
    left = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    return Spread(math.sqrt(2 * float(np.square(left).sum()) / freedom), freedom)


def shrunk(measured: Mapping[Key, Sequence[float]], spread: Spread) -> dict[Key, float]:
    """The expectation of each mean, drawn towards the mean of all by as much as it is noise.

    Half of a difference's variance is of what all are compared with, and does not tell them apart.
    The largest of many noisy means is too large; without this a search picks noise. The variance
    between quantities is what is left of the means' variance after that of the noise (empirical
    Bayes; Efron and Morris, "Stein's estimation rule and its competitors", 1973).
    """
    means = {name: float(np.mean(values)) for name, values in measured.items()}
    if len(means) < 2 or not math.isfinite(spread.deviation):
        return means
    noise = {name: spread.deviation**2 / 2 / len(values) for name, values in measured.items()}
    centre = float(np.mean(list(means.values())))
    between = float(np.var(list(means.values()), ddof=1)) - float(np.mean(list(noise.values())))
    kept = {name: max(between, 0.0) / (max(between, 0.0) + noise[name] + 1e-300) for name in means}
    return {name: centre + kept[name] * (mean - centre) for name, mean in means.items()}
