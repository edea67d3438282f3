"""Betters a choice by small changes, each of which the planner is asked about.

The additive model knows roughly what a change costs; which of two choices near a budget fits, only
the planner knows. So the most promising choices that differ in one or two groups are planned, the
best that fits is taken, and so on until none is better.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pockengine.analysis.cost import Cost
from pockengine.analysis.exact import gain
from pockengine.analysis.space import Ask, Choice, Need, Option, Space

NEIGHBOURS = 12  # that fit by the estimate, and as many that are just over, planned at a time
SLACK = 1.05  # how far over a budget an estimate may be that is worth planning
MOST_PLANNED = 160  # choices in one search


@dataclass
class Planned:
    """What the planner said of the choices that it was asked about, and which fit the budgets."""

    space: Space
    ask: Ask
    memory: int | None
    seconds: float | None
    known: dict[tuple[str, ...], Cost] = field(default_factory=dict)

    def cost(self, chosen: Choice) -> Cost:
        """What a choice takes."""
        self.plan([chosen])
        return self.known[key(chosen)]

    def need(self, chosen: Choice) -> Need:
        """What it takes of the budgets."""
        return self.space.measure(self.cost(chosen))

    def plan(self, choices: Sequence[Choice]) -> None:
        """Asks about those that are not known yet, all at once."""
        new = {key(c): c for c in choices if key(c) not in self.known}
        if new:
            costs = self.ask([self.space.scheme(c) for c in new.values()])
            self.known |= dict(zip(new, costs, strict=True))

    def fits(self, chosen: Choice) -> bool:
        """Whether a choice is within the budgets, by the planner's word."""
        return within(self.need(chosen), self.memory, self.seconds)

    def over(self, chosen: Choice) -> float:
        """The additive estimate's largest share of a budget."""
        estimate = self.space.need(chosen)
        memory = estimate.nbytes / self.memory if self.memory else 0.0
        return max(memory, estimate.seconds / self.seconds if self.seconds else 0.0)


def climb(planned: Planned, chosen: Choice) -> Choice:
    """The choice that small changes lead to from one that fits."""
    while len(planned.known) < MOST_PLANNED:
        tried = _neighbours(planned, chosen)
        planned.plan(tried)
        better = [c for c in tried if planned.fits(c)]
        if not better:
            break
        chosen = max(better, key=gain)
    return chosen


def within(need: Need, memory: int | None, seconds: float | None) -> bool:
    """Whether what is taken is within the budgets."""
    fits = memory is None or need.nbytes <= memory
    return fits and (seconds is None or need.seconds <= seconds)


def key(chosen: Choice) -> tuple[str, ...]:
    """The same for the same options."""
    return tuple(sorted(option.label for option in chosen))


def _neighbours(planned: Planned, chosen: Choice) -> list[Choice]:
    """Choices of more gain that differ in one or two groups and may fit, of the largest gain."""
    groups = planned.space.groups
    single = [c for group in groups for c in _changed(groups, chosen, group)]
    double = [c for one in single for group in groups for c in _changed(groups, one, group)]
    found = {key(c): c for c in [*single, *double] if gain(c) > gain(chosen) + 1e-12}
    ranked = sorted(found.values(), key=gain, reverse=True)
    unseen = [c for c in ranked if key(c) not in planned.known or planned.fits(c)]
    fitting = [c for c in unseen if planned.over(c) <= 1.0]
    close = [c for c in unseen if 1.0 < planned.over(c) <= SLACK]
    return [*fitting[:NEIGHBOURS], *close[:NEIGHBOURS]]


def _changed(groups: Sequence[Choice], chosen: Choice, group: tuple[Option, ...]) -> list[Choice]:
    """The choices with another option of a group, or with none where it may have none."""
    others = tuple(o for o in chosen if o not in group)
    found = [(*others, option) for option in group if option not in chosen]
    needed = group is groups[0]
    return found if needed or len(others) == len(chosen) else [*found, others]
