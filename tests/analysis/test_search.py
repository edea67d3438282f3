"""The search against brute force: exact by the additive model, within budgets by the planner."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from pockengine.analysis.climb import within
from pockengine.analysis.cost import Cost
from pockengine.analysis.evolution import evolve
from pockengine.analysis.exact import Limits, gain, optimum
from pockengine.analysis.search import RatedScheme, find, front, unbeaten
from pockengine.analysis.space import Need, Option, Reach, Space, extra_memory, whole_program
from pockengine.errors import MemoryBudgetError
from pockengine.scheme import UpdateScheme

HEAD = UpdateScheme({"head": 1.0})


def random_space(seed: int, tensors: int = 5, blocks: int = 4) -> Space:
    rng = np.random.default_rng(seed)
    biases = [
        Option(f"biases {k}", UpdateScheme({f"b{k}": 1.0}) if k else None, blocks - k, 0.01 * k, k)
        for k in range(0, blocks + 1, 2)
    ]
    groups = []
    for t in range(tensors):
        block = int(rng.integers(0, blocks))
        groups.append(
            tuple(
                Option(
                    f"t{t}@{ratio}",
                    UpdateScheme({f"t{t}": ratio}),
                    block,
                    float(rng.uniform(0.0, 0.05)) * ratio**0.5,
                    int(rng.integers(10, 200) * ratio),
                    float(rng.uniform(0.1, 1.0)) * ratio * 1e-3,
                )
                for ratio in (0.25, 0.5, 1.0)
            )
        )
    reaches = tuple(
        Reach(b, 1000 + 150 * (blocks - b), 1200 if b % 2 else 0, 1e-3 * (1 + blocks - b))
        for b in range(blocks + 1)
    )
    return Space(HEAD, (tuple(biases), *groups), reaches)


def every_choice(space: Space) -> list[tuple[Option, ...]]:
    groups = [[*space.groups[0]], *([None, *group] for group in space.groups[1:])]
    return [tuple(o for o in row if o is not None) for row in itertools.product(*groups)]


def additive(space: Space) -> "dict[str, Cost]":
    return {space.scheme(c).to_json(): as_cost(space.need(c)) for c in every_choice(space)}


def as_cost(need: Need) -> Cost:
    return Cost(need.nbytes, 0, need.seconds, need.train_bytes)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("memory,seconds", [(1400, None), (None, 4e-3), (1700, 6e-3)])
def test_the_optimum_is_that_of_brute_force(
    seed: int, memory: int | None, seconds: float | None
) -> None:
    space = random_space(seed)
    fitting = [c for c in every_choice(space) if within(space.need(c), memory, seconds)]
    best = max(map(gain, fitting))
    chosen = optimum(space, Limits(memory, seconds))
    assert chosen is not None and within(space.need(chosen), memory, seconds)
    assert gain(chosen) == pytest.approx(best, abs=1e-9)
    evolved = evolve(space, Limits(memory, seconds))
    assert evolved is not None and within(space.need(evolved), memory, seconds)
    assert gain(evolved) >= 0.85 * best


@pytest.mark.parametrize("seed", range(6))
def test_a_planner_that_differs_from_the_model_is_obeyed(seed: int) -> None:
    """What is found fits by the planner's word, and is near the best that fits by it."""
    space = random_space(seed)
    rng = np.random.default_rng(seed)
    modelled = additive(space)
    real = {
        key: Cost(
            int(cost.memory_bytes * rng.uniform(0.95, 1.08)), 0, cost.step_seconds, cost.train_bytes
        )
        for key, cost in modelled.items()
    }

    def ask(schemes: Sequence[UpdateScheme]) -> list[Cost]:
        return [real[scheme.to_json()] for scheme in schemes]

    started = time.perf_counter()
    found = find(space, ask, memory=1600, seconds=5e-3)
    assert time.perf_counter() - started < 30
    assert within(whole_program(found.cost), 1600, 5e-3) and found.cost == real[found.to_json()]
    assert found.gain <= found.bound
    best = max(
        gain(c)
        for c in every_choice(space)
        if within(whole_program(real[space.scheme(c).to_json()]), 1600, 5e-3)
    )
    assert found.gain >= 0.7 * best
    assert found.gain == pytest.approx(sum(value for _, value in found.reasons))
    assert "no scheme has more than" in found.explain()


