"""Losses, one for each element or position; the caller averages them over what counts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pockengine.errors import InputError
from pockengine.ir.op import Array, ErrorSample, Gradients, Op, Sample, Value, require
from pockengine.ir.types import INTEGERS, TensorType
from pockengine.ops.build import (
    absolute,
    add,
    exp,
    less,
    log1p,
    maximum,
    mul,
    neg,
    sub,
    where,
)
from pockengine.ops.windows import normal


@dataclass(frozen=True)
class _CrossEntropy(Op):
    axis: int
    label_smoothing: float
    ignore_index: int | None

    def _check(self, logits: TensorType, labels: TensorType, *weights: TensorType) -> None:
        known = logits.is_float and 0 <= self.axis < logits.rank and labels.dtype in INTEGERS
        require(known, self, f"logits with axis {self.axis}, and integer labels", logits, labels)
        rest = logits.shape[: self.axis] + logits.shape[self.axis + 1 :]
        require(labels.shape == rest, self, f"labels of shape {rest}", logits, labels)
        vector = logits.with_shape(logits.shape[self.axis])
        fits = len(weights) <= 1 and all(w == vector for w in weights)
        require(fits, self, f"class weights of type {vector}", logits, labels, *weights)

    def _targets(self, logits: Array, labels: Array, *weights: Array) -> Array:
        """The target distribution [..., C], times class weights; all zeros where ignored."""
        count = logits.shape[self.axis]
        ignored = labels == self.ignore_index if self.ignore_index is not None else labels != labels
        if ((labels < 0) | (labels >= count))[~ignored].any():
            raise InputError(f"labels must be in [0, {count}), got {labels[~ignored]}")
        hot = np.arange(count) == labels[..., None]
        share = self.label_smoothing / count
        targets = (hot * (1 - self.label_smoothing) + share) * ~ignored[..., None]
        weight = weights[0] if weights else np.ones(count)
        return np.asarray(targets * weight, logits.dtype)

    def _log_softmax(self, logits: Array) -> Array:
        """Over the classes, which move to the last axis."""
        z = np.moveaxis(logits, self.axis, -1)
        z = z - z.max(axis=-1, keepdims=True)
        return np.asarray(z - np.log(np.exp(z).sum(axis=-1, keepdims=True)))


@dataclass(frozen=True)
class CrossEntropy(_CrossEntropy):
    """loss[...] = -sum over c of t[c] * w[c] * log softmax(logits)[c], 0 where ignored.

    t = (1 - label_smoothing) * onehot(label) + label_smoothing / C. (logits, labels[, w[C]]).
    """

    kernel: ClassVar[str] = "cross_entropy"

    def infer(self, logits: TensorType, labels: TensorType, *weights: TensorType) -> TensorType:
        self._check(logits, labels, *weights)
        return logits.with_shape(*labels.shape)

    def ref(self, logits: Array, labels: Array, *weights: Array) -> Array:
        targets = self._targets(logits, labels, *weights)
        return np.asarray(-(targets * self._log_softmax(logits)).sum(axis=-1))

    def vjp(self, g: Value, y: Value, *xs: Value) -> Gradients:
        to_x = CrossEntropyGrad(self.axis, self.label_smoothing, self.ignore_index)
        return (to_x(g, *xs), *(None for _ in xs[1:]))

    def slice_axes(self, axis: int, *types: TensorType) -> tuple[int | None, ...] | None:
        of_logits = axis if axis < self.axis else axis + 1
        return (of_logits, axis, *(None for _ in types[2:]))

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return 5 * xs[0].size

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for op, arrays in _cases(rng):
            yield Sample(op, arrays, (0,))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        op, x = cls(1, 0.0, None), TensorType("f32", (4, 3))
        labels = TensorType("i64", (4,))
        yield ErrorSample(op, (x, TensorType("i64", (3,))), "labels of shape (4,)")
        yield ErrorSample(op, (x, TensorType("f32", (4,))), "integer labels")
        yield ErrorSample(op, (x, labels, TensorType("f32", (4,))), "class weights of type f32[3]")


@dataclass(frozen=True)
class CrossEntropyGrad(_CrossEntropy):
    """logits' = g * (softmax(logits) * sum(t * w) - t * w). (g, logits, labels[, w[C]])."""

    kernel: ClassVar[str] = "cross_entropy_grad"
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    def infer(
        self, g: TensorType, logits: TensorType, labels: TensorType, *weights: TensorType
    ) -> TensorType:
        self._check(logits, labels, *weights)
        expected = logits.with_shape(*labels.shape)
        require(g == expected, self, f"a gradient of type {expected}", g, logits, labels)
        return logits

    def ref(self, g: Array, logits: Array, labels: Array, *weights: Array) -> Array:
        targets = self._targets(logits, labels, *weights)
        softmax = np.exp(self._log_softmax(logits))
        result = g[..., None] * (softmax * targets.sum(axis=-1, keepdims=True) - targets)
        return np.ascontiguousarray(np.moveaxis(result, -1, self.axis))

    def slice_axes(self, axis: int, *types: TensorType) -> tuple[int | None, ...] | None:
        if axis == self.axis:
            return None
        of_labels = axis if axis < self.axis else axis - 1
        return (of_labels, axis, of_labels, *(None for _ in types[3:]))

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return 6 * y.size

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for op, arrays in _cases(rng):
            grad = cls(op.axis, op.label_smoothing, op.ignore_index)
            yield Sample(grad, (normal(rng, arrays[1].shape), *arrays), ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        op, x = cls(1, 0.0, None), TensorType("f32", (4, 3))
        labels = TensorType("i64", (4,))
        yield ErrorSample(op, (TensorType("f32", ()), x, labels), "a gradient of type f32[4]")


def _cases(rng: np.random.Generator) -> Iterator[tuple[CrossEntropy, tuple[Array, ...]]]:
    def labels(count: int, *shape: int) -> Array:
        return rng.integers(0, count, shape)

    yield CrossEntropy(1, 0.0, None), (rng.standard_normal((4, 5)), labels(5, 4))
    yield CrossEntropy(1, 0.1, None), (20 * rng.standard_normal((2, 3, 2, 4)), labels(3, 2, 2, 4))
    ignored = np.array([[1, -100, 0], [2, 2, -100]])
    yield CrossEntropy(2, 0.0, -100), (rng.standard_normal((2, 3, 4)), ignored)
    weights = rng.uniform(0.5, 2.0, 3)
    yield CrossEntropy(1, 0.2, -100), (rng.standard_normal((3, 3)), np.array([0, -100, 2]), weights)
    yield CrossEntropy(1, 0.0, None), (rng.standard_normal((1, 1)), labels(1, 1))
    yield CrossEntropy(0, 0.0, None), (rng.standard_normal(4), np.array(2))


# ---- compositions --------------------------------------------------------------------------------


def bce_with_logits(logits: Value, target: Value, pos_weight: Value | None = None) -> Value:
    """-(p * t * log s(z) + (1 - t) * log(1 - s(z))) for each element, s the logistic function."""
    # log(1 + exp(-z)) without overflow
    softplus = add(log1p(exp(neg(absolute(logits)))), maximum(neg(logits), 0.0))
    if pos_weight is None:
        return add(mul(sub(1.0, target), logits), softplus)
    share = add(mul(sub(pos_weight, 1.0), target), 1.0)
    return add(mul(sub(1.0, target), logits), mul(share, softplus))


def mse(prediction: Value, target: Value) -> Value:
    """(p - t)^2 for each element."""
    error = sub(prediction, target)
    return mul(error, error)


def l1(prediction: Value, target: Value) -> Value:
    """|p - t| for each element."""
    return absolute(sub(prediction, target))


def huber(prediction: Value, target: Value, delta: float = 1.0) -> Value:
    """e^2 / 2 where e = |p - t| < delta, delta * (e - delta / 2) elsewhere."""
    error = absolute(sub(prediction, target))
    square, line = mul(mul(error, error), 0.5), mul(sub(error, delta / 2), delta)
    return where(less(error, delta), square, line)
