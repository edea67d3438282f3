"""The best scheme of a space under budgets, by evolutionary search, as in the published work.

A genome is one choice in each group (0 for none). In each generation the fitter half of the
population has children, by crossover of two parents and by mutation; a scheme over a budget is
repaired by dropping its poorest options for their cost. It needs no solver, and gives the exact
search something to be compared with.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pockengine.analysis.climb import within
from pockengine.analysis.exact import Limits, gain
from pockengine.analysis.space import Choice, Space
from pockengine.runtime.program import Array

POPULATION, GENERATIONS, MUTATION = 64, 60, 0.08
BYTES_A_SECOND = 1e9  # that make a second of a step weigh as much as bytes, where options compete


def evolve(space: Space, limits: Limits, seed: int = 0) -> Choice | None:
    """The fittest options found; None where nothing fits, not even the head alone."""
    rng = np.random.default_rng(seed)
    sizes = np.array([len(group) + (i > 0) for i, group in enumerate(space.groups)])
    population = rng.integers(0, sizes, (POPULATION, len(sizes)))
    population[0] = 0
    best: Choice | None = None
    for _ in range(GENERATIONS):
        chosen = [_repaired(space, _options(space, genome), limits) for genome in population]
        fitness = np.array([-np.inf if c is None else gain(c) for c in chosen])
        fittest = int(fitness.argmax())
        leader = chosen[fittest]
        if leader is not None and (best is None or gain(leader) > gain(best)):
            best = leader
        parents = population[np.argsort(-fitness, kind="stable")[: POPULATION // 2]]
        population = _children(parents, sizes, rng)
        population[: len(parents) // 4] = parents[: len(parents) // 4]
    return best


def _options(space: Space, genome: Sequence[int] | Array) -> Choice:
    first, *rest = zip(space.groups, genome, strict=True)
    biases = first[0][int(first[1])]
    return (biases, *(group[int(i) - 1] for group, i in rest if i > 0))


def _repaired(space: Space, chosen: Choice, limits: Limits) -> Choice | None:
    """The options without those that could not fit alone, and then without the poorest ones."""
    least = max(space.groups[0], key=lambda o: o.block)
    if not _fits(space, (least,), limits):
        return None
    biases, *others = chosen
    biases = biases if _fits(space, (biases,), limits) else least
    kept = [o for o in others if _fits(space, (least, o), limits)]
    kept.sort(key=lambda o: -o.gain / (o.train_bytes + BYTES_A_SECOND * o.seconds + 1))
    while not _fits(space, (biases, *kept), limits):
        if kept:
            kept.pop()
        else:
            biases = least
    return (biases, *kept)


def _fits(space: Space, chosen: Choice, limits: Limits) -> bool:
    need, reach = space.need(chosen), space.reach(chosen)
    nbytes = max(need.train_bytes + limits.excess.get(reach.block, 0), reach.floor)
    return within(replace(need, nbytes=nbytes), limits.nbytes, limits.seconds)


def _children(parents: Array, sizes: Array, rng: np.random.Generator) -> Array:
    pairs = parents[rng.integers(0, len(parents), (POPULATION, 2))]
    from_first = rng.random((POPULATION, len(sizes))) < 0.5
    mixed = np.where(from_first, pairs[:, 0], pairs[:, 1])
    mutated = rng.random(mixed.shape) < MUTATION
    return np.where(mutated, rng.integers(0, sizes, mixed.shape), mixed)
