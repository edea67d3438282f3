"""How sure a measured mean is, and what is best believed of it.

Each quantity is measured with few seeds, so the spread is pooled over all quantities: they are
differences of the same metric, measured in the same way. Intervals are Student's.
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
    """A pooled standard deviation and its degrees of freedom; infinite where nothing repeats."""

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


def pooled(groups: Iterable[Sequence[float]]) -> Spread:
    """The spread of values within groups that were measured in the same way.

    >>> pooled([[1.0, 3.0], [5.0, 5.0], [7.0]])
    Spread(deviation=1.0, freedom=2)
    """
    repeated = [np.asarray(values) for values in groups if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    squares = sum(float(np.square(values - values.mean()).sum()) for values in repeated)
    return Spread(math.sqrt(squares / freedom) if freedom else math.inf, freedom)


def shrunk(measured: Mapping[Key, Sequence[float]], spread: Spread) -> dict[Key, float]:
    """The expectation of each mean, drawn towards the mean of all by as much as it is noise.

    The largest of many noisy means is too large; without this a search picks noise. The variance
    between quantities is what is left of the means' variance after that of the noise (empirical
    Bayes; Efron and Morris, "Stein's estimation rule and its competitors", 1973).
    """
    means = {name: float(np.mean(values)) for name, values in measured.items()}
    if len(means) < 2 or not math.isfinite(spread.deviation):
        return means
    noise = {name: spread.deviation**2 / len(values) for name, values in measured.items()}
    centre = float(np.mean(list(means.values())))
    between = float(np.var(list(means.values()), ddof=1)) - float(np.mean(list(noise.values())))
    kept = {name: max(between, 0.0) / (max(between, 0.0) + noise[name] + 1e-300) for name in means}
    return {name: centre + kept[name] * (mean - centre) for name, mean in means.items()}
