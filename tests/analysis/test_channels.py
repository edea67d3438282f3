"""Other channels in the place of those of the largest norm, as many."""

import numpy as np
import small_task

import pockengine as pe
from pockengine.analysis.channels import by_chance, by_score

GRAPH = small_task.graph()
NAME, OTHER = "2.0.conv.weight", "2.1.conv.weight"


def indices(scheme: pe.UpdateScheme, name: str) -> tuple[int, ...]:
    channels = scheme.resolve(GRAPH)[name]
    assert channels is not None
    return channels.indices


def test_the_channels_of_the_largest_score() -> None:
    scheme = pe.UpdateScheme({NAME: 0.5, OTHER: 0.25})
    found = by_score(GRAPH, scheme, {NAME: np.array([0, 9, 1, 8, 2, 7, 3, 6.0])})
    assert indices(found, NAME) == (1, 3, 5, 7)
    assert found.shares[OTHER] == 0.25  # has no score


def test_of_equal_scores_the_earlier() -> None:
    found = by_score(GRAPH, pe.UpdateScheme({NAME: 0.25}), {NAME: np.ones(8)})
    assert indices(found, NAME) == (0, 1)


def test_what_is_trained_whole_stays_whole() -> None:
    scheme = pe.UpdateScheme({NAME: 1.0, "5.bias": 1.0})
    assert by_score(GRAPH, scheme, {NAME: np.arange(8.0)}).shares == scheme.shares
    assert by_chance(GRAPH, scheme, 0).shares == scheme.shares


def test_the_norm_as_a_score_is_the_rule_of_ratios() -> None:
    scheme = pe.UpdateScheme({NAME: 0.5})
    norms = np.square(np.asarray(GRAPH.data[NAME], np.float64)).sum((0, 2))
    assert indices(by_score(GRAPH, scheme, {NAME: norms}), NAME) == indices(scheme, NAME)


def test_chance_is_the_same_for_the_same_seed() -> None:
    scheme = pe.UpdateScheme({NAME: 0.5, OTHER: 0.5})
    drawn = [by_chance(GRAPH, scheme, seed) for seed in range(8)]
    assert drawn[3] == by_chance(GRAPH, scheme, 3)
    assert len({indices(found, NAME) for found in drawn}) > 4
    assert any(indices(found, NAME) != indices(found, OTHER) for found in drawn)
    assert all(len(indices(found, NAME)) == 4 for found in drawn)
