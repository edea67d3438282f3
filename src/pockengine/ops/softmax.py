"""Softmax and its logarithm. Their gradients need the result alone, and are operators too."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pockengine.ir.op import Array, Axes, ErrorSample, Gradients, Op, Sample, Value, require
from pockengine.ir.types import Shape, TensorType
from pockengine.ops.arithmetic import Exp, Neg, mul, sub
from pockengine.ops.pointwise import as_dtype
from pockengine.ops.reduce import Sum

_CASES: tuple[tuple[Shape, int], ...] = (((2, 5), 1), ((3, 2, 4), 0), ((2, 3, 2), 1), ((1,), 0))


@dataclass(frozen=True)
class _AlongAxis(Op):
    axis: int

    def check(self, x: TensorType) -> TensorType:
        fits = x.is_float and 0 <= self.axis < x.rank
        require(fits, self, f"a floating-point tensor with axis {self.axis}", x)
        return x

    def sum(self, x: Array) -> Array:
        return np.asarray(x.sum(axis=self.axis, keepdims=True))

    def total(self, x: Value) -> Value:
        return Sum((self.axis,), True)(x)

    def slice_axes(self, axis: int, *types: TensorType) -> Axes:
        return None if axis == self.axis else (axis,) * len(types)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return 4 * y.size


@dataclass(frozen=True)
class _Forward(_AlongAxis):
    def infer(self, x: TensorType) -> TensorType:
        return self.check(x)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, axis in _CASES:
            yield Sample(cls(axis), (rng.standard_normal(shape),))
        far = np.array([[1000.0, 999.0, -1000.0], [-np.inf, 0.0, 0.0]])
        yield Sample(cls(1), (far,), ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls(1), (TensorType("f32", (3,)),), "with axis 1")
        yield ErrorSample(cls(0), (TensorType("i64", (3,)),), "a floating-point tensor")


@dataclass(frozen=True)
class _Backward(_AlongAxis):
    linear_in = (0,)

    def infer(self, g: TensorType, y: TensorType) -> TensorType:
        require(g == y, self, "g and y of one type", g, y)
        return self.check(y)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, axis in _CASES:
            yield Sample(cls(axis), (rng.standard_normal(shape), rng.standard_normal(shape)))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        x = TensorType("f32", (3,))
        yield ErrorSample(cls(0), (x, TensorType("f32", (1, 3))), "g and y of one type")
        yield ErrorSample(cls(1), (x, x), "with axis 1")


@dataclass(frozen=True)
class Softmax(_Forward):
    """y = e^x / sum of e^x along `axis`"""

    kernel = "softmax"
    torch = "torch.softmax"

    def ref(self, x: Array) -> Array:
        e = np.exp(x - x.max(axis=self.axis, keepdims=True))
        return as_dtype(e / self.sum(e), x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (SoftmaxGrad(self.axis)(g, y),)


@dataclass(frozen=True)
class SoftmaxGrad(_Backward):
    """With y = Softmax(x): x' = y * (g - sum(g * y)). (g, y) -> x's shape"""

    kernel = "softmax_grad"

    def ref(self, g: Array, y: Array) -> Array:
        return as_dtype(y * (g - self.sum(g * y)), y)

    def vjp(self, g: Value, y: Value, of_g: Value, of_y: Value) -> Gradients:
        to_y = sub(
            mul(g, sub(of_g, self.total(mul(of_g, of_y)))), mul(of_g, self.total(mul(g, of_y)))
        )
        return self(g, of_y), to_y


@dataclass(frozen=True)
class LogSoftmax(_Forward):
    """y = x - log sum of e^x along `axis`"""

    kernel = "log_softmax"
    torch = "torch.log_softmax"

    def ref(self, x: Array) -> Array:
        z = x - x.max(axis=self.axis, keepdims=True)
        return as_dtype(z - np.log(self.sum(np.exp(z))), x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (LogSoftmaxGrad(self.axis)(g, y),)


@dataclass(frozen=True)
class LogSoftmaxGrad(_Backward):
    """With y = LogSoftmax(x): x' = g - e^y * sum(g). (g, y) -> x's shape"""

    kernel = "log_softmax_grad"

    def ref(self, g: Array, y: Array) -> Array:
        return as_dtype(g - np.exp(y) * self.sum(g), g)

    def vjp(self, g: Value, y: Value, of_g: Value, of_y: Value) -> Gradients:
        weighed = mul(g, Exp()(of_y))
        return sub(g, self.total(weighed)), Neg()(mul(weighed, self.total(of_g)))
