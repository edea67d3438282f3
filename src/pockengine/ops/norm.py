"""Normalisation. Affine parts are a Mul and an Add; the layers of frameworks are functions, last.

An optional `weight` [N] weighs the samples along axis 0 in the statistics, so that a padded row of
a partial batch, with weight 0, changes nothing. Axis 0 must then be one of `axes`.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pockengine.ir.op import Array, ErrorSample, Gradients, Op, Sample, Value, require
from pockengine.ir.types import Shape, TensorType
from pockengine.ops.build import add, mul, reshape
from pockengine.ops.windows import normal


def _check_axes(op: Op, axes: Shape, x: TensorType, weight: tuple[TensorType, ...]) -> None:
    fits = x.is_float and bool(axes) and all(0 <= a < x.rank for a in axes)
    require(fits, op, f"a floating-point tensor that has axes {axes}", x)
    if weight:
        column = x.with_shape(x.shape[0])
        fits = len(weight) == 1 and 0 in axes and weight[0] == column
        require(fits, op, f"one weight {column}, and axis 0 among the axes", x, *weight)


def _shares(x: Array, axes: Shape, weight: tuple[Array, ...]) -> tuple[Array, float]:
    """What each element counts, broadcast along axis 0, and the sum of that over `axes`."""
    rest = math.prod(x.shape[a] for a in axes if a != 0)
    if not weight:
        return np.ones((1,) * x.ndim, x.dtype), rest * (x.shape[0] if 0 in axes else 1)
    column = weight[0].reshape(-1, *(1,) * (x.ndim - 1))
    return column, rest * float(column.sum())


def _statistics(x: Array, axes: Shape, weight: tuple[Array, ...]) -> tuple[Array, Array]:
    """Mean and biased variance over `axes`, which are kept with size 1."""
    share, total = _shares(x, axes, weight)
    mean = (share * x).sum(axis=axes, keepdims=True) / total
    centred = x - mean
    return mean, (share * centred * centred).sum(axis=axes, keepdims=True) / total


@dataclass(frozen=True)
class Normalize(Op):
    """y = (x - mean) / sqrt(var + eps), mean and biased variance over `axes`. (x[, weight])."""

    axes: Shape
    eps: float

    kernel: ClassVar[str] = "normalize"

    def infer(self, x: TensorType, *weight: TensorType) -> TensorType:
        _check_axes(self, self.axes, x, weight)
        return x

    def ref(self, x: Array, *weight: Array) -> Array:
        mean, var = _statistics(x, self.axes, weight)
        return np.asarray((x - mean) / np.sqrt(var + self.eps))

    def vjp(self, g: Value, y: Value, x: Value, *weight: Value) -> Gradients:
        return (NormalizeGrad(self.axes, self.eps)(g, x, *weight), *(None for _ in weight))

    def slice_axes(self, axis: int, *types: TensorType) -> tuple[int | None, ...] | None:
        return None if axis in self.axes else (axis, *(None for _ in types[1:]))

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return 7 * y.size

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for axes, x, weight in _cases(rng):
            yield Sample(cls(axes, 1e-5), (x, *weight), (0,))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        x = TensorType("f32", (4, 3))
        yield ErrorSample(cls((2,), 1e-5), (x,), "has axes (2,)")
        yield ErrorSample(cls((1,), 1e-5), (x, TensorType("f32", (4,))), "axis 0 among the axes")
        yield ErrorSample(cls((0,), 1e-5), (x, TensorType("f32", (3,))), "one weight f32[4]")


@dataclass(frozen=True)
class NormalizeGrad(Op):
    """With y = Normalize(x), r = 1 / sqrt(var + eps) and means over `axes`:

        x' = r * (g - share * (mean(g) + y * mean(g * y)))

    (g, x[, weight]) -> x's shape; share is 1 without weights.
    """

    axes: Shape
    eps: float

    kernel: ClassVar[str] = "normalize_grad"
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    def infer(self, g: TensorType, x: TensorType, *weight: TensorType) -> TensorType:
        require(g == x, self, "g and x of one type", g, x)
        _check_axes(self, self.axes, x, weight)
        return x

    def ref(self, g: Array, x: Array, *weight: Array) -> Array:
        mean, var = _statistics(x, self.axes, weight)
        share, total = _shares(x, self.axes, weight)
        r = 1 / np.sqrt(var + self.eps)
        y = (x - mean) * r
        of_g = g.sum(axis=self.axes, keepdims=True) / total
        of_gy = (g * y).sum(axis=self.axes, keepdims=True) / total
        return np.asarray(r * (g - share * (of_g + y * of_gy)))

    def slice_axes(self, axis: int, *types: TensorType) -> tuple[int | None, ...] | None:
        return None if axis in self.axes else (axis, axis, *(None for _ in types[2:]))

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return 14 * y.size

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for axes, x, weight in _cases(rng):
            yield Sample(cls(axes, 1e-5), (normal(rng, x.shape), x, *weight), ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        x = TensorType("f32", (4, 3))
        yield ErrorSample(cls((0,), 1e-5), (TensorType("f32", (3,)), x), "g and x of one type")
        yield ErrorSample(cls((2,), 1e-5), (x, x), "has axes (2,)")


def _cases(rng: np.random.Generator) -> Iterator[tuple[Shape, Array, tuple[Array, ...]]]:
    """(axes, x, weight) as layer, batch and group norms have them, and with a padded row."""
    yield (1,), rng.standard_normal((4, 6)), ()
    yield (0, 2, 3), rng.standard_normal((3, 2, 4, 3)) + 2.0, ()
    yield (0, 1, 2), rng.standard_normal((2, 3, 2, 5)), ()
    yield (2, 3), rng.standard_normal((2, 3, 4, 1)), ()
    yield (1,), np.full((2, 1), 3.0), ()
    yield (0, 2), rng.standard_normal((3, 2, 4)), (np.array([1.0, 1.0, 0.0]),)
    yield (0,), rng.standard_normal((4, 3)), (np.array([1.0, 0.5, 2.0, 0.0]),)


@dataclass(frozen=True)
class RmsNormalize(Op):
    """y = x / sqrt(mean(x^2) + eps), the mean over `axes`."""

    axes: Shape
    eps: float

    kernel: ClassVar[str] = "rms_normalize"

    def infer(self, x: TensorType) -> TensorType:
        _check_axes(self, self.axes, x, ())
        return x

    def ref(self, x: Array) -> Array:
        return np.asarray(x / np.sqrt((x * x).mean(axis=self.axes, keepdims=True) + self.eps))

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (RmsNormalizeGrad(self.axes, self.eps)(g, x),)

    def slice_axes(self, axis: int, *types: TensorType) -> tuple[int | None, ...] | None:
        return None if axis in self.axes else (axis,)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return 4 * y.size

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for axes, shape in _rms_cases():
            yield Sample(cls(axes, 1e-6), (rng.standard_normal(shape),))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls((2,), 1e-6), (TensorType("f32", (4, 3)),), "has axes (2,)")
        yield ErrorSample(cls((1,), 1e-6), (TensorType("i32", (4, 3)),), "floating-point")


@dataclass(frozen=True)
class RmsNormalizeGrad(Op):
    """With y = RmsNormalize(x), r = 1 / sqrt(mean(x^2) + eps): x' = r * (g - y * mean(g * y))."""

    axes: Shape
    eps: float

    kernel: ClassVar[str] = "rms_normalize_grad"
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    def infer(self, g: TensorType, x: TensorType) -> TensorType:
        require(g == x, self, "g and x of one type", g, x)
        _check_axes(self, self.axes, x, ())
        return x

    def ref(self, g: Array, x: Array) -> Array:
        r = 1 / np.sqrt((x * x).mean(axis=self.axes, keepdims=True) + self.eps)
        y = x * r
        return np.asarray(r * (g - y * (g * y).mean(axis=self.axes, keepdims=True)))

    def slice_axes(self, axis: int, *types: TensorType) -> tuple[int | None, ...] | None:
        return None if axis in self.axes else (axis, axis)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return 9 * y.size

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for axes, shape in _rms_cases():
            arrays = (rng.standard_normal(shape), rng.standard_normal(shape))
            yield Sample(cls(axes, 1e-6), arrays, ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        x = TensorType("f32", (4, 3))
        yield ErrorSample(cls((0,), 1e-6), (TensorType("f32", (3,)), x), "g and x of one type")


def _rms_cases() -> list[tuple[Shape, Shape]]:
    return [((2,), (2, 3, 8)), ((1, 2), (2, 3, 4)), ((1,), (3, 1)), ((0,), (5,))]


@dataclass(frozen=True)
class BatchMean(Op):
    """The mean over `axes`, which disappear; for running statistics, so it has no gradient."""

    axes: Shape

    kernel: ClassVar[str] = "batch_mean"

    def infer(self, x: TensorType, *weight: TensorType) -> TensorType:
        _check_axes(self, self.axes, x, weight)
        return x.with_shape(*(n for a, n in enumerate(x.shape) if a not in self.axes))

    def ref(self, x: Array, *weight: Array) -> Array:
        return _statistics(x, self.axes, weight)[0].squeeze(self.axes)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return xs[0].size

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for axes, x, weight in _cases(rng):
            yield Sample(cls(axes), (x, *weight), ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls((2,)), (TensorType("f32", (4, 3)),), "has axes (2,)")


@dataclass(frozen=True)
class BatchVariance(Op):
    """The variance over `axes`, which disappear: sum of squares / total, where biased, else
    / max(total - 1, 1). For running statistics, so it has no gradient.
    """

    axes: Shape
    biased: bool

    kernel: ClassVar[str] = "batch_variance"

    def infer(self, x: TensorType, *weight: TensorType) -> TensorType:
        _check_axes(self, self.axes, x, weight)
        return x.with_shape(*(n for a, n in enumerate(x.shape) if a not in self.axes))

    def ref(self, x: Array, *weight: Array) -> Array:
        total = _shares(x, self.axes, weight)[1]
        biased = _statistics(x, self.axes, weight)[1].squeeze(self.axes)
        factor = 1.0 if self.biased else total / max(total - 1.0, 1.0)
        return np.asarray(biased * factor, x.dtype)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return 4 * xs[0].size

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for axes, x, weight in _cases(rng):
            yield Sample(cls(axes, False), (x, *weight), ())
            yield Sample(cls(axes, True), (x, *weight), ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls((2,), True), (TensorType("f32", (4, 3)),), "has axes (2,)")


@dataclass(frozen=True)
class BatchNorm(Op):
    """Batch normalisation as front ends emit it; passes/mode.py expands it before all else.

    (x, gamma[C], beta[C], mean[C], var[C]) -> x's shape. `training` tells whether training uses the
    batch's statistics and updates the running ones by `momentum`; inference always uses the running
    ones. `momentum` None is the average over all batches so far.
    """

    axis: int
    eps: float
    momentum: float | None
    training: bool

    def infer(self, x: TensorType, *rest: TensorType) -> TensorType:
        require(x.is_float and self.axis < x.rank, self, f"a tensor with axis {self.axis}", x)
        vector = x.with_shape(x.shape[self.axis])
        fits = len(rest) == 4 and all(t == vector for t in rest)
        require(fits, self, f"gamma, beta, mean and var of type {vector}", x, *rest)
        return x

    def ref(self, x: Array, gamma: Array, beta: Array, mean: Array, var: Array) -> Array:
        shape = [1] * x.ndim
        shape[self.axis] = -1
        if self.training:
            y = Normalize(others(self.axis, x.ndim), self.eps).ref(x)
        else:
            y = (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + self.eps)
        return y * gamma.reshape(shape) + beta.reshape(shape)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for axis, shape in ((1, (2, 3, 4, 4)), (1, (4, 2)), (3, (2, 3, 1, 2))):
            vectors = tuple(rng.uniform(0.5, 1.5, shape[axis]) for _ in range(4))
            for training in (False, True):
                op = cls(axis, 1e-5, 0.1, training)
                yield Sample(op, (rng.standard_normal(shape), *vectors), ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        x, wrong = TensorType("f32", (2, 3)), TensorType("f32", (2,))
        message = "gamma, beta, mean and var of type f32[3]"
        yield ErrorSample(cls(1, 1e-5, 0.1, False), (x, wrong, wrong, wrong, wrong), message)


def others(axis: int, rank: int) -> Shape:
    """All axes but one: those that batch normalisation goes over."""
    return tuple(a for a in range(rank) if a != axis)


# ---- the layers of frameworks --------------------------------------------------------------------


def layer_norm(
    x: Value, count: int, gamma: Value | None, beta: Value | None, eps: float = 1e-5
) -> Value:
    """Normalises over the last `count` axes; gamma and beta have the shape of those."""
    axes = tuple(range(x.type.rank - count, x.type.rank))
    return _affine(Normalize(axes, eps)(x), gamma, beta)


def rms_norm(x: Value, count: int, gamma: Value | None, eps: float = 1e-6) -> Value:
    """Divides by the root of the mean square over the last `count` axes."""
    axes = tuple(range(x.type.rank - count, x.type.rank))
    return _affine(RmsNormalize(axes, eps)(x), gamma, None)


def group_norm(
    x: Value, groups: int, gamma: Value | None, beta: Value | None, eps: float = 1e-5
) -> Value:
    """x[N, C, *S]: normalises over each group's channels and all positions; gamma, beta [C]."""
    count = x.shape[1]
    split = reshape(x, (x.shape[0], groups, count // groups, *x.shape[2:]))
    axes = tuple(range(2, split.type.rank))
    return _channel_affine(reshape(Normalize(axes, eps)(split), x.shape), gamma, beta)


def instance_norm(x: Value, gamma: Value | None, beta: Value | None, eps: float = 1e-5) -> Value:
    """x[N, C, *S]: normalises over the positions of each channel; gamma, beta [C]."""
    axes = tuple(range(2, x.type.rank))
    return _channel_affine(Normalize(axes, eps)(x), gamma, beta)


def _channel_affine(y: Value, gamma: Value | None, beta: Value | None) -> Value:
    shape = (-1, *(1,) * (y.type.rank - 2))
    column = [v and reshape(v, (v.shape[0], *shape[1:])) for v in (gamma, beta)]
    return _affine(y, *column)


def _affine(y: Value, gamma: Value | None, beta: Value | None) -> Value:
    y = y if gamma is None else mul(y, gamma)
    return y if beta is None else add(y, beta)
