"""Pooling. x[N, C, *S] or, channels last, x[N, *S, C]; only the spatial axes change.

Averages are one matrix along each spatial axis, so their gradients are the transposed matrices;
a maximum sends its gradient to the first of equal elements, in the order of the window.
Pooling over the whole image is Mean or Max over the spatial axes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import ClassVar

import numpy as np

from pockengine.ir.op import Array, ErrorSample, Gradients, Op, Sample, Value, require
from pockengine.ir.types import DIMS, Shape, TensorType
from pockengine.ops.windows import (
    Padding,
    activation,
    channel_axis,
    channels,
    crop_spatial,
    from_last,
    map_spatial,
    normal,
    pad_spatial,
    spatial,
    taps,
    to_last,
    window_counts,
)


@dataclass(frozen=True)
class _Spatial(Op):
    """Acts on each channel and each image by itself, so that batch and channels may be sliced."""

    def slice_axes(self, axis: int, *types: TensorType) -> tuple[int | None, ...] | None:
        last: bool = self.channels_last  # type: ignore[attr-defined]
        free = axis in (0, channel_axis(types[0].rank, last))
        return (axis,) * len(types) if free else None

    def _check(self, spatial_rank: int, *types: TensorType) -> None:
        fits = all(t.is_float and t.rank == spatial_rank + 2 for t in types)
        words = f"floating-point tensors of rank {spatial_rank + 2}"
        require(fits and len({t.dtype for t in types}) == 1, self, words, *types)

    def _resized(self, x: TensorType, size: Shape) -> TensorType:
        last: bool = self.channels_last  # type: ignore[attr-defined]
        return activation(x, size, channels(x.shape, last), last)


# ---- windows -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Window(_Spatial):
    """Slides a window. `padding` is smaller than the window, so that none lies in padding alone."""

    window: Shape
    stride: Shape
    padding: Padding

    def _counts(self, size: Shape, dilation: Shape | None = None) -> Shape:
        dilation = dilation or (1,) * len(self.window)
        return window_counts(size, self.window, self.stride, self.padding, dilation)

    def _check_window(self, x: TensorType, size: Shape, dilation: Shape | None = None) -> Shape:
        self._check(len(self.window), x)
        extents = [
            d * (k - 1) + 1 for d, k in zip(dilation or (1,) * len(size), self.window, strict=True)
        ]
        pads = zip(self.padding, extents, strict=True)
        fits = all(0 <= lo < k and 0 <= hi < k for (lo, hi), k in pads)
        require(fits, self, "padding smaller than the window", x)
        counts = self._counts(size, dilation)
        require(min(counts) >= 1, self, "a padded input at least as large as the window", x)
        return counts


@dataclass(frozen=True)
class MaxPool(_Window):
    """y[n, c, s'] = max over the window at stride * s' of x; padding is never the maximum."""

    dilation: Shape
    channels_last: bool

    kernel: ClassVar[str] = "max_pool"

    def infer(self, x: TensorType) -> TensorType:
        size = spatial(x.shape, self.channels_last)
        return self._resized(x, self._check_window(x, size, self.dilation))

    def ref(self, x: Array) -> Array:
        padded = pad_spatial(to_last(x, self.channels_last), self.padding, -np.inf)
        counts = self._counts(spatial(x.shape, self.channels_last), self.dilation)
        views = taps(self.window, self.stride, self.dilation, counts)
        y = np.maximum.reduce([padded[view] for _, view in views])
        return from_last(y, self.channels_last)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        to_x = MaxPoolGrad(
            self.window, self.stride, self.padding, self.dilation, self.channels_last
        )
        return (to_x(g, x, y),)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return y.size * int(np.prod(self.window))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for op, x in _max_cases(rng):
            yield Sample(op, (x,))
        ties = np.zeros((1, 1, 4, 4))
        yield Sample(cls((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), False), (ties,), ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        op = cls((3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), False)
        yield ErrorSample(op, (TensorType("f32", (1, 2, 2, 5)),), "at least as large as the window")
        yield ErrorSample(op, (TensorType("f32", (2, 5, 5)),), "rank 4")
        wide = replace(op, padding=((3, 0), (0, 0)))
        yield ErrorSample(
            wide, (TensorType("f32", (1, 2, 5, 5)),), "padding smaller than the window"
        )


@dataclass(frozen=True)
class MaxPoolGrad(_Window):
    """Adds g[n, c, s'] to the first element of its window in which x equals y[n, c, s']."""

    dilation: Shape
    channels_last: bool

    kernel: ClassVar[str] = "max_pool_grad"
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    def infer(self, g: TensorType, x: TensorType, y: TensorType) -> TensorType:
        size = spatial(x.shape, self.channels_last)
        expected = self._resized(x, self._check_window(x, size, self.dilation))
        require(g == y == expected, self, f"g and y of type {expected}", g, x, y)
        return x

    def ref(self, g: Array, x: Array, y: Array) -> Array:
        g, x, y = (to_last(a, self.channels_last) for a in (g, x, y))
        padded = pad_spatial(x, self.padding, -np.inf)
        result, open_ = np.zeros_like(padded), np.ones(y.shape, bool)
        for _, view in taps(self.window, self.stride, self.dilation, y.shape[1:-1]):
            first = open_ & (padded[view] == y)
            result[view] += np.where(first, g, 0)
            open_ &= ~first
        return from_last(crop_spatial(result, self.padding, x.shape[1:-1]), self.channels_last)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return xs[0].size * int(np.prod(self.window))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for op, x in _max_cases(rng):
            y = op.ref(x)
            grad = cls(op.window, op.stride, op.padding, op.dilation, op.channels_last)
            yield Sample(grad, (normal(rng, y.shape), x, y), ())
        ties = cls((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), False)
        yield Sample(
            ties, (np.ones((1, 1, 2, 2)), np.zeros((1, 1, 4, 4)), np.zeros((1, 1, 2, 2))), ()
        )

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        op = cls((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), False)
        x, y = TensorType("f32", (1, 2, 4, 4)), TensorType("f32", (1, 2, 2, 2))
        yield ErrorSample(op, (x, x, y), "g and y of type f32[1,2,2,2]")


def _max_cases(rng: np.random.Generator) -> Iterator[tuple[MaxPool, Array]]:
    none = ((0, 0), (0, 0))
    cases = [
        (MaxPool((2, 2), (2, 2), none, (1, 1), False), (5, 4)),
        (MaxPool((3, 3), (2, 2), ((1, 1), (0, 2)), (1, 1), False), (5, 6)),
        (MaxPool((2, 3), (1, 2), ((1, 1), (1, 1)), (2, 1), False), (4, 5)),
        (MaxPool((1, 1), (1, 1), none, (1, 1), False), (1, 1)),
        (MaxPool((3,), (2,), ((1, 1),), (1,), False), (7,)),
    ]
    for op, size in cases:
        for last in (False, True):
            shape = (2, *size, 3) if last else (2, 3, *size)
            distinct = rng.permutation(int(np.prod(shape))).reshape(shape) / 8.0
            yield replace(op, channels_last=last), distinct


@dataclass(frozen=True)
class AvgPool(_Window):
    """y[n, c, s'] = mean over the window at stride * s' of x.

    The mean is over the whole window if `count_include_pad` (padding counts as zeros), otherwise
    over what lies inside the input.
    """

    count_include_pad: bool
    channels_last: bool

    kernel: ClassVar[str] = "avg_pool"
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    def infer(self, x: TensorType) -> TensorType:
        return self._resized(x, self._check_window(x, spatial(x.shape, self.channels_last)))

    def ref(self, x: Array) -> Array:
        size = spatial(x.shape, self.channels_last)
        return map_spatial(x, _window_matrices(self, size), self.channels_last)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        size = spatial(x.shape, self.channels_last)
        fields = (self.window, self.stride, self.padding, self.count_include_pad)
        return (AvgPoolGrad(*fields, self.channels_last, size)(g),)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return y.size * int(np.prod(self.window))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for op, x in _avg_cases(rng):
            yield Sample(op, (x,))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        op = cls((3, 3), (1, 1), ((0, 0), (0, 0)), True, False)
        yield ErrorSample(op, (TensorType("f32", (1, 2, 2, 5)),), "at least as large as the window")
        yield ErrorSample(op, (TensorType("i32", (1, 2, 5, 5)),), "floating-point")


@dataclass(frozen=True)
class AvgPoolGrad(_Window):
    """Spreads g[n, c, s'] evenly over its window. `size` is the spatial size of the result."""

    count_include_pad: bool
    channels_last: bool
    size: Shape = field(metadata=DIMS)

    kernel: ClassVar[str] = "avg_pool_grad"
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    def infer(self, g: TensorType) -> TensorType:
        counts = self._check_window(g, self.size)
        fits = spatial(g.shape, self.channels_last) == counts
        require(fits, self, f"a gradient of spatial size {counts}", g)
        return self._resized(g, self.size)

    def ref(self, g: Array) -> Array:
        matrices = [m.T for m in _window_matrices(self, self.size)]
        return map_spatial(g, matrices, self.channels_last)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        fields = (self.window, self.stride, self.padding, self.count_include_pad)
        return (AvgPool(*fields, self.channels_last)(g),)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return xs[0].size * int(np.prod(self.window))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for op, x in _avg_cases(rng):
            fields = (op.window, op.stride, op.padding, op.count_include_pad, op.channels_last)
            g = normal(rng, op.ref(x).shape)
            yield Sample(cls(*fields, spatial(x.shape, op.channels_last)), (g,))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        op = cls((2, 2), (2, 2), ((0, 0), (0, 0)), True, False, (4, 4))
        yield ErrorSample(op, (TensorType("f32", (1, 2, 3, 2)),), "spatial size (2, 2)")


def _window_matrices(op: AvgPool | AvgPoolGrad, size: Shape) -> list[Array]:
    """The matrix [windows, positions] of means along each spatial axis."""
    matrices = []
    rows = zip(size, op._counts(size), op.window, op.stride, op.padding, strict=True)
    for n, count, k, s, (lo, _) in rows:
        start = np.arange(count)[:, None] * s - lo
        inside = (start <= np.arange(n)) & (np.arange(n) < start + k)
        divisor = k if op.count_include_pad else inside.sum(axis=1, keepdims=True)
        matrices.append(inside / divisor)
    return matrices


def _avg_cases(rng: np.random.Generator) -> Iterator[tuple[AvgPool, Array]]:
    none = ((0, 0), (0, 0))
    cases = [
        (AvgPool((2, 2), (2, 2), none, True, False), (5, 4)),
        (AvgPool((3, 3), (2, 2), ((1, 1), (0, 2)), False, False), (5, 6)),
        (AvgPool((3, 2), (1, 1), ((1, 1), (1, 0)), True, False), (4, 4)),
        (AvgPool((1, 1), (1, 1), none, True, False), (1, 1)),
    ]
    for op, size in cases:
        for last in (False, True):
            shape = (2, *size, 3) if last else (2, 3, *size)
            yield replace(op, channels_last=last), rng.standard_normal(shape)


# ---- adaptive pooling ----------------------------------------------------------------------------


def _bins(size: int, count: int) -> list[tuple[int, int]]:
    """Where each of `count` bins begins and ends."""
    return [(i * size // count, -((-(i + 1) * size) // count)) for i in range(count)]


def _bin_matrices(size: Shape, counts: Shape) -> list[Array]:
    matrices = []
    for n, count in zip(size, counts, strict=True):
        matrix = np.zeros((count, n))
        for i, (start, stop) in enumerate(_bins(n, count)):
            matrix[i, start:stop] = 1.0 / (stop - start)
        matrices.append(matrix)
    return matrices


def _bin_views(size: Shape, counts: Shape) -> Iterator[tuple[Shape, tuple[slice, ...]]]:
    """For each output position: its index, and the slices of an [N, *S, C] that it reads."""
    bins = [_bins(n, count) for n, count in zip(size, counts, strict=True)]
    for index in product(*map(range, counts)):
        yield index, (slice(None), *(slice(*b[i]) for b, i in zip(bins, index, strict=True)))


@dataclass(frozen=True)
class AdaptiveAvgPool(_Spatial):
    """y[n, c, i] = mean of x over bin i of `size` bins, which may overlap by one element."""

    size: Shape
    channels_last: bool

    kernel: ClassVar[str] = "adaptive_avg_pool"
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    def infer(self, x: TensorType) -> TensorType:
        self._check(len(self.size), x)
        require(min(self.size) >= 1, self, "bins of at least 1", x)
        return self._resized(x, self.size)

    def ref(self, x: Array) -> Array:
        matrices = _bin_matrices(spatial(x.shape, self.channels_last), self.size)
        return map_spatial(x, matrices, self.channels_last)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (AdaptiveAvgPoolGrad(spatial(x.shape, self.channels_last), self.channels_last)(g),)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return xs[0].size

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for op, x in _adaptive_cases(rng):
            yield Sample(op, (x,))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls((2, 2), False), (TensorType("f32", (2, 5, 5)),), "rank 4")
        yield ErrorSample(cls((0, 2), False), (TensorType("f32", (2, 2, 5, 5)),), "at least 1")


@dataclass(frozen=True)
class AdaptiveAvgPoolGrad(_Spatial):
    """Spreads g[n, c, i] evenly over bin i of an input of spatial size `in_size`."""

    in_size: Shape = field(metadata=DIMS)
    channels_last: bool

    kernel: ClassVar[str] = "adaptive_avg_pool_grad"
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    def infer(self, g: TensorType) -> TensorType:
        self._check(len(self.in_size), g)
        return self._resized(g, self.in_size)

    def ref(self, g: Array) -> Array:
        matrices = _bin_matrices(self.in_size, spatial(g.shape, self.channels_last))
        return map_spatial(g, [m.T for m in matrices], self.channels_last)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (AdaptiveAvgPool(spatial(x.shape, self.channels_last), self.channels_last)(g),)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for op, x in _adaptive_cases(rng):
            size = spatial(x.shape, op.channels_last)
            yield Sample(cls(size, op.channels_last), (normal(rng, op.ref(x).shape),))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls((2, 2), False), (TensorType("f32", (2, 5, 5)),), "rank 4")


def _adaptive_cases(rng: np.random.Generator) -> Iterator[tuple[AdaptiveAvgPool, Array]]:
    for counts, size in [((3, 2), (7, 5)), ((1, 1), (4, 3)), ((4, 4), (2, 4)), ((1, 1), (1, 1))]:
        for last in (False, True):
            shape = (2, *size, 3) if last else (2, 3, *size)
            distinct = rng.permutation(int(np.prod(shape))).reshape(shape) / 8.0
            yield AdaptiveAvgPool(counts, last), distinct


@dataclass(frozen=True)
class AdaptiveMaxPool(_Spatial):
    """y[n, c, i] = max of x over bin i of `size` bins, which may overlap by one element."""

    size: Shape
    channels_last: bool

    kernel: ClassVar[str] = "adaptive_max_pool"

    def infer(self, x: TensorType) -> TensorType:
        self._check(len(self.size), x)
        require(min(self.size) >= 1, self, "bins of at least 1", x)
        return self._resized(x, self.size)

    def ref(self, x: Array) -> Array:
        last = to_last(x, self.channels_last)
        y = np.empty((x.shape[0], *self.size, last.shape[-1]), x.dtype)
        for index, view in _bin_views(last.shape[1:-1], self.size):
            at: tuple[slice | int, ...] = (slice(None), *index)
            y[at] = last[view].max(axis=tuple(range(1, last.ndim - 1)))
        return from_last(y, self.channels_last)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (AdaptiveMaxPoolGrad(self.channels_last)(g, x, y),)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return xs[0].size

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for op, x in _adaptive_cases(rng):
            yield Sample(cls(op.size, op.channels_last), (x,))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls((2, 2), False), (TensorType("f32", (2, 5, 5)),), "rank 4")


@dataclass(frozen=True)
class AdaptiveMaxPoolGrad(_Spatial):
    """Adds g[n, c, i] to the first element of bin i in which x equals y[n, c, i]."""

    channels_last: bool

    kernel: ClassVar[str] = "adaptive_max_pool_grad"
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    def infer(self, g: TensorType, x: TensorType, y: TensorType) -> TensorType:
        self._check(x.rank - 2, g, x, y)
        require(g == y, self, "g and y of one type", g, x, y)
        return x

    def ref(self, g: Array, x: Array, y: Array) -> Array:
        g, x, y = (to_last(a, self.channels_last) for a in (g, x, y))
        result = np.zeros_like(x)
        for index, view in _bin_views(x.shape[1:-1], y.shape[1:-1]):
            at: tuple[slice | int, ...] = (slice(None), *index)
            piece = x[view].reshape(x.shape[0], -1, x.shape[-1])
            first = np.arange(piece.shape[1])[None, :, None] == piece.argmax(axis=1)[:, None, :]
            result[view] += np.where(first, g[at][:, None], 0).reshape(x[view].shape)
        return from_last(result, self.channels_last)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for op, x in _adaptive_cases(rng):
            y = AdaptiveMaxPool(op.size, op.channels_last).ref(x)
            yield Sample(cls(op.channels_last), (normal(rng, y.shape), x, y), ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        x, y = TensorType("f32", (1, 2, 4, 4)), TensorType("f32", (1, 2, 2, 2))
        yield ErrorSample(cls(False), (x, x, y), "g and y of one type")
