"""Learning rates over time. A schedule called with the step's number, from 0, gives its rate.

schedule = WarmUp(Cosine(1e-2, steps=900), steps=100)
for step, (x, y) in enumerate(batches):
    session.step(x, y, lr=schedule(step))
"""

import math
from dataclasses import dataclass

from pockengine.errors import InputError


@dataclass(frozen=True)
class Constant:
    """The same rate at every step."""

    lr: float

    def __call__(self, step: int) -> float:
        return self.lr


@dataclass(frozen=True)
class Cosine:
    """From `lr` to `end` along half a cosine over `steps`, then `end`."""

    lr: float
    steps: int
    end: float = 0.0

    def __post_init__(self) -> None:
        _require_positive(steps=self.steps)

    def __call__(self, step: int) -> float:
        share = (1 + math.cos(math.pi * min(step / self.steps, 1.0))) / 2
        return self.end + (self.lr - self.end) * share


@dataclass(frozen=True)
class Linear:
    """From `lr` to `end` along a line over `steps`, then `end`."""

    lr: float
    steps: int
    end: float = 0.0

    def __post_init__(self) -> None:
        _require_positive(steps=self.steps)

    def __call__(self, step: int) -> float:
        return self.lr + (self.end - self.lr) * min(step / self.steps, 1.0)


@dataclass(frozen=True)
class Step:
    """`lr`, multiplied by `factor` after every `every` steps."""

    lr: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        _require_positive(every=self.every)

    def __call__(self, step: int) -> float:
        return self.lr * self.factor ** (step // self.every)


Schedule = Constant | Cosine | Linear | Step


@dataclass(frozen=True)
class WarmUp:
    """Rises along a line to the first rate of `then` over `steps`, and goes on with `then`."""

    then: Schedule
    steps: int

    def __post_init__(self) -> None:
        _require_positive(steps=self.steps)

    def __call__(self, step: int) -> float:
        if step < self.steps:
            return self.then(0) * (step + 1) / self.steps
        return self.then(step - self.steps)


def _require_positive(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"a schedule's {name} must be at least 1, got {count}")
