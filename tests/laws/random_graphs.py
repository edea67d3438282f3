"""Random graphs of the kinds of work that fusion puts together, for the compiled law.

    random_case(7)      a dozen operators on one or two tensors, some of whose values are read again

A comparison is made only of values that any machine computes to the bit (see `exact`): otherwise
rounding could turn a truth value.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod, sqrt
from typing import TypeVar

import numpy as np
from compiled import Case

from pockengine.ir.graph import Graph, Input, Leaf, Param, leaf
from pockengine.ir.op import Array, Op, Value, moves_data
from pockengine.ir.types import Shape, TensorType
from pockengine.ir.verify import verify
from pockengine.ops import build as b
from pockengine.ops import elementwise as e
from pockengine.ops.bits import PackBits, UnpackBits
from pockengine.ops.conv import Conv
from pockengine.ops.norm import Normalize
from pockengine.ops.pool import AvgPool, MaxPool
from pockengine.ops.shape import Flip

T = TypeVar("T")
UNARY: tuple[Op, ...] = (
    *(e.Tanh(), e.Sigmoid(), e.Neg(), e.Abs(), e.Relu(), e.Clip(0.0, 6.0), e.Clip(-2.0, None)),
    *(e.Silu(), e.HardSwish(), e.LeakyRelu(0.1), e.Gelu(False), e.Sin()),
)
BINARY: tuple[Op, ...] = (e.Add(), e.Sub(), e.Mul(), e.Maximum(), e.Minimum())
EXACT = (e.Neg, e.Abs, e.Relu, e.Clip, e.Maximum, e.Minimum, e.Where, UnpackBits, MaxPool)
LARGEST = 6000  # elements of a value


@dataclass
class _Maker:
    rng: np.random.Generator
    name: str
    values: list[Value] = field(default_factory=list)
    arrays: dict[str, Array] = field(default_factory=dict)
    updates: dict[str, Value] = field(default_factory=dict)

    # ---- choices ----

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def choose(self, items: Sequence[T]) -> T:
        return items[int(self.rng.integers(len(items)))]

    def value(self) -> Value:
        """One of the values so far, the latest most likely."""
        return self.values[-1] if self.chance(0.6) else self.choose(self.values)

    def leaf(self, shape: Shape, kind: type[Leaf] = Input) -> Value:
        name = f"{self.name}_{len(self.arrays)}"
        self.arrays[name] = self.rng.standard_normal(shape).astype(np.float32)
        return leaf(kind, name, TensorType("f32", shape))

    def axis(self, x: Value) -> int:
        return int(self.rng.integers(x.type.rank))

    # ---- one more value ----

    def unary(self, x: Value) -> Value:
        return self.choose(UNARY)(x)

    def with_leaf(self, x: Value) -> Value:
        """x and a leaf that is broadcast to it: a bias, a scale, a whole tensor."""
        shape = tuple(d if self.chance(0.5) else 1 for d in x.shape)
        while shape and shape[0] == 1 and self.chance(0.7):
            shape = shape[1:]
        if self.chance(0.3):
            return self.updated(x, shape)
        other = self.leaf(shape)
        return self.choose(BINARY)(*((x, other) if self.chance(0.8) else (other, x)))

    def updated(self, x: Value, shape: Shape) -> Value:
        """x and a parameter, which a step of gradient descent changes."""
        p = self.leaf(shape, Param)
        y = self.choose(BINARY)(x, p)
        step = b.mul(b.sum_to(y, shape), 0.1 / sqrt(y.type.size))
        self.updates[p.op.name] = b.sub(p, step)
        return y

    def with_other(self, x: Value) -> Value:
        """x and a value of as many elements: a residual."""
        fits = [v for v in self.values if v.type.size == x.type.size]
        other = self.choose(fits)
        return self.choose(BINARY)(
            x, other if other.shape == x.shape else b.reshape(other, x.shape)
        )

    def with_statistic(self, x: Value) -> Value:
        """x and a reduction of it: a norm, a gate."""
        return self.choose(BINARY)(x, self.reduced(x, True))

    def with_number(self, x: Value) -> Value:
        return self.choose(BINARY)(x, b.full((), "f32", float(self.rng.uniform(-2, 2))))

    def reshape(self, x: Value) -> Value:
        shape = list(x.shape)
        if len(shape) > 1 and (len(shape) > 4 or self.chance(0.6)):
            at = int(self.rng.integers(len(shape) - 1))
            shape[at : at + 2] = [shape[at] * shape[at + 1]]
        else:
            at = int(self.rng.integers(len(shape)))
            factor = self.choose([f for f in range(1, shape[at] + 1) if shape[at] % f == 0])
            shape[at : at + 1] = [shape[at] // factor, factor]
        return b.reshape(x, shape)

    def transpose(self, x: Value) -> Value:
        return b.transpose(x, tuple(map(int, self.rng.permutation(x.type.rank))))

    def slice(self, x: Value) -> Value:
        axis = self.axis(x)
        start = int(self.rng.integers(x.shape[axis]))
        stop = int(self.rng.integers(start, x.shape[axis])) + 1
        return b.slice_axis(x, axis, start, stop, int(self.rng.integers(1, 3)))

    def take(self, x: Value) -> Value:
        axis = self.axis(x)
        count = int(self.rng.integers(1, x.shape[axis] + 1))
        return b.take(x, axis, [int(i) for i in self.rng.integers(x.shape[axis], size=count)])

    def put(self, x: Value) -> Value:
        axis = self.axis(x)
        count = int(self.rng.integers(1, x.shape[axis] + 1))
        indices = [int(i) for i in self.rng.permutation(x.shape[axis])[:count]]
        piece = b.take(self.unary(x), axis, indices)
        return b.put(x, axis, indices, piece)

    def pad(self, x: Value) -> Value:
        low, high = ([int(n) for n in self.rng.integers(0, 2, x.type.rank)] for _ in range(2))
        return b.pad(x, low, high, float(self.choose((0.0, 1.5))))

    def concat(self, x: Value) -> Value:
        axis = self.axis(x)
        parts = [x, self.unary(x) if self.chance(0.5) else self.leaf(x.shape)]
        return b.concat(parts if self.chance(0.5) else parts[::-1], axis)

    def flip(self, x: Value) -> Value:
        return Flip((self.axis(x),))(x)

    def broadcast(self, x: Value) -> Value:
        return b.broadcast_to(x, (int(self.rng.integers(1, 4)), *x.shape))

    def masked(self, x: Value) -> Value:
        """Where(mask, x, 0), the mask of another value, packed as bits or not."""
        fits = [v for v in self.values if v.type.size == x.type.size and exact(v)]
        other = self.choose(fits) if fits else self.leaf(x.shape)
        mask = b.greater(other, b.full((), "f32", 0.25))
        if self.chance(0.7):
            mask = UnpackBits(other.shape)(PackBits()(mask))
        return b.where(b.reshape(mask, x.shape), x, self.choose((0.0, 2.0)))

    def counted(self, x: Value) -> Value:
        """A truth value as a number."""
        other = x if exact(x) else self.leaf(x.shape)
        return b.mul(x, b.cast(b.less(other, b.full((), "f32", 0.5)), "f32"))

    def reduced(self, x: Value, keepdims: bool | None = None) -> Value:
        axes = tuple(a for a in range(x.type.rank) if self.chance(0.5))
        function = self.choose((b.reduce_sum, b.reduce_mean, b.reduce_max))
        y: Value = function(x, axes, self.chance(0.5) if keepdims is None else keepdims)
        return b.mul(y, 1.0 / sqrt(x.type.size / y.type.size))

    def rows(self, x: Value) -> Value:
        depth = x.shape[-1]
        return b.reshape(x, (x.type.size // depth, depth))

    def matmul(self, x: Value) -> Value:
        rows, columns = self.rows(x), self.choose((1, 5, 8, 16, 37))
        w = self.leaf((columns, rows.shape[1]) if self.chance(0.5) else (rows.shape[1], columns))
        y = b.matmul(rows, w, transpose_b=w.shape[0] == columns and w.shape[1] == rows.shape[1])
        return b.mul(y, 1.0 / sqrt(rows.shape[1])) if self.chance(0.7) else y

    def weight_gradient(self, x: Value) -> Value:
        """A product with A transposed, and the step of gradient descent behind it."""
        rows = self.rows(x)
        g = self.leaf((rows.shape[0], self.choose((1, 6, 16))))
        y = b.mul(b.matmul(rows, g, transpose_a=True), 0.1)
        p = self.leaf(y.shape, Param)
        self.updates[p.op.name] = b.sub(p, y)
        return y

    def conv(self, x: Value) -> Value:
        if x.type.rank != 4:
            return self.unary(x)
        c, k = x.shape[-1], self.choose((1, 3))
        groups = c if self.chance(0.5) else 1
        w = self.leaf((k, k, c // groups, c if groups == c else self.choose((4, 9, 16))))
        stride, side = self.choose(((1, 1), (2, 2), (2, 1))), (k // 2, k // 2)
        y = Conv(stride, (side, side), (1, 1), groups, True)(x, w)
        return b.mul(y, 1.0 / sqrt(prod(w.shape[:3])))

    def pool(self, x: Value) -> Value:
        if x.type.rank != 4:
            return self.unary(x)
        if self.chance(0.5):
            return MaxPool((2, 2), (1, 1), ((1, 0), (0, 1)), (1, 1), True)(x)
        return AvgPool((2, 2), (1, 1), ((1, 0), (0, 1)), False, True)(x)

    def softmax(self, x: Value) -> Value:
        return b.softmax(x, self.axis(x))

    def normalize(self, x: Value) -> Value:
        axes = tuple(sorted({self.axis(x), self.axis(x)}))
        return Normalize(axes, 0.1)(x)

    # ---- the graph ----

    def grow(self, steps: int) -> None:
        """Adds `steps` values."""
        kinds: list[Callable[[Value], Value]] = [
            *(self.unary, self.with_leaf, self.with_other) * 3,
            *(self.with_statistic, self.with_number, self.masked, self.counted) * 2,
            *(self.reshape, self.transpose, self.slice, self.take, self.put, self.pad),
            *(self.concat, self.flip, self.broadcast, self.reduced, self.softmax, self.normalize),
            *(self.matmul, self.conv) * 2,
            *(self.weight_gradient, self.pool),
        ]
        while steps:
            x = self.value()
            x = x if x.type.rank else b.reshape(x, (1,))
            made = self.choose(kinds)(x)
            if 0 < made.type.size <= LARGEST:
                self.values.append(made)
                steps -= 1


def exact(value: Value) -> bool:
    """Whether every machine computes the same bits: nothing is rounded on the way."""
    if isinstance(value.op, Leaf):
        return True
    known = isinstance(value.op, EXACT) or moves_data(value.op) or value.op.alias
    return known and all(v.dtype != "f32" or exact(v) for v in value.inputs)


def random_case(seed: int) -> Case:
    """The case of that number."""
    maker = _Maker(np.random.default_rng(seed), f"r{seed}")
    c = maker.choose((1, 3, 8, 12, 16, 33))
    for _ in range(int(maker.rng.integers(1, 3))):
        maker.values.append(maker.leaf((maker.choose((1, 2)), 3, maker.choose((2, 5)), c)))
    maker.grow(int(maker.rng.integers(3, 16)))
    read = {x for v in maker.values for x in v.inputs}
    kept = [v for v in maker.values if v not in read or maker.chance(0.15)]
    outputs = {f"y{i}": v for i, v in enumerate(kept)}
    graph = Graph((), outputs, maker.updates)
    data = {name: maker.arrays[name] for name in graph.leaves(Param)}
    inputs = tuple(graph.leaves(Input).values())
    graph = verify(Graph(inputs, outputs, maker.updates, data))
    return Case(f"random graph {seed}", graph, maker.arrays)
