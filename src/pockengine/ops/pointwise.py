"""What elementwise operators share: types, broadcasting, slicing, samples."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pockengine.errors import GraphError
from pockengine.ir.op import Array, Axes, ErrorSample, Op, Sample, Value, require
from pockengine.ir.types import FLOATS, INTEGERS, DType, Shape, TensorType
from pockengine.ops.constant import Full, Number

NUMBERS = (*FLOATS, *INTEGERS)
ANY = (*NUMBERS, "bool")
DTypes = tuple[DType, ...]
Operand = Value | Number


def scalar(value: Number, dtype: DType) -> Value:
    """A constant without dimensions, which broadcasts to any shape."""
    return Full((), dtype, value)()


def lifted(a: Operand, b: Operand) -> tuple[Value, Value]:
    """Both operands as values: a number becomes a constant of the other one's dtype."""
    if isinstance(a, Value):
        return a, b if isinstance(b, Value) else scalar(b, a.dtype)
    if isinstance(b, Value):
        return scalar(a, b.dtype), b
    raise TypeError(f"expected at least one Value, got the numbers {a} and {b}; compute in Python")


def broadcast(op: Op, *types: TensorType) -> Shape:
    """The shape that NumPy's broadcasting gives. Raises GraphError when there is none."""
    try:
        return np.broadcast_shapes(*(t.shape for t in types))
    except ValueError:
        came = ", ".join(map(str, types))
        raise GraphError(
            f"{type(op).__name__} expects shapes that broadcast, got ({came})"
        ) from None


def aligned_axis(axis: int, shape: Shape, x: TensorType) -> int | None:
    """The axis of `x` that meets `axis` of the broadcast `shape`; None where x is repeated."""
    own = axis - (len(shape) - x.rank)
    return own if own >= 0 and x.shape[own] == shape[axis] else None


class Pointwise(Op):
    """y[i] depends on the inputs' elements at i alone; the inputs broadcast."""

    elementwise = True
    accepts: ClassVar[DTypes] = FLOATS

    def check_dtypes(self, *types: TensorType) -> None:
        fits = all(t.dtype in self.accepts and t.dtype == types[0].dtype for t in types)
        what = "a tensor" if len(types) == 1 else "tensors of one dtype"
        require(fits, self, f"{what} among {', '.join(self.accepts)}", *types)

    def slice_axes(self, axis: int, *types: TensorType) -> Axes:
        shape = broadcast(self, *types)
        return tuple(aligned_axis(axis, shape, t) for t in types)


@dataclass(frozen=True)
class Unary(Pointwise):
    """y = f(x), of x's type."""

    domain: ClassVar[tuple[float, float]] = (-3.0, 3.0)  # of random samples; edges come on top
    edges: ClassVar[tuple[float, ...]] = (0.0, -0.0, 1.0, -1.0)

    def infer(self, x: TensorType) -> TensorType:
        self.check_dtypes(x)
        return x

    @classmethod
    def variants(cls) -> Iterable["Unary"]:
        """The operators to sample: one for each choice of fields worth a test."""
        return (cls(),)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for op in cls.variants():
            for shape in ((2, 3, 4), (1,), ()):
                yield Sample(op, (np.asarray(rng.uniform(*cls.domain, shape)),))
            yield Sample(op, (np.array(cls.edges),), ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        wrong = next(d for d in ("bool", "i32", "f32") if d not in cls.accepts)
        op = next(iter(cls.variants()))
        yield ErrorSample(op, (TensorType(wrong, (2,)),), f"{cls.__name__} expects a tensor among")


@dataclass(frozen=True)
class Binary(Pointwise):
    """y = f(a, b); a and b have one dtype and broadcast."""

    accepts: ClassVar[DTypes] = NUMBERS

    def result(self, operand: DType) -> DType:
        return operand

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        self.check_dtypes(a, b)
        return TensorType(self.result(a.dtype), broadcast(self, a, b))

    @classmethod
    def draw(cls, rng: np.random.Generator, shape: Shape, dtype: DType) -> Array:
        """An operand for the samples."""
        if dtype == "bool":
            return np.asarray(rng.random(shape) < 0.5)
        if dtype in INTEGERS:
            return np.asarray(rng.integers(1, 9, shape), np.int64)
        return np.asarray(rng.uniform(-2.0, 2.0, shape))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        dtype = "f64" if "f64" in cls.accepts else "bool"
        for a, b in (((2, 3), (2, 3)), ((2, 1, 3), (4, 1)), ((3,), ()), ((1,), (1,)), ((), (2, 2))):
            yield Sample(cls(), (cls.draw(rng, a, dtype), cls.draw(rng, b, dtype)))
        yield Sample(cls(), tuple(cls.draw(rng, (2, 3), cls.accepts[-1]) for _ in range(2)))
        yield from cls.ties()

    @classmethod
    def ties(cls) -> Iterator[Sample]:
        """Equal operands and edges, where gradients are a matter of taste."""
        if "f64" in cls.accepts:
            a = np.array([1.0, 1.0, -0.0, 2.0, -3.0])
            yield Sample(cls(), (a, np.array([1.0, 2.0, 1.0, 2.0, -3.0])), ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        x = TensorType(cls.accepts[0], (2, 3))
        other = "f32" if cls.accepts[0] != "f32" else "i32"
        yield ErrorSample(cls(), (x, x.with_dtype(other)), "expects tensors of one dtype")
        yield ErrorSample(cls(), (x, x.with_shape(4)), "expects shapes that broadcast")


INFINITE = (0.0, -0.0, 1.0, -1.0, math.inf, -math.inf)


def as_dtype(result: Any, like: Array) -> Array:
    """`result` in the precision of `like`: NumPy widens some results."""
    return np.asarray(result, like.dtype)
