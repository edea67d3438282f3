"""Tensors known from their operator alone, and what all operators without arithmetic share."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pockengine.ir.op import Array, Axes, ErrorSample, Gradients, Load, Op, Sample, Value, require
from pockengine.ir.types import DIMS, NUMPY, DType, Shape, TensorType

Number = float | int | bool


def c_literal(value: Number, dtype: DType) -> str:
    """A constant in C, exact to the bit.

    >>> c_literal(0.5, "f32"), c_literal(-3, "i64")
    ('0x1.0000000000000p-1f', 'INT64_C(-3)')
    """
    if dtype not in ("f32", "f64"):
        return f"INT64_C({int(value)})" if dtype == "i64" else f"({int(value)})"
    if not math.isfinite(value):
        name = '__builtin_nanf("")' if math.isnan(value) else "__builtin_inff()"
        return f"(-{name})" if value < 0 else name
    text = float(value).hex() + ("f" if dtype == "f32" else "")
    return f"({text})" if text.startswith("-") else text


def replaced(items: Sequence[Any], at: int, *new: Any) -> tuple[Any, ...]:
    """`items` with the one at position `at` replaced by `new`.

    >>> replaced((2, 3, 4), 1, 7, 8)
    (2, 7, 8, 4)
    """
    return (*items[:at], *new, *items[at + 1 :])


class Movement(Op):
    """Base class: no arithmetic at all."""

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return 0


@dataclass(frozen=True)
class Full(Movement):
    """y[...] = value. () -> dtype[shape]"""

    shape: Shape = field(metadata=DIMS)
    dtype: DType
    value: Number

    def infer(self) -> TensorType:
        require(self.dtype in NUMPY, self, f"a dtype among {', '.join(NUMPY)}")
        return TensorType(self.dtype, self.shape)

    def ref(self) -> Array:
        return np.full(self.shape, self.value, NUMPY[self.dtype])

    def vjp(self, g: Value, y: Value) -> Gradients:
        return ()

    def slice_axes(self, axis: int) -> Axes:
        return ()

    def on_sliced(self, axis: int, size: int) -> Op:
        return replace(self, shape=replaced(self.shape, axis, size))

    def c_load(self, index: Sequence[str], load: Load, y: TensorType) -> str:
        return c_literal(self.value, y.dtype)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape, dtype, value in (
            ((2, 3), "f32", 1.5),
            ((), "f64", -math.inf),
            ((1,), "i64", -7),
            ((3, 1), "bool", True),
            ((2,), "u8", 255),
        ):
            yield Sample(cls(shape, dtype, value), ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls((2,), "f16", 0.0), (), "a dtype among f32")


@dataclass(frozen=True)
class Iota(Movement):
    """y[..., i, ...] = i, counted along `axis`. () -> dtype[shape]"""

    shape: Shape = field(metadata=DIMS)
    axis: int
    dtype: DType

    def infer(self) -> TensorType:
        known = self.dtype in NUMPY and self.dtype != "bool" and 0 <= self.axis < len(self.shape)
        require(known, self, "a number dtype and an axis of the shape")
        return TensorType(self.dtype, self.shape)

    def ref(self) -> Array:
        column = [1] * len(self.shape)
        column[self.axis] = -1
        count = np.arange(self.shape[self.axis], dtype=NUMPY[self.dtype])
        return np.broadcast_to(count.reshape(column), self.shape).copy()

    def vjp(self, g: Value, y: Value) -> Gradients:
        return ()

    def slice_axes(self, axis: int) -> Axes:
        return None if axis == self.axis else ()

    def on_sliced(self, axis: int, size: int) -> Op:
        return replace(self, shape=replaced(self.shape, axis, size))

    def c_load(self, index: Sequence[str], load: Load, y: TensorType) -> str:
        return f"({index[self.axis]})"

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape, axis, dtype in (
            ((2, 3), 1, "f32"),
            ((4, 1), 0, "i64"),
            ((1,), 0, "i32"),
            ((2, 3, 2), 1, "u8"),
        ):
            yield Sample(cls(shape, axis, dtype), ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls((2, 3), 2, "i64"), (), "an axis of the shape")
        yield ErrorSample(cls((2, 3), 0, "bool"), (), "a number dtype")
