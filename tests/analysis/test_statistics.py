"""Intervals hold what they claim, and shrinking takes noise off."""

import math

import numpy as np
import pytest

from pockengine.analysis.statistics import CONFIDENCE, Spread, shrunk, spread_of


def differences(
    rng: np.random.Generator, effects: np.ndarray, seeds: int, noise: float
) -> list[list[float]]:
    """What an analysis measures: each effect with noise of its own, less the start's noise."""
    own = effects[:, None] + rng.normal(0, noise, (len(effects), seeds))
    return (own - rng.normal(0, noise, seeds)).tolist()


def test_the_spread_is_that_of_a_difference() -> None:
    rng = np.random.default_rng(0)
    found = spread_of(differences(rng, rng.normal(0, 50, 2000), 3, noise=2.0))
    assert found.deviation == pytest.approx(2.0 * math.sqrt(2), rel=0.05)
    assert found.freedom == 2 * 1999


@pytest.mark.parametrize("seeds,tensors", [(2, 10), (3, 20)])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds: int, tensors: int) -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(2000):
        rows = differences(rng, np.zeros(tensors), seeds, noise=1.0)
        interval = spread_of(rows).interval(rows[0])
        held += interval.low <= 0.0 <= interval.high
    assert held / 2000 == pytest.approx(CONFIDENCE, abs=0.02)


def test_nothing_repeated_means_nothing_known() -> None:
    spread = spread_of([[1.0], [2.0]])
    interval = spread.interval([1.0])
    assert (interval.low, interval.high) == (-math.inf, math.inf)
    assert shrunk({"a": [1.0], "b": [2.0]}, spread) == {"a": 1.0, "b": 2.0}


def test_shrinking_comes_nearer_to_the_truth_and_keeps_the_order() -> None:
    rng = np.random.default_rng(2)
    truth = dict(enumerate(rng.normal(0, 0.5, 200)))
    rows = differences(rng, np.array(list(truth.values())), 2, noise=1.0)
    shared = np.mean(rows) - np.mean(list(truth.values()))  # the start's, which no shrinking finds
    measured = dict(enumerate((np.array(rows) - shared).tolist()))
    better = shrunk(measured, spread_of(rows))
    plain = {name: float(np.mean(values)) for name, values in measured.items()}

    def error(found: dict[int, float]) -> float:
        return sum((found[name] - truth[name]) ** 2 for name in truth)

    assert error(better) < 0.6 * error(plain)
    assert sorted(better, key=better.__getitem__) == sorted(plain, key=plain.__getitem__)


def test_means_that_are_noise_alone_become_one() -> None:
    measured = {"a": [1.0, -1.0], "b": [0.5, -0.4], "c": [-1.0, 1.1]}
    found = shrunk(measured, Spread(5.0, 3))
    assert max(found.values()) == pytest.approx(min(found.values()))
