"""The best scheme of a space under budgets, by integer programming (HiGHS, through SciPy).

For each block that the backward pass may reach, a knapsack with one choice in each group:

    maximise    sum gain x          x in {0, 1}
    subject to  sum of each group's x <= 1, and = 1 for the biases
                train_bytes(reach) + sum train_bytes x <= memory
                seconds(reach)     + sum seconds x     <= seconds

The best of these is the optimum of the additive model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pockengine.analysis.space import Choice, Option, Reach, Space
from pockengine.extras import require
from pockengine.runtime.program import Array

SCALE = 1e-6  # bytes to megabytes, for the solver's tolerances


@dataclass(frozen=True)
class Limits:
    """Budgets; None for no limit. `excess` is what the estimate of bytes is off by, by block."""

    nbytes: int | None = None
    seconds: float | None = None
    excess: Mapping[int, int] = field(default_factory=dict)

    def scaled(self, share: float) -> "Limits":
        """A share of the budgets."""
        nbytes = None if self.nbytes is None else int(share * self.nbytes)
        return Limits(nbytes, self.seconds and share * self.seconds, self.excess)


def optimum(space: Space, limits: Limits) -> Choice | None:
    """The options of the largest gain within the limits; None where none fits."""
    found = [best for reach in space.reaches if (best := _reaching(space, reach, limits))]
    return max(found, key=gain, default=None)


def gain(chosen: Choice) -> float:
    """The sum of gains."""
    return sum(option.gain for option in chosen)


def _reaching(space: Space, reach: Reach, limits: Limits) -> Choice | None:
    """The best of what goes no deeper than a block."""
    if limits.nbytes is not None and reach.floor > limits.nbytes:
        return None
    allowed = [[o for o in group if o.block >= reach.block] for group in space.groups]
    options = [o for group in allowed for o in group]
    if not allowed[0]:
        return None
    result = _optimize().milp(
        -np.array([o.gain for o in options]),
        integrality=np.ones(len(options)),
        bounds=_optimize().Bounds(0, 1),
        constraints=[*_choices(allowed), *_budgets(options, reach, limits)],
        options={"mip_rel_gap": 0.0},
    )
    if result.x is None:
        return None
    return tuple(o for o, taken in zip(options, result.x, strict=True) if taken > 0.5)


def _optimize() -> Any:
    return require("scipy.optimize", "SciPy", "analysis", "the search for a scheme")


def _choices(groups: list[list[Option]]) -> list[Any]:
    """At most one of each group, exactly one of the first."""
    owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    rows = (owner == np.arange(len(groups))[:, None]).astype(float)
    least: Array = np.zeros(len(groups))
    least[0] = 1
    return [_optimize().LinearConstraint(rows, least, np.ones(len(groups)))]


def _budgets(options: list[Option], reach: Reach, limits: Limits) -> list[Any]:
    found = []
    if limits.nbytes is not None:
        left = limits.nbytes - reach.train_bytes - limits.excess.get(reach.block, 0)
        sizes = np.array([[o.train_bytes for o in options]]) * SCALE
        found.append(_optimize().LinearConstraint(sizes, -np.inf, left * SCALE))
    if limits.seconds is not None:
        left_seconds = limits.seconds - reach.seconds
        times = np.array([[o.seconds for o in options]])
        found.append(_optimize().LinearConstraint(times * 1e3, -np.inf, left_seconds * 1e3))
    return found
