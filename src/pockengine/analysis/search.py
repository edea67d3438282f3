"""Which scheme brings the most within a memory and a time budget.

    additive model -> exact optimum (exact.py), evolution (evolution.py) -> asked of the planner

The model says what to try, the planner says what it takes: after each try the model's estimate is
corrected for the depth that was tried, and what is returned has been planned and fits. The gain is
a prediction; `check` (check.py) trains the scheme for real.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pockengine.analysis.climb import Planned, climb, key
from pockengine.analysis.cost import Cost
from pockengine.analysis.evolution import evolve
from pockengine.analysis.exact import Limits, gain, optimum
from pockengine.analysis.space import Ask, Choice, Space
from pockengine.errors import MemoryBudgetError
from pockengine.scheme import UpdateScheme

ROUNDS = 8  # of correcting the model
TIGHTER = (0.9, 0.8)  # shares of the budgets that other starts are chosen for
STARTS = 4  # that are bettered by small changes
LEVELS = 10  # budgets between the least and the most that the front is made of


@dataclass(frozen=True)
class RatedScheme:
    """A scheme with its predicted gain over training the head alone, and its cost."""

    scheme: UpdateScheme
    gain: float
    cost: Cost


@dataclass(frozen=True)
class FoundScheme(UpdateScheme):
    """The scheme that a search chose, and why: what it adds to training the head alone.

    `gain` is predicted, in the metric's unit; no scheme of the additive model within the same
    budgets gains more than `bound`. `reasons` has the gain of each part. No scheme of the `front`
    is beaten by another one in gain, memory and time together.
    """

    gain: float = 0.0
    bound: float = 0.0
    cost: Cost = field(default_factory=Cost)
    reasons: tuple[tuple[str, float], ...] = ()
    front: tuple[RatedScheme, ...] = field(default=(), repr=False)

    def explain(self) -> str:
        """Why these parts: a table of their gains, and what all of them take."""
        width = max(len(label) for label, _ in (*self.reasons, ("no scheme has more than", 0)))
        lines = [f"{label:{width}}  {value:+8.4f}" for label, value in self.reasons]
        lines.append(f"{'together, predicted':{width}}  {self.gain:+8.4f}")
        lines.append(f"{'no scheme has more than':{width}}  {self.bound:+8.4f}")
        lines.append(f"{'memory':{width}}  {self.cost.memory_bytes:,} bytes")
        if self.cost.step_seconds:
            lines.append(f"{'a step':{width}}  {1e3 * self.cost.step_seconds:.2f} ms")
        return "\n".join(lines)


def find(
    space: Space, ask: Ask, memory: int | None = None, seconds: float | None = None
) -> FoundScheme:
    """The best scheme within the budgets: bytes, by the space's measure, and seconds of a step.

    Raises MemoryBudgetError when not even the head alone fits, with the least that would do.
    """
    _check_possible(space, ask, memory, seconds)
    planned = Planned(space, ask, memory, seconds)
    tried, bound = _modelled(planned)
    fitting = [least(space), *(chosen for chosen in tried if planned.fits(chosen))]
    starts = sorted(fitting, key=gain, reverse=True)[:STARTS]
    best = max((climb(planned, start) for start in starts), key=gain)
    if gain(best) > bound + 1e-9:  # the planner lets more fit than the model thought
        bound = _most(space)
    return _found(planned, best, max(bound, gain(best)))


def _most(space: Space) -> float:
    """What no scheme exceeds, whatever it may take."""
    biases, *tensors = (max(option.gain for option in group) for group in space.groups)
    return biases + sum(max(0.0, most) for most in tensors)


def _modelled(planned: Planned) -> tuple[list[Choice], float]:
    """What the model would choose, corrected by the planner again and again; the model's optimum.

    And what it would choose of less than the budgets, and what evolution finds.
    """
    space, limits = planned.space, Limits(planned.memory, planned.seconds)
    found: list[Choice] = []
    bound = -math.inf
    for _ in range(ROUNDS):
        chosen = optimum(space, limits)
        if chosen is None or chosen in found:
            break
        bound = max(bound, gain(chosen))
        found.append(chosen)
        limits = _corrected(planned, limits, chosen)
    others = [optimum(space, limits.scaled(share)) for share in TIGHTER]
    others += [evolve(space, limits, seed) for seed in range(2)]
    return [*found, *(chosen for chosen in others if chosen is not None)], bound


def _corrected(planned: Planned, limits: Limits, chosen: Choice) -> Limits:
    """The limits, with what the estimate of this choice was off by, in bytes and seconds."""
    need, estimate = planned.need(chosen), planned.space.need(chosen)
    block = planned.space.reach(chosen).block
    excess = need.train_bytes - estimate.train_bytes
    slow = max(0.0, need.seconds - estimate.seconds)
    seconds = None if planned.seconds is None else planned.seconds - slow
    return replace(limits, seconds=seconds, excess={**limits.excess, block: excess})


def _found(planned: Planned, chosen: Choice, bound: float) -> FoundScheme:
    return FoundScheme(
        planned.space.scheme(chosen).shares,
        planned.space.model,
        gain=gain(chosen),
        bound=bound,
        cost=planned.cost(chosen),
        reasons=tuple((o.label, o.gain) for o in chosen if o.scheme is not None),
    )


def front(space: Space, ask: Ask) -> tuple[RatedScheme, ...]:
    """Schemes for budgets from the least to the most, those that another one beats left out."""
    low, high = (space.need(c) for c in _extremes(space))
    choices: dict[tuple[str, ...], Choice] = {}
    for level in range(LEVELS + 1):
        share = level / LEVELS
        nbytes = low.nbytes + share * (high.nbytes - low.nbytes)
        seconds = low.seconds + share * (high.seconds - low.seconds)
        for limits in (Limits(nbytes=math.ceil(nbytes)), Limits(seconds=seconds)):
            if (chosen := optimum(space, limits)) is not None:
                choices[key(chosen)] = chosen
    schemes = [space.scheme(chosen) for chosen in choices.values()]
    points = [
        RatedScheme(scheme, gain(chosen), cost)
        for scheme, chosen, cost in zip(schemes, choices.values(), ask(schemes), strict=True)
    ]
    return unbeaten(space, points)


def unbeaten(space: Space, rated: Sequence[RatedScheme]) -> tuple[RatedScheme, ...]:
    """Those that no other one beats in gain, memory and time together, by memory."""
    by_figures: dict[tuple[float, ...], RatedScheme] = {}
    for scheme in rated:
        need = space.measure(scheme.cost)
        by_figures.setdefault((need.nbytes, need.seconds, -scheme.gain), scheme)
    kept = [own for own in by_figures if not any(_beats(other, own) for other in by_figures)]
    return tuple(by_figures[own] for own in sorted(kept))


def least(space: Space) -> Choice:
    """The least that may be chosen: nothing beside the head, or the fewest biases."""
    return (max(space.groups[0], key=lambda option: option.block),)


def _extremes(space: Space) -> tuple[Choice, Choice]:
    """The least that may be chosen, and the most."""
    deepest = min(space.groups[0], key=lambda option: option.block)
    largest = (max(group, key=lambda option: option.train_bytes) for group in space.groups[1:])
    return least(space), (deepest, *largest)


def _beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether no figure of `a` is larger than that of `b`, and one is smaller."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def _check_possible(space: Space, ask: Ask, memory: int | None, seconds: float | None) -> None:
    (head,) = map(space.measure, ask([space.head]))
    if memory is not None and head.nbytes > memory:
        raise MemoryBudgetError(
            f"no scheme fits a memory budget of {memory:,} bytes: training the head alone takes "
            f"{head.nbytes:,}, the least that would do. Allow that, or search for a smaller batch"
        )
    if seconds is not None and head.seconds > seconds:
        raise MemoryBudgetError(
            f"no scheme fits a step of {1e3 * seconds:.3g} ms: training the head alone takes "
            f"{1e3 * head.seconds:.3g} ms, the least that would do. Allow that, or search for a "
            "smaller batch"
        )
