"""Intervals hold what they claim, and shrinking takes noise off."""

import math

import numpy as np
import pytest

from pockengine.analysis.statistics import CONFIDENCE, Spread, pooled, shrunk


def test_the_pooled_spread_is_that_of_the_noise() -> None:
    rng = np.random.default_rng(0)
    groups = [rng.normal(mean, 2.0, 3) for mean in rng.normal(0, 50, 2000)]
    found = pooled(groups)
    assert found.deviation == pytest.approx(2.0, rel=0.05)
    assert found.freedom == 4000


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        groups = [rng.normal(5.0, 1.0, 2) for _ in range(4)]
        interval = pooled(groups).interval(groups[0])
        held += interval.low <= 5.0 <= interval.high
    assert held / 400 == pytest.approx(CONFIDENCE, abs=0.045)


def test_nothing_repeated_means_nothing_known() -> None:
    spread = pooled([[1.0], [2.0]])
    interval = spread.interval([1.0])
    assert (interval.low, interval.high) == (-math.inf, math.inf)
    assert shrunk({"a": [1.0], "b": [2.0]}, spread) == {"a": 1.0, "b": 2.0}


def test_shrinking_comes_nearer_to_the_truth_and_keeps_the_order() -> None:
    rng = np.random.default_rng(2)
    truth = dict(enumerate(rng.normal(0, 0.5, 200)))
    measured = {name: rng.normal(value, 1.0, 2).tolist() for name, value in truth.items()}
    better = shrunk(measured, pooled(measured.values()))
    plain = {name: float(np.mean(values)) for name, values in measured.items()}

    def error(found: dict[int, float]) -> float:
        return sum((found[name] - truth[name]) ** 2 for name in truth)

    assert error(better) < 0.6 * error(plain)
    assert sorted(better, key=better.__getitem__) == sorted(plain, key=plain.__getitem__)


def test_means_that_are_noise_alone_become_one() -> None:
    measured = {"a": [1.0, -1.0], "b": [0.5, -0.4], "c": [-1.0, 1.1]}
    found = shrunk(measured, Spread(5.0, 3))
    assert max(found.values()) == pytest.approx(min(found.values()))
