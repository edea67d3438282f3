"""Every elementwise operator behind a kernel, with broadcast operands, for the compiled law.

All numbers before the operator are multiples of 1/16 that float32 adds exactly, so that comparisons
and rounding give the same on every machine.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from compiled import Case

from pockengine.ir.graph import Graph, Input, leaf
from pockengine.ir.op import Array, Op, Value
from pockengine.ir.types import Shape
from pockengine.ir.verify import verify
from pockengine.ops import OPS
from pockengine.ops import build as b
from pockengine.ops.arithmetic import Cast, Pow
from pockengine.ops.conv import Conv
from pockengine.ops.precision import FromBF16
from pockengine.testing import samples_of

N, H, W = 2, 3, 2
CHANNELS = (12, 33, 8)
POWERS = (0.5, 1.0, 2.0)


@dataclass
class _Maker:
    rng: np.random.Generator
    arrays: dict[str, Array] = field(default_factory=dict)

    def leaf(self, array: Array) -> Value:
        name = f"x{len(self.arrays)}"
        self.arrays[name] = np.asarray(array, np.float32)
        return leaf(Input, name, self.arrays[name])

    def sixteenths(self, *shape: int) -> Value:
        return self.leaf(self.rng.integers(-3, 4, shape) / 4)

    def power(self, shape: Shape, signed: bool) -> Value:
        signs = self.rng.choice((-1.0, 1.0) if signed else (1.0,), shape)
        return self.leaf(self.rng.choice(POWERS, shape) * signs)

    # ---- kernels: [N, H, W, C], exact ----

    def matmul(self, c: int) -> Value:
        product = b.matmul(self.sixteenths(N * H * W, 5), self.sixteenths(5, c))
        return b.reshape(product, (N, H, W, c))

    def conv(self, c: int) -> Value:
        op = Conv((1, 1), ((1, 1), (1, 1)), (1, 1), 1, True)
        return op(self.sixteenths(N, H, W, 3), self.sixteenths(3, 3, 3, c))

    def depthwise(self, c: int) -> Value:
        op = Conv((1, 1), ((1, 1), (1, 1)), (1, 1), c, True)
        return op(self.sixteenths(N, H, W, c), self.sixteenths(3, 3, 1, c))

    # ---- operands ----

    def operand(self, op: Op, kind: str, x: Value) -> Value:
        """x as an operand of `op`: in its domain, or as truth values."""
        if kind == "b":
            return b.greater(x, b.full((), "f32", 0.25))
        return b.clip(x, *_domain(op))


def _domain(op: Op) -> tuple[float, float]:
    """Where the operator is defined: C and NumPy do not say what a negative number is as u8."""
    if isinstance(op, Pow):
        return 0.25, 3.0
    return (0.0, 3.0) if op == Cast("u8") else getattr(op, "domain", (-3.0, 3.0))


def epilogue_cases() -> list[Case]:
    """For each elementwise operator, setting of its fields, and operand to come from a kernel."""
    numbers = count()
    return [
        _case(op, kinds, place, next(numbers))
        for op, kinds in _operators()
        for place in range(len(kinds))
        for _ in range(2 if len(kinds) > 1 else 1)
    ]


def _operators() -> Iterator[tuple[Op, str]]:
    """Elementwise operators, and for each operand f(loat) or b(ool)."""
    seen = set()
    for operator in OPS.values():
        for sample in samples_of(operator, "f32"):
            kinds = "".join(a.dtype.kind for a in sample.arrays)
            single = set(kinds) <= {"f", "b"} and "f64" not in str(sample.op)
            if operator.elementwise and single and (sample.op, kinds) not in seen:
                seen.add((sample.op, kinds))
                yield sample.op, kinds


def _case(op: Op, kinds: str, place: int, number: int) -> Case:
    maker = _Maker(np.random.default_rng(number))
    c = CHANNELS[number // 3 % 3]
    kernels: tuple[Callable[[int], Value], ...] = (maker.matmul, maker.conv, maker.depthwise)
    x = kernels[number % 3](c)
    shapes = ((c,), (N, 1, 1, c), (), (N, H, W, c), (1, H, 1, 1))
    operands = []
    for at, kind in enumerate(kinds):
        other = maker.power(shapes[(number + at) % len(shapes)], not isinstance(op, Pow))
        source = b.mul(x, maker.power((c,), True)) if at == place else other
        within = at == place or kind == "b"
        operands.append(maker.operand(op, kind, source) if within else source)
    y = op(*operands)
    after = _after(maker, y, x)
    graph = Graph((), {"y": y, "after": after} if number % 2 else {"after": after})
    inputs = tuple(graph.leaves(Input).values())
    name = f"{op} of {kinds}, operand {place} from kernel {number % 3}, {c} channels"
    return Case(name, verify(Graph(inputs, graph.outputs)), maker.arrays)


def _after(maker: _Maker, y: Value, x: Value) -> Value:
    """Something that reads the operator's result in the same loop."""
    if y.dtype == "bool":
        return b.where(y, x, b.full((), "f32", 0.5))
    if y.dtype == "bf16":
        return _after(maker, FromBF16()(y), x)
    if y.dtype != "f32":
        return b.add(y, y)
    return b.mul(y, maker.power((N, 1, 1, x.shape[-1]), True))
