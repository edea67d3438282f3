"""Operators that move data and compute nothing: reordering, repeating, cutting, joining.

What makes data from nothing (constant.py) and what moves it by index (index.py) is listed here too.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pockengine.ir.op import Array, Axes, ErrorSample, Gradients, Load, Op, Sample, Value, require
from pockengine.ir.types import DIMS, Shape, TensorType
from pockengine.ops.constant import Full, Iota, Movement, Number, c_literal, replaced
from pockengine.ops.index import Gather, GatherElements, Put, ScatterAdd, ScatterAddElements, Take
from pockengine.ops.pointwise import aligned_axis

__all__ = [
    "BroadcastTo",
    "Concat",
    "Flip",
    "Full",
    "Gather",
    "GatherElements",
    "Iota",
    "Pad",
    "Put",
    "Reshape",
    "ScatterAdd",
    "ScatterAddElements",
    "Slice",
    "Take",
    "Transpose",
]

# ---- the same elements at other places -----------------------------------------------------------


@dataclass(frozen=True)
class Reshape(Movement):
    """The same elements in row-major order under another shape. x[...] -> y[shape]"""

    shape: Shape = field(metadata=DIMS)

    alias = True
    linear_in = (0,)
    torch = "torch.reshape"

    def infer(self, x: TensorType) -> TensorType:
        y = x.with_shape(*self.shape)
        fits = x.size == y.size and all(n >= 0 for n in self.shape)
        require(fits, self, f"a tensor of {y.size} elements", x)
        return y

    def ref(self, x: Array) -> Array:
        return x.reshape(self.shape)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (Reshape(x.shape)(g),)

    def slice_axes(self, axis: int, x: TensorType) -> Axes:
        """An axis survives where one of the same size in x has as many elements before it."""
        before = math.prod(self.shape[:axis])
        for a, size in enumerate(x.shape):
            if size == self.shape[axis] and math.prod(x.shape[:a]) == before:
                return (a,)
        return None

    def on_sliced(self, axis: int, size: int, x: TensorType) -> Op:
        return Reshape(replaced(self.shape, axis, size))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for old, new in (
            ((2, 6), (2, 3, 2)),
            ((2, 3, 4), (6, 4)),
            ((), (1, 1)),
            ((1, 4), (4,)),
            ((2, 0), (0, 3)),
        ):
            yield Sample(cls(new), (rng.standard_normal(old),))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls((4, 2)), (TensorType("f32", (3, 3)),), "a tensor of 8 elements")


@dataclass(frozen=True)
class Transpose(Movement):
    """Axes in another order: y.shape[j] = x.shape[perm[j]]."""

    perm: Shape

    linear_in = (0,)
    torch = "torch.permute"

    def infer(self, x: TensorType) -> TensorType:
        fits = sorted(self.perm) == list(range(x.rank))
        require(fits, self, f"perm to be an order of the axes 0..{x.rank - 1}", x)
        return x.with_shape(*(x.shape[p] for p in self.perm))

    def ref(self, x: Array) -> Array:
        return np.ascontiguousarray(x.transpose(self.perm)).reshape([x.shape[p] for p in self.perm])

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (Transpose(tuple(self.perm.index(a) for a in range(len(self.perm))))(g),)

    def slice_axes(self, axis: int, x: TensorType) -> Axes:
        return (self.perm[axis],)

    def c_load(self, index: Sequence[str], load: Load, x: TensorType, y: TensorType) -> str:
        return load(0, [index[self.perm.index(a)] for a in range(x.rank)])

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape, perm in (
            ((2, 3), (1, 0)),
            ((2, 3, 4), (2, 0, 1)),
            ((2, 1, 3, 2), (0, 2, 3, 1)),
            ((), ()),
            ((1, 1), (1, 0)),
        ):
            yield Sample(cls(perm), (rng.standard_normal(shape),))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls((0, 0)), (TensorType("f32", (2, 3)),), "an order of the axes 0..1")


@dataclass(frozen=True)
class BroadcastTo(Movement):
    """x repeated along new leading axes and axes of size one, as NumPy broadcasts. -> y[shape]"""

    shape: Shape = field(metadata=DIMS)

    linear_in = (0,)
    torch = "torch.broadcast_to"

    def infer(self, x: TensorType) -> TensorType:
        extra = len(self.shape) - x.rank
        fits = extra >= 0 and all(
            n in (1, m) for n, m in zip(x.shape, self.shape[extra:], strict=True)
        )
        require(fits, self, f"a tensor that broadcasts to {self.shape}", x)
        return x.with_shape(*self.shape)

    def ref(self, x: Array) -> Array:
        return np.broadcast_to(x, self.shape).copy()

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (g,)  # the reverse walk sums over what was repeated

    def slice_axes(self, axis: int, x: TensorType) -> Axes:
        return (aligned_axis(axis, self.shape, x),)

    def on_sliced(self, axis: int, size: int, x: TensorType) -> Op:
        return BroadcastTo(replaced(self.shape, axis, size))

    def c_load(self, index: Sequence[str], load: Load, x: TensorType, y: TensorType) -> str:
        own = index[y.rank - x.rank :]
        return load(0, ["0" if n == 1 else i for n, i in zip(x.shape, own, strict=True)])

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for old, new in (
            ((3,), (2, 3)),
            ((2, 1, 3), (4, 2, 5, 3)),
            ((), (2,)),
            ((1,), (1,)),
            ((2, 3), (2, 3)),
        ):
            yield Sample(cls(new), (rng.standard_normal(old),))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls((2, 4)), (TensorType("f32", (3,)),), "broadcasts to (2, 4)")
        yield ErrorSample(cls((3,)), (TensorType("f32", (1, 3)),), "broadcasts to (3,)")


@dataclass(frozen=True)
class Flip(Movement):
    """Reverses the order along `axes`."""

    axes: Shape

    linear_in = (0,)
    torch = "torch.flip"

    def infer(self, x: TensorType) -> TensorType:
        require(all(0 <= a < x.rank for a in self.axes), self, f"axes {self.axes}", x)
        return x

    def ref(self, x: Array) -> Array:
        return np.flip(x, self.axes).copy()

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (self(g),)

    def slice_axes(self, axis: int, x: TensorType) -> Axes:
        return None if axis in self.axes else (axis,)

    def c_load(self, index: Sequence[str], load: Load, x: TensorType, y: TensorType) -> str:
        sizes = enumerate(x.shape)
        own = [f"({n - 1} - ({index[a]}))" if a in self.axes else index[a] for a, n in sizes]
        return load(0, own)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape, axes in (((2, 3), (1,)), ((2, 1, 3), (0, 2)), ((1,), (0,)), ((2, 2), ())):
            yield Sample(cls(axes), (rng.standard_normal(shape),))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls((2,)), (TensorType("f32", (3, 3)),), "Flip expects axes (2,)")


# ---- parts and unions ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Slice(Movement):
    """Elements start, start + step, ... before stop along `axis`."""

    axis: int
    start: int = field(metadata=DIMS)
    stop: int = field(metadata=DIMS)
    step: int

    linear_in = (0,)

    def infer(self, x: TensorType) -> TensorType:
        require(0 <= self.axis < x.rank, self, f"a tensor with axis {self.axis}", x)
        limit = x.shape[self.axis]
        fits = 0 <= self.start <= self.stop <= limit and self.step >= 1
        require(fits, self, f"0 <= start <= stop <= {limit} and step >= 1", x)
        size = len(range(self.start, self.stop, self.step))
        return x.with_shape(*replaced(x.shape, self.axis, size))

    def ref(self, x: Array) -> Array:
        return x[(slice(None),) * self.axis + (slice(self.start, self.stop, self.step),)].copy()

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        g = self._spread(g, x.shape[self.axis] - self.start)
        none = (0,) * x.type.rank
        low = replaced(none, self.axis, self.start)
        high = replaced(none, self.axis, x.shape[self.axis] - self.start - g.shape[self.axis])
        return (Pad(low, high, 0.0)(g),)

    def _spread(self, g: Value, room: int) -> Value:
        """step - 1 zeros after each element along the axis, cut to `room` elements."""
        if self.step == 1:
            return g
        column = Reshape(replaced(g.shape, self.axis, g.shape[self.axis], 1))(g)
        none = (0,) * column.type.rank
        column = Pad(none, replaced(none, self.axis + 1, self.step - 1), 0.0)(column)
        size = g.shape[self.axis] * self.step
        spread = Reshape(replaced(g.shape, self.axis, size))(column)
        return spread if size <= room else Slice(self.axis, 0, room, 1)(spread)

    def slice_axes(self, axis: int, x: TensorType) -> Axes:
        return None if axis == self.axis else (axis,)

    def c_load(self, index: Sequence[str], load: Load, x: TensorType, y: TensorType) -> str:
        at = f"({self.start} + {self.step} * ({index[self.axis]}))"
        return load(0, replaced(index, self.axis, at))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape, axis, start, stop, step in (
            ((5, 2), 0, 1, 4, 1),
            ((2, 7), 1, 1, 6, 2),
            ((1,), 0, 0, 1, 1),
            ((2, 3), 1, 2, 2, 1),
            ((4,), 0, 0, 4, 3),
        ):
            yield Sample(cls(axis, start, stop, step), (rng.standard_normal(shape),))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        x = TensorType("f32", (4,))
        yield ErrorSample(cls(0, 0, 5, 1), (x,), "stop <= 4")
        yield ErrorSample(cls(1, 0, 1, 1), (x,), "a tensor with axis 1")


@dataclass(frozen=True)
class Pad(Movement):
    """`low[a]` elements of `value` before and `high[a]` after, along each axis a."""

    low: Shape = field(metadata=DIMS)
    high: Shape = field(metadata=DIMS)
    value: Number

    def infer(self, x: TensorType) -> TensorType:
        amounts = (*self.low, *self.high)
        fits = len(self.low) == len(self.high) == x.rank and all(n >= 0 for n in amounts)
        require(fits, self, f"{x.rank} amounts >= 0 on each side", x)
        require(x.is_float or math.isfinite(self.value), self, "a finite value for integers", x)
        sizes = zip(self.low, x.shape, self.high, strict=True)
        return x.with_shape(*(sum(parts) for parts in sizes))

    def ref(self, x: Array) -> Array:
        width = list(zip(self.low, self.high, strict=True))
        return np.pad(x, width, constant_values=self.value) if width else x.copy()

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        for axis, (low, size) in enumerate(zip(self.low, x.shape, strict=True)):
            if size != y.shape[axis]:
                g = Slice(axis, low, low + size, 1)(g)
        return (g,)

    def slice_axes(self, axis: int, x: TensorType) -> Axes:
        return None if self.low[axis] or self.high[axis] else (axis,)

    def c_load(self, index: Sequence[str], load: Load, x: TensorType, y: TensorType) -> str:
        sides = list(zip(index, self.low, x.shape, self.high, strict=True))
        tests = [f"({i}) >= {low}" for i, low, _, _ in sides if low]
        tests += [f"({i}) < {low + size}" for i, low, size, high in sides if high]
        own = load(0, [f"(({i}) - {low})" if low else i for i, low, _, _ in sides])
        return (
            f"({' && '.join(tests)} ? {own} : {c_literal(self.value, y.dtype)})" if tests else own
        )

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape, low, high, value in (
            ((2, 3), (0, 1), (0, 2), 0.0),
            ((2, 1, 3), (1, 0, 0), (0, 0, 2), -1.5),
            ((1,), (2,), (0,), -math.inf),
            ((2,), (0,), (0,), 0.0),
            ((), (), (), 0.0),
        ):
            checked = None if math.isfinite(value) else ()
            yield Sample(cls(low, high, value), (rng.standard_normal(shape),), checked)

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        x = TensorType("f32", (2, 3))
        yield ErrorSample(cls((1,), (1,), 0.0), (x,), "2 amounts >= 0 on each side")
        yield ErrorSample(cls((0, -1), (0, 0), 0.0), (x,), "2 amounts >= 0")
        yield ErrorSample(cls((1, 0), (0, 0), -math.inf), (x.with_dtype("i32"),), "a finite value")


@dataclass(frozen=True)
class Concat(Movement):
    """Tensors one after the other along `axis`; their other dimensions are equal."""

    axis: int

    def infer(self, *xs: TensorType) -> TensorType:
        require(bool(xs), self, "at least one tensor")
        first = xs[0]
        fits = 0 <= self.axis < first.rank and all(
            x.rank == first.rank and self._rest(x) == self._rest(first) for x in xs
        )
        require(fits, self, f"tensors that differ in axis {self.axis} alone", *xs)
        total = sum(x.shape[self.axis] for x in xs)
        return first.with_shape(*replaced(first.shape, self.axis, total))

    def _rest(self, x: TensorType) -> tuple[object, ...]:
        return (x.dtype, *replaced(x.shape, self.axis))

    def _spans(self, xs: Sequence[TensorType]) -> Iterator[tuple[int, int]]:
        """Where each input begins and ends along the axis."""
        end = 0
        for x in xs:
            start, end = end, end + x.shape[self.axis]
            yield start, end

    def ref(self, *xs: Array) -> Array:
        return np.concatenate(xs, self.axis)

    def vjp(self, g: Value, y: Value, *xs: Value) -> Gradients:
        spans = self._spans([x.type for x in xs])
        return tuple(Slice(self.axis, start, end, 1)(g) for start, end in spans)

    def slice_axes(self, axis: int, *types: TensorType) -> Axes:
        return None if axis == self.axis else (axis,) * len(types)

    def c_load(self, index: Sequence[str], load: Load, *types: TensorType) -> str:
        i = index[self.axis]
        parts = [
            (end, load(k, replaced(index, self.axis, f"(({i}) - {start})" if start else i)))
            for k, (start, end) in enumerate(self._spans(types[:-1]))
        ]
        text = parts[-1][1]
        for end, element in reversed(parts[:-1]):
            text = f"(({i}) < {end} ? {element} : {text})"
        return text

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for axis, shapes in (
            (1, [(2, 3), (2, 1), (2, 2)]),
            (0, [(1, 2, 1), (2, 2, 1)]),
            (0, [(1,)]),
            (0, [(0, 2), (3, 2)]),
        ):
            yield Sample(cls(axis), tuple(rng.standard_normal(s) for s in shapes))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        x, y = TensorType("f32", (2, 3)), TensorType("f32", (3, 3))
        yield ErrorSample(cls(1), (x, y), "differ in axis 1 alone")
        yield ErrorSample(cls(0), (x, x.with_dtype("i32")), "differ in axis 0 alone")
        yield ErrorSample(cls(0), (), "at least one tensor")
