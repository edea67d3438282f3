"""Optimizers, as formulas in the graph: p, g, states -> p', states'.

Each is PyTorch's formula. What an optimizer remembers of a parameter is a State of the shape of
what is trained of it; what it remembers of time is one scalar for all. With a running sum c' = b *
c + (1 - b), c = 1 - b^step is the bias correction of Adam, without a power and without
cancellation.
"""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pockengine.errors import InputError
from pockengine.ir.op import Value
from pockengine.ops.build import add, clip, div, minimum, mul, reduce_sum, sign, sqrt, sub

Values = Mapping[str, Value]
Updated = tuple[Value, dict[str, Value]]


@dataclass(frozen=True)
class Group:
    """Settings of parameters whose name matches a glob: another decay, a multiple of the rate."""

    pattern: str
    weight_decay: float | None = None
    lr_scale: float = 1.0

    def matches(self, name: str) -> bool:
        return fnmatch.fnmatchcase(name, self.pattern)


@dataclass(frozen=True)
class Optimizer:
    """Base class. The first group that matches a parameter counts for it."""

    weight_decay: float = field(default=0.0, kw_only=True)
    groups: tuple[Group, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(self.groups))
        _require(self, "weight_decay", self.weight_decay >= 0, "at least 0")

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the states that each trained tensor has, all zero at first."""
        return ()

    @property
    def clocks(self) -> tuple[str, ...]:
        """Names of the scalar states that all share, all zero at first."""
        return ()

    def tick(self, clocks: Values) -> dict[str, Value]:
        """The new values of the scalar states, from the old."""
        return {}

    def update(self, p: Value, g: Value, slots: Values, clocks: Values, lr: Value) -> Updated:
        """The new parameter and the new slots, from old slots and new clocks."""
        raise NotImplementedError(f"{type(self).__name__}.update")

    def for_param(self, name: str) -> tuple["Optimizer", float]:
        """The optimizer of one parameter, and the multiple of the rate that it gets."""
        for group in self.groups:
            if group.matches(name):
                decay = self.weight_decay if group.weight_decay is None else group.weight_decay
                return replace(self, weight_decay=decay), group.lr_scale
        return self, 1.0

    def _decayed(self, g: Value, p: Value) -> Value:
        """g + weight_decay * p, the gradient of an L2 penalty."""
        return add(g, mul(p, self.weight_decay)) if self.weight_decay else g

    def _shrunk(self, p: Value, lr: Value) -> Value:
        """p * (1 - lr * weight_decay), decay apart from the gradient."""
        return mul(p, sub(1.0, mul(lr, self.weight_decay))) if self.weight_decay else p


@dataclass(frozen=True)
class SGD(Optimizer):
    """m' = momentum * m + (1 - dampening) * g, p' = p - lr * m'; the first m' is g."""

    momentum: float = 0.0
    nesterov: bool = False
    dampening: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self, "momentum", 0 <= self.momentum < 1, "in [0, 1)")
        _require(self, "dampening", 0 <= self.dampening <= 1, "in [0, 1]")
        plain = self.momentum > 0 and self.dampening == 0
        _require(self, "nesterov", plain or not self.nesterov, "used with momentum, undampened")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    @property
    def clocks(self) -> tuple[str, ...]:
        return ("step",) if self.momentum and self.dampening else ()

    def tick(self, clocks: Values) -> dict[str, Value]:
        return {name: add(step, 1.0) for name, step in clocks.items()}

    def update(self, p: Value, g: Value, slots: Values, clocks: Values, lr: Value) -> Updated:
        g = self._decayed(g, p)
        if not self.momentum:
            return sub(p, mul(lr, g)), {}
        added = g
        if self.dampening:
            later = minimum(sub(clocks["step"], 1.0), 1.0)  # 0 at the first step, then 1
            added = mul(g, sub(1.0, mul(later, self.dampening)))
        m = add(mul(slots["momentum"], self.momentum), added)
        direction = add(g, mul(m, self.momentum)) if self.nesterov else m
        return sub(p, mul(lr, direction)), {"momentum": m}


@dataclass(frozen=True)
class Adam(Optimizer):
    """p' = p - lr * (m / c1) / (sqrt(v / c2) + eps), with moving averages m of g and v of g^2."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_betas(self, self.betas)
        _require(self, "eps", self.eps > 0, "over 0")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    @property
    def clocks(self) -> tuple[str, ...]:
        return ("correction1", "correction2")

    def tick(self, clocks: Values) -> dict[str, Value]:
        pairs = zip(clocks.items(), self.betas, strict=True)
        return {name: add(mul(c, beta), 1 - beta) for (name, c), beta in pairs}

    def update(self, p: Value, g: Value, slots: Values, clocks: Values, lr: Value) -> Updated:
        return self._step(p, self._decayed(g, p), slots, clocks, lr)

    def _step(self, p: Value, g: Value, slots: Values, clocks: Values, lr: Value) -> Updated:
        m = _average(slots["exp_avg"], g, self.betas[0])
        v = _average(slots["exp_avg_sq"], mul(g, g), self.betas[1])
        root = add(div(sqrt(v), sqrt(clocks["correction2"])), self.eps)
        step = mul(div(lr, clocks["correction1"]), div(m, root))
        return sub(p, step), {"exp_avg": m, "exp_avg_sq": v}


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with the decay apart from the gradient: first p is multiplied by 1 - lr * decay."""

    weight_decay: float = field(default=1e-2, kw_only=True)

    def update(self, p: Value, g: Value, slots: Values, clocks: Values, lr: Value) -> Updated:
        return self._step(self._shrunk(p, lr), g, slots, clocks, lr)


@dataclass(frozen=True)
class Lion(Optimizer):
    """p' = p * (1 - lr * decay) - lr * sign(b1 * m + (1 - b1) * g); m' = b2 * m + (1 - b2) * g."""

    betas: tuple[float, float] = (0.9, 0.99)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_betas(self, self.betas)

    @property
    def slots(self) -> tuple[str, ...]:
        return ("exp_avg",)

    def update(self, p: Value, g: Value, slots: Values, clocks: Values, lr: Value) -> Updated:
        direction = sign(_average(slots["exp_avg"], g, self.betas[0]))
        m = _average(slots["exp_avg"], g, self.betas[1])
        return sub(self._shrunk(p, lr), mul(lr, direction)), {"exp_avg": m}


OPTIMIZERS: Mapping[str, type[Optimizer]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "lion": Lion,
}


def as_optimizer(spec: Optimizer | str) -> Optimizer:
    """An optimizer, or the one of that name with its default settings."""
    if isinstance(spec, Optimizer):
        return spec
    if spec not in OPTIMIZERS:
        raise InputError(f"no optimizer is named {spec!r}; there are {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[spec]()


def _average(mean: Value, x: Value, beta: float) -> Value:
    return add(mul(mean, beta), mul(x, 1 - beta))


def _check_betas(op: Optimizer, betas: tuple[float, float]) -> None:
    _require(op, "betas", len(betas) == 2 and all(0 <= b < 1 for b in betas), "two in [0, 1)")


def _require(op: object, name: str, holds: bool, expected: str) -> None:
    if not holds:
        came = getattr(op, name)
        raise InputError(f"{type(op).__name__}: {name} must be {expected}, got {came}")


# Clipping


@dataclass(frozen=True)
class ClipNorm:
    """Scales gradients so that their L2 norm, of all or of each tensor, is at most `limit`.

    The norm of all together needs every gradient before the first is applied, so that all of them
    live at once; per tensor, each is still applied and freed as soon as it exists.
    """

    limit: float
    per_tensor: bool = False

    def __post_init__(self) -> None:
        _require(self, "limit", self.limit > 0, "over 0")

    def apply(self, gradients: Values) -> dict[str, Value]:
        """The clipped gradients."""
        squares = {name: reduce_sum(mul(g, g)) for name, g in gradients.items()}
        if self.per_tensor:
            return {n: mul(g, self._scale(squares[n])) for n, g in gradients.items()}
        total, *rest = squares.values()
        for square in rest:
            total = add(total, square)
        scale = self._scale(total)
        return {name: mul(g, scale) for name, g in gradients.items()}

    def _scale(self, square: Value) -> Value:
        return minimum(div(self.limit, add(sqrt(square), 1e-6)), 1.0)


@dataclass(frozen=True)
class ClipValue:
    """Limits every element of every gradient to [-limit, limit]."""

    limit: float

    def __post_init__(self) -> None:
        _require(self, "limit", self.limit > 0, "over 0")

    def apply(self, gradients: Values) -> dict[str, Value]:
        """The clipped gradients."""
        return {name: clip(g, -self.limit, self.limit) for name, g in gradients.items()}


Clip = ClipNorm | ClipValue
