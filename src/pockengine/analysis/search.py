"""Which scheme brings the most within a memory and a time budget.

    additive model -> exact optimum (exact.py), evolution (evolution.py) -> asked of the planner

The model says what to try, the planner says what it takes: after each try the model's estimate is
corrected for the depth that was tried, and what is returned has been planned and fits. The gain is
a prediction; `check` (check.py) trains the scheme for real.
"""

import math
from dataclasses import dataclass, field, replace

from pockengine.analysis.cost import Cost
from pockengine.analysis.evolution import evolve
from pockengine.analysis.exact import Limits, gain, optimum
from pockengine.analysis.space import Ask, Option, Space
from pockengine.errors import MemoryBudgetError
from pockengine.scheme import UpdateScheme

ROUNDS = 8  # of correcting the model
MOST_CHANGES, NEIGHBOURS = 8, 16  # of a choice, one after the other; planned for each
SLACK = 1.03  # how far over a budget an estimate may be that is worth planning
LEVELS = 10  # budgets between the least and the most that the front is made of


@dataclass(frozen=True)
class FrontPoint:
    """A scheme that no other one of the front beats in gain, memory and time together."""

    scheme: UpdateScheme
    gain: float
    cost: Cost


@dataclass(frozen=True)
class FoundScheme(UpdateScheme):
    """The scheme that a search chose, and why: what it adds to training the head alone.

    `gain` is predicted, in the metric's unit; no scheme of the additive model within the same
    budgets gains more than `bound`. `reasons` has the gain of each part.
    """

    gain: float = 0.0
    bound: float = 0.0
    cost: Cost = field(default_factory=Cost)
    reasons: tuple[tuple[str, float], ...] = ()
    front: tuple[FrontPoint, ...] = field(default=(), repr=False)

    def explain(self) -> str:
        """Why these parts: a table of their gains, and what all of them take."""
        width = max(len(label) for label, _ in self.reasons)
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
    """The best scheme within the budgets: bytes of the whole program, seconds of a step.

    Raises MemoryBudgetError when not even the head alone fits, with the least that would do.
    """
    _check_possible(space, ask, memory, seconds)
    limits = Limits(memory, seconds)
    best = _Best(space, ask, memory, seconds)
    bound = -math.inf
    for _ in range(ROUNDS):
        chosen = optimum(space, limits)
        if chosen is None:
            break
        bound = max(bound, gain(chosen))
        if not best.is_new(chosen):
            break
        best.try_(chosen)
        limits = best.corrected(limits, chosen)
    rival = evolve(space, limits)
    if rival is not None:
        best.try_(rival)
    best.improve()
    return best.found(max(bound, best.gain))


class _Best:
    """The best of what was tried and fits, and what is learned from what did not."""

    def __init__(self, space: Space, ask: Ask, memory: int | None, seconds: float | None) -> None:
        self._space, self._ask = space, ask
        self._memory, self._seconds = memory, seconds
        least = (max(space.groups[0], key=lambda option: option.block),)
        self._chosen: tuple[Option, ...] = least
        self._known: dict[tuple[str, ...], Cost] = {}

    @property
    def gain(self) -> float:
        return gain(self._chosen)

    def is_new(self, chosen: tuple[Option, ...]) -> bool:
        return _key(chosen) not in self._known

    def try_(self, chosen: tuple[Option, ...]) -> None:
        """Plans a choice, and keeps it if it fits and is the best so far."""
        fits = within(self._cost(chosen), self._memory, self._seconds)
        if fits and gain(chosen) >= self.gain:
            self._chosen = chosen

    def improve(self) -> None:
        """Changes one or two groups at a time, as long as that gains something and fits."""
        for _ in range(MOST_CHANGES):
            before = self.gain
            for chosen in self._neighbours():
                self.try_(chosen)
                if self.gain > before:
                    break
            else:
                return

    def _neighbours(self) -> list[tuple[Option, ...]]:
        """The choices of more gain that differ in one or two groups, the most promising first.

        Some fit by the estimate, and some are only just over: the planner may see it otherwise.
        """
        single = [c for group in self._space.groups for c in self._changed(self._chosen, group)]
        double = [
            c for one in single for group in self._space.groups for c in self._changed(one, group)
        ]
        found = {_key(c): c for c in [*single, *double] if gain(c) > self.gain + 1e-12}
        ranked = sorted((c for c in found.values() if self.is_new(c)), key=gain, reverse=True)
        fitting = [c for c in ranked if self._over(c) <= 1.0]
        close = [c for c in ranked if 1.0 < self._over(c) <= SLACK]
        return sorted([*fitting[:NEIGHBOURS], *close[:NEIGHBOURS]], key=gain, reverse=True)

    def _changed(
        self, chosen: tuple[Option, ...], group: tuple[Option, ...]
    ) -> list[tuple[Option, ...]]:
        """The choices with another option of a group, or with none where it may have none."""
        others = tuple(o for o in chosen if o not in group)
        found = [(*others, option) for option in group if option not in chosen]
        needed = group is self._space.groups[0]
        return found if needed or len(others) == len(chosen) else [*found, others]

    def _over(self, chosen: tuple[Option, ...]) -> float:
        """The estimate's largest share of a budget."""
        estimate = self._space.cost(chosen)
        memory = estimate.memory_bytes / self._memory if self._memory else 0.0
        return max(memory, estimate.step_seconds / self._seconds if self._seconds else 0.0)

    def corrected(self, limits: Limits, chosen: tuple[Option, ...]) -> Limits:
        """The limits, with what the estimate of this choice was off by, in bytes and seconds."""
        cost, estimate = self._cost(chosen), self._space.cost(chosen)
        block = self._space.reach(chosen).block
        excess = cost.train_bytes - estimate.train_bytes
        slow = max(0.0, cost.step_seconds - estimate.step_seconds)
        seconds = None if self._seconds is None else self._seconds - slow
        return replace(limits, seconds=seconds, excess={**limits.excess, block: excess})

    def found(self, bound: float) -> FoundScheme:
        chosen = self._chosen
        scheme = self._space.scheme(chosen)
        reasons = tuple((option.label, option.gain) for option in chosen)
        return FoundScheme(
            scheme.shares,
            self._space.model,
            gain=self.gain,
            bound=bound,
            cost=self._cost(chosen),
            reasons=reasons,
        )

    def _cost(self, chosen: tuple[Option, ...]) -> Cost:
        key = _key(chosen)
        if key not in self._known:
            (self._known[key],) = self._ask([self._space.scheme(chosen)])
        return self._known[key]


