"""Reductions over axes, and the running sum."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pockengine.ir.op import Array, Axes, ErrorSample, Gradients, Op, Sample, Value, require
from pockengine.ir.types import FLOATS, Shape, TensorType
from pockengine.ops.arithmetic import Cast, div, mul
from pockengine.ops.compare import Equal, where
from pockengine.ops.pointwise import NUMBERS, DTypes, as_dtype, scalar
from pockengine.ops.shape import BroadcastTo, Flip, Reshape


def _kept(shape: Shape, axes: Shape) -> Shape:
    return tuple(1 if a in axes else n for a, n in enumerate(shape))


@dataclass(frozen=True)
class Reduction(Op):
    """y = x reduced over `axes`, which are kept with size one, or disappear."""

    axes: Shape
    keepdims: bool

    kernel = "reduce"
    accepts: ClassVar[DTypes] = NUMBERS

    def infer(self, x: TensorType) -> TensorType:
        require(x.dtype in self.accepts, self, f"a tensor among {', '.join(self.accepts)}", x)
        fits = all(0 <= a < x.rank for a in self.axes) and len(set(self.axes)) == len(self.axes)
        require(fits, self, f"different axes in 0..{x.rank - 1}", x)
        if self.keepdims:
            return x.with_shape(*_kept(x.shape, self.axes))
        return x.with_shape(*(n for a, n in enumerate(x.shape) if a not in self.axes))

    def restored(self, y: Value, x: Value) -> Value:
        """`y` with the reduced axes at size one, so that it broadcasts with x."""
        return y if self.keepdims else Reshape(_kept(x.shape, self.axes))(y)

    def slice_axes(self, axis: int, x: TensorType) -> Axes:
        rest = [a for a in range(x.rank) if self.keepdims or a not in self.axes]
        return None if rest[axis] in self.axes else (rest[axis],)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return xs[0].size if y.is_float else 0

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, axes, keepdims in (
            ((2, 3), (1,), False),
            ((2, 3, 4), (0, 2), True),
            ((3, 2, 4), (0, 1), False),
            ((2, 1, 3), (1,), False),
            ((1,), (0,), True),
            ((4, 2), (0, 1), False),
            ((), (), False),
        ):
            yield Sample(cls(axes, keepdims), (np.asarray(rng.uniform(-2.0, 2.0, shape)),))
        yield Sample(cls((1,), False), (np.array([[1.0, 3.0, 3.0], [0.0, -0.0, 0.0]]),), ())
        if "i64" in cls.accepts:
            yield Sample(cls((1,), False), (rng.integers(-5, 5, (2, 4)),))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        x = TensorType("f32", (2, 3))
        yield ErrorSample(cls((2,), False), (x,), "different axes in 0..1")
        yield ErrorSample(cls((0, 0), True), (x,), "different axes in 0..1")
        yield ErrorSample(cls((0,), True), (x.with_dtype("bool"),), "a tensor among f32")


@dataclass(frozen=True)
class Sum(Reduction):
    """y = sum of x, in x's dtype"""

    linear_in = (0,)
    torch = "torch.sum"

    def ref(self, x: Array) -> Array:
        return as_dtype(x.sum(axis=self.axes, keepdims=self.keepdims), x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (BroadcastTo(x.shape)(self.restored(g, x)),)


@dataclass(frozen=True)
class Mean(Reduction):
    """y = sum of x / count"""

    accepts = FLOATS
    linear_in = (0,)
    torch = "torch.mean"

    def ref(self, x: Array) -> Array:
        return as_dtype(x.mean(axis=self.axes, keepdims=self.keepdims), x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        share = y.type.size / x.type.size
        return (BroadcastTo(x.shape)(mul(self.restored(g, x), share)),)


@dataclass(frozen=True)
class _Extremum(Reduction):
    """The gradient is shared equally among the elements that attain the extremum."""

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        attains = Equal()(x, self.restored(y, x))
        ties = Sum(self.axes, True)(Cast(x.dtype)(attains))
        return (where(attains, div(self.restored(g, x), ties), 0.0),)


@dataclass(frozen=True)
class Max(_Extremum):
    """y = the largest element"""

    torch = "torch.amax"

    def ref(self, x: Array) -> Array:
        return np.asarray(x.max(axis=self.axes, keepdims=self.keepdims))


@dataclass(frozen=True)
class Min(_Extremum):
    """y = the smallest element"""

    torch = "torch.amin"

    def ref(self, x: Array) -> Array:
        return np.asarray(x.min(axis=self.axes, keepdims=self.keepdims))


@dataclass(frozen=True)
class Prod(Reduction):
    """y = product of x. An element's gradient is the product of the others, also with zeros."""

    def ref(self, x: Array) -> Array:
        return as_dtype(x.prod(axis=self.axes, keepdims=self.keepdims), x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        one, zero = scalar(1.0, x.dtype), scalar(0.0, x.dtype)
        is_zero = Equal()(x, zero)
        zeros = Sum(self.axes, True)(Cast(x.dtype)(is_zero))
        others = Prod(self.axes, True)(where(is_zero, 1.0, x))  # of the elements that are not zero
        at_zero = where(Equal()(zeros, one), others, 0.0)
        elsewhere = where(Equal()(zeros, zero), div(others, where(is_zero, 1.0, x)), 0.0)
        return (mul(self.restored(g, x), where(is_zero, at_zero, elsewhere)),)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield from Reduction.samples.__func__(cls, rng)  # type: ignore[attr-defined]
        yield Sample(cls((1,), False), (np.array([[2.0, 0.0, 3.0], [0.0, 0.0, 5.0]]),))


@dataclass(frozen=True)
class ArgMax(Op):
    """i64: where along `axis` the largest element is, the first among equals. No gradient."""

    axis: int
    keepdims: bool

    kernel = "argmax"

    def infer(self, x: TensorType) -> TensorType:
        fits = x.dtype in NUMBERS and 0 <= self.axis < x.rank and x.shape[self.axis] > 0
        require(fits, self, f"a tensor of numbers with axis {self.axis}, not empty", x)
        return Max((self.axis,), self.keepdims).infer(x).with_dtype("i64")

    def ref(self, x: Array) -> Array:
        return np.asarray(x.argmax(axis=self.axis, keepdims=self.keepdims), np.int64)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (None,)

    def slice_axes(self, axis: int, x: TensorType) -> Axes:
        return Max((self.axis,), self.keepdims).slice_axes(axis, x)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, axis, keepdims in (
            ((2, 5), 1, False),
            ((3, 2, 4), 0, True),
            ((1,), 0, False),
            ((2, 3, 2), 1, False),
        ):
            yield Sample(cls(axis, keepdims), (rng.standard_normal(shape),))
        yield Sample(cls(1, False), (np.array([[1, 4, 4], [2, 2, 2]]),))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls(1, False), (TensorType("f32", (3,)),), "with axis 1")
        yield ErrorSample(cls(0, False), (TensorType("f32", (0,)),), "not empty")


@dataclass(frozen=True)
class CumSum(Op):
    """y[.., i, ..] = sum of x[.., j, ..] over j <= i, along `axis`"""

    axis: int

    kernel = "cumsum"
    linear_in = (0,)

    def infer(self, x: TensorType) -> TensorType:
        fits = x.dtype in NUMBERS and 0 <= self.axis < x.rank
        require(fits, self, f"a tensor of numbers with axis {self.axis}", x)
        return x

    def ref(self, x: Array) -> Array:
        return as_dtype(x.cumsum(axis=self.axis), x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        back = Flip((self.axis,))
        return (back(self(back(g))),)

    def slice_axes(self, axis: int, x: TensorType) -> Axes:
        return None if axis == self.axis else (axis,)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, axis in (((2, 5), 1), ((3, 2), 0), ((1,), 0), ((2, 3, 2), 1)):
            yield Sample(cls(axis), (rng.standard_normal(shape),))
        yield Sample(cls(0), (np.array([1, 2, 3], np.int32),))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls(1), (TensorType("f32", (3,)),), "with axis 1")