def test_with_an_exact_model_the_bound_is_met() -> None:
    space = random_space(7)
    modelled = additive(space)
    found = find(space, lambda s: [modelled[x.to_json()] for x in s], memory=1500)
    best = max(gain(c) for c in every_choice(space) if space.need(c).nbytes <= 1500)
    assert found.gain == pytest.approx(best) == pytest.approx(found.bound)


def test_where_the_planner_lets_more_fit_the_bound_is_that_of_no_budget() -> None:
    """The model finds nothing, or less than fits: its optimum bounds nothing."""
    space = random_space(5)
    most = max(map(gain, every_choice(space)))

    def ask(schemes: Sequence[UpdateScheme]) -> list[Cost]:
        return [Cost(900, 0, 1e-3, 900) for _ in schemes]

    found = find(space, ask, memory=950)
    assert found.gain <= found.bound == pytest.approx(most)
    assert optimum(space, Limits(950)) is None


@pytest.mark.parametrize("limit", [1400, 1800])
def test_a_budget_for_another_measure(limit: int) -> None:
    """Of extra memory, say, whatever the whole program takes."""
    space = replace(random_space(2), measure=extra_memory)
    costs = {
        space.scheme(c).to_json(): Cost(10**9, need.nbytes, need.seconds, 10**9)
        for c in every_choice(space)
        if (need := space.need(c))
    }
    found = find(space, lambda s: [costs[x.to_json()] for x in s], memory=limit)
    best = max(gain(c) for c in every_choice(space) if space.need(c).nbytes <= limit)
    assert found.gain == pytest.approx(best) and found.cost.extra_bytes <= limit
    assert found.cost.memory_bytes == 10**9


def test_an_impossible_budget_is_refused_with_the_least_that_would_do() -> None:
    space = random_space(0)
    modelled = additive(space) | {HEAD.to_json(): Cost(1000, 0, 1e-3)}

    def ask(schemes: Sequence[UpdateScheme]) -> list[Cost]:
        return [modelled[x.to_json()] for x in schemes]

    with pytest.raises(MemoryBudgetError, match=r"budget of 999 bytes.* takes 1,000, the least"):
        find(space, ask, memory=999)
    with pytest.raises(MemoryBudgetError, match=r"step of 0.5 ms.* takes 1 ms, the least"):
        find(space, ask, seconds=5e-4)
    assert find(space, ask, memory=1000).cost.memory_bytes <= 1000


def test_of_equals_one_is_left_and_what_is_beaten_goes() -> None:
    def rated(gain: float, nbytes: int, seconds: float) -> RatedScheme:
        return RatedScheme(HEAD, gain, Cost(nbytes, 0, seconds, nbytes))

    good, small, quick = rated(0.3, 200, 2.0), rated(0.1, 100, 2.0), rated(0.1, 200, 1.0)
    given = [quick, rated(0.1, 150, 2.0), good, small, rated(0.3, 200, 2.0), rated(0.2, 300, 2.0)]
    assert unbeaten(random_space(0), given) == (small, quick, good)


def test_no_point_of_the_front_is_beaten() -> None:
    space = random_space(3)
    modelled = additive(space)
    points = front(space, lambda s: [modelled[x.to_json()] for x in s])
    assert len(points) > 3
    for a, b in itertools.permutations(points, 2):
        worse = a.gain < b.gain or a.cost.memory_bytes > b.cost.memory_bytes
        assert worse or a.cost.step_seconds > b.cost.step_seconds or a == b
    assert max(p.gain for p in points) == pytest.approx(max(map(gain, every_choice(space))))