def _key(chosen: tuple[Option, ...]) -> tuple[str, ...]:
    return tuple(sorted(option.label for option in chosen))


def front(space: Space, ask: Ask) -> tuple[FrontPoint, ...]:
    """Schemes for budgets from the least to the most, those that another one beats left out."""
    least, most = (space.cost(c) for c in _extremes(space))
    choices: dict[tuple[str, ...], tuple[Option, ...]] = {}
    for level in range(LEVELS + 1):
        share = level / LEVELS
        nbytes = least.memory_bytes + share * (most.memory_bytes - least.memory_bytes)
        seconds = least.step_seconds + share * (most.step_seconds - least.step_seconds)
        for limits in (Limits(nbytes=math.ceil(nbytes)), Limits(seconds=seconds)):
            if (chosen := optimum(space, limits)) is not None:
                choices[_key(chosen)] = chosen
    schemes = [space.scheme(chosen) for chosen in choices.values()]
    points = [
        FrontPoint(scheme, gain(chosen), cost)
        for scheme, chosen, cost in zip(schemes, choices.values(), ask(schemes), strict=True)
    ]
    kept = [p for p in points if not any(_beats(other, p) for other in points)]
    return tuple(sorted(kept, key=lambda p: p.cost.memory_bytes))


def within(cost: Cost, memory: int | None, seconds: float | None) -> bool:
    """Whether a cost is within the budgets."""
    fits = memory is None or cost.memory_bytes <= memory
    return fits and (seconds is None or cost.step_seconds <= seconds)


def _extremes(space: Space) -> tuple[tuple[Option, ...], tuple[Option, ...]]:
    """The least that may be chosen, and the most."""
    least = (max(space.groups[0], key=lambda option: option.block),)
    deepest = min(space.groups[0], key=lambda option: option.block)
    largest = (max(group, key=lambda option: option.nbytes) for group in space.groups[1:])
    return least, (deepest, *largest)


def _beats(a: FrontPoint, b: FrontPoint) -> bool:
    """Whether `a` is nowhere worse than `b`, and somewhere better."""

    def key(p: FrontPoint) -> tuple[float, float, float]:
        return -p.gain, p.cost.memory_bytes, p.cost.step_seconds

    return key(a) != key(b) and all(x <= y for x, y in zip(key(a), key(b), strict=True))


def _check_possible(space: Space, ask: Ask, memory: int | None, seconds: float | None) -> None:
    (least,) = ask([space.head])
    if memory is not None and least.memory_bytes > memory:
        raise MemoryBudgetError(
            f"no scheme fits a memory budget of {memory:,} bytes: training the head alone takes "
            f"{least.memory_bytes:,}, the least that would do. Use a smaller batch, or compute it "
            "in parts (micro_batch)"
        )
    if seconds is not None and least.step_seconds > seconds:
        raise MemoryBudgetError(
            f"no scheme fits a step of {1e3 * seconds:.3g} ms: training the head alone takes "
            f"{1e3 * least.step_seconds:.3g} ms, the least that would do. Use a smaller batch"
        )
