"""Convolution and its two gradients, which are closed under differentiation.

Shapes, with K the kernel's and S the spatial dimensions:
    channels first   x[N, C, *S]  w[O, C/g, *K]  y[N, O, *S']
    channels last    x[N, *S, C]  w[*K, C/g, O]  y[N, *S', O]
Each of y = Conv(x, w), x' = ConvInputGrad(y, w), w' = ConvWeightGrad(x, y) is linear in both of its
inputs, and each one's gradients are the other two. ConvInputGrad is the transposed convolution.
The first two take a w of bf16 too.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np

from pockengine.ir.op import Array, ErrorSample, Gradients, Op, Sample, Value, require
from pockengine.ir.types import DIMS, Shape, TensorType
from pockengine.ops.precision import read, to_bf16, widened
from pockengine.ops.windows import (
    Padding,
    activation,
    channel_axis,
    channels,
    crop_spatial,
    from_last,
    pad_spatial,
    spatial,
    taps,
    to_last,
    window_counts,
)

Window = TypeVar("Window", bound="_Convolution")
Axes = tuple[int | None, ...] | None


@dataclass(frozen=True)
class _Convolution(Op):
    """What the three have in common."""

    stride: Shape
    padding: Padding
    dilation: Shape
    groups: int
    channels_last: bool

    linear_in: ClassVar[tuple[int, ...]] = (0, 1)

    def _sibling(self, cls: type[Window], **fields: Any) -> Window:
        return cls(
            self.stride, self.padding, self.dilation, self.groups, self.channels_last, **fields
        )

    def _counts(self, size: Shape, kernel: Shape) -> Shape:
        return window_counts(size, kernel, self.stride, self.padding, self.dilation)

    def _taps(self, kernel: Shape, counts: Shape) -> Iterator[tuple[Shape, tuple[slice, ...]]]:
        return taps(kernel, self.stride, self.dilation, counts)

    def _check(self, *types: TensorType) -> None:
        rank = len(self.stride) + 2
        expected = f"two floating-point tensors of one dtype and rank {rank}"
        same = types[0].is_float and types[0].dtype == types[1].dtype
        require(same and all(t.rank == rank for t in types), self, expected, *types)
        fields = len(self.padding) == len(self.dilation) == len(self.stride)
        sane = min(self.stride + self.dilation) >= 1 and min(min(p) for p in self.padding) >= 0
        words = (
            "stride and dilation of at least 1 and no negative padding, one for each spatial axis"
        )
        require(fields and sane, self, words, *types)

    def _kernel(self, w: Shape) -> Shape:
        return w[:-2] if self.channels_last else w[2:]

    def _per_group(self, w: Shape) -> int:
        return w[-2] if self.channels_last else w[1]

    def _out_channels(self, w: Shape) -> int:
        return w[-1] if self.channels_last else w[0]

    def _weight_axes(self, rank: int) -> tuple[int, int]:
        """The axes (C/g, O) of a weight."""
        return (rank - 2, rank - 1) if self.channels_last else (1, 0)

    def _weight_to_last(self, w: Array) -> Array:
        """Own layout -> [*K, C/g, O]."""
        return w if self.channels_last else w.transpose(*range(2, w.ndim), 1, 0)

    def _weight_from_last(self, w: Array) -> Array:
        """[*K, C/g, O] -> own layout."""
        back = w if self.channels_last else w.transpose(w.ndim - 1, w.ndim - 2, *range(w.ndim - 2))
        return np.ascontiguousarray(back)

    def _grouped(self, a: Array) -> Array:
        """[..., C] -> [g, M, C/g]: one matrix for each group."""
        flat = a.reshape(-1, self.groups, a.shape[-1] // self.groups)
        return flat.transpose(1, 0, 2)

    def _grouped_weight(self, w: Array) -> Array:
        """[*K, C/g, O] -> [*K, g, C/g, O/g]."""
        split = w.reshape(*w.shape[:-1], self.groups, w.shape[-1] // self.groups)
        return np.moveaxis(split, -2, -3)

    def _depthwise(self, inputs: int, outputs: int) -> bool:
        """Whether every channel is a group of its own, so that groups may be sliced."""
        return self.groups == inputs == outputs

    def _flops(self, outputs: TensorType, w: TensorType) -> int:
        positions = outputs.size // channels(outputs.shape, self.channels_last)
        return 2 * positions * w.size


def _ungroup(a: Array, *leading: int) -> Array:
    """[g, M, C/g] -> [*leading, C]."""
    return a.transpose(1, 0, 2).reshape(*leading, a.shape[0] * a.shape[2])


@dataclass(frozen=True)
class Conv(_Convolution):
    """y[n, o, s'] = sum over c, k of x[n, c, stride * s' + dilation * k - padding] * w[o, c, k]."""

    kernel: ClassVar[str] = "conv"

    def infer(self, x: TensorType, w: TensorType) -> TensorType:
        x, w = widened(x, w)
        self._check(x, w)
        count, per_group = channels(x.shape, self.channels_last), self._per_group(w.shape)
        outputs = self._out_channels(w.shape)
        fits = count == per_group * self.groups and outputs % self.groups == 0
        expected = f"{per_group * self.groups} input channels for a weight of {per_group} in each "
        expected += f"of {self.groups} groups, and output channels that the groups divide"
        require(fits, self, expected, x, w)
        size = self._counts(spatial(x.shape, self.channels_last), self._kernel(w.shape))
        require(min(size) >= 1, self, "a padded input at least as large as the kernel", x, w)
        return activation(x, size, outputs, self.channels_last)

    def ref(self, x: Array, w: Array) -> Array:
        x, w = read(x, w)
        x = pad_spatial(to_last(x, self.channels_last), self.padding)
        w = self._grouped_weight(self._weight_to_last(w))
        kernel = w.shape[:-3]
        counts = window_counts(
            x.shape[1:-1], kernel, self.stride, ((0, 0),) * len(kernel), self.dilation
        )
        total = sum(self._grouped(x[view]) @ w[tap] for tap, view in self._taps(kernel, counts))
        return from_last(_ungroup(np.asarray(total), x.shape[0], *counts), self.channels_last)

    def vjp(self, g: Value, y: Value, x: Value, w: Value) -> Gradients:
        size = spatial(x.shape, self.channels_last)
        to_x = self._sibling(ConvInputGrad, size=size)
        to_w = self._sibling(ConvWeightGrad, window=self._kernel(w.shape))
        return to_x(g, w), to_w(x, g)

    def slice_axes(self, axis: int, *types: TensorType) -> Axes:
        x, w = types
        channel = channel_axis(x.rank, self.channels_last)
        if axis == 0:
            return (0, None)
        if axis != channel:
            return None
        outputs = self._weight_axes(w.rank)[1]
        if self.groups == 1:
            return (None, outputs)
        return (channel, outputs) if self._depthwise(x.shape[channel], w.shape[outputs]) else None

    def on_sliced(self, axis: int, size: int, *types: TensorType) -> Op:
        return self if axis == 0 or self.groups == 1 else replace(self, groups=size)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return self._flops(y, xs[1])

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for op, x, w, _ in _cases(rng):
            yield Sample(op, (x, w))
            if op.channels_last and op.groups == 1:
                yield Sample(op, (x, to_bf16(w)), ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        op = cls((1, 1), ((0, 0), (0, 0)), (1, 1), 1, False)
        yield ErrorSample(op, (_f32(1, 3, 5, 5), _f32(4, 2, 3, 3)), "Conv expects 2 input channels")
        yield ErrorSample(op, (_f32(1, 3, 5), _f32(4, 3, 3)), "rank 4")
        yield ErrorSample(
            op, (_f32(1, 3, 2, 2), _f32(4, 3, 3, 3)), "at least as large as the kernel"
        )
        yield ErrorSample(
            replace(op, stride=(0, 1)), (_f32(1, 3, 5, 5), _f32(4, 3, 3, 3)), "stride"
        )


@dataclass(frozen=True)
class ConvInputGrad(_Convolution):
    """x'[n, c, s] = sum of y[n, o, s'] * w[o, c, k] over s = stride * s' + dilation * k - padding.

    `size` is the spatial size of the result, which stride and padding alone leave open.
    """

    size: Shape = field(metadata=DIMS)

    kernel: ClassVar[str] = "conv_input_grad"

    def infer(self, y: TensorType, w: TensorType) -> TensorType:
        y, w = widened(y, w)
        self._check(y, w)
        outputs = self._out_channels(w.shape)
        fits = channels(y.shape, self.channels_last) == outputs and outputs % self.groups == 0
        expected = f"a tensor of {outputs} channels for this weight, in {self.groups} groups"
        require(fits, self, expected, y, w)
        counts = self._counts(self.size, self._kernel(w.shape))
        words = f"spatial size {counts}, as a convolution of size {self.size} gives"
        require(spatial(y.shape, self.channels_last) == counts, self, words, y, w)
        inputs = self._per_group(w.shape) * self.groups
        return activation(y, self.size, inputs, self.channels_last)

    def ref(self, y: Array, w: Array) -> Array:
        y, w = read(y, w)
        y = to_last(y, self.channels_last)
        w = self._grouped_weight(self._weight_to_last(w))
        leading, kernel = y.shape[:-1], w.shape[:-3]
        inputs = w.shape[-3] * w.shape[-2]
        padded = [n + lo + hi for n, (lo, hi) in zip(self.size, self.padding, strict=True)]
        x = np.zeros((leading[0], *padded, inputs), y.dtype)
        rows = self._grouped(y)
        for tap, view in self._taps(kernel, leading[1:]):
            x[view] += _ungroup(rows @ w[tap].swapaxes(-1, -2), *leading)
        return from_last(crop_spatial(x, self.padding, self.size), self.channels_last)

    def vjp(self, g: Value, y: Value, *xs: Value) -> Gradients:
        rows, w = xs
        to_w = self._sibling(ConvWeightGrad, window=self._kernel(w.shape))
        return self._sibling(Conv)(g, w), to_w(g, rows)

    def slice_axes(self, axis: int, *types: TensorType) -> Axes:
        y, w = types
        channel = channel_axis(y.rank, self.channels_last)
        if axis == 0:
            return (0, None)
        if axis != channel:
            return None
        inputs, outputs = self._weight_axes(w.rank)
        if self.groups == 1:
            return (None, inputs)
        single = self._depthwise(w.shape[inputs] * self.groups, w.shape[outputs])
        return (channel, outputs) if single else None

    def on_sliced(self, axis: int, size: int, *types: TensorType) -> Op:
        return self if axis == 0 or self.groups == 1 else replace(self, groups=size)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return self._flops(xs[0], xs[1])

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for op, x, w, y in _cases(rng):
            size = spatial(x.shape, op.channels_last)
            yield Sample(op._sibling(cls, size=size), (y, w))
            if op.channels_last and op.groups == 1:
                yield Sample(op._sibling(cls, size=size), (y, to_bf16(w)), ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        op = cls((2, 2), ((0, 0), (0, 0)), (1, 1), 1, False, (6, 6))
        yield ErrorSample(op, (_f32(1, 3, 2, 2), _f32(4, 3, 3, 3)), "a tensor of 4 channels")
        yield ErrorSample(op, (_f32(1, 4, 3, 3), _f32(4, 3, 3, 3)), "spatial size (2, 2)")
        yield ErrorSample(op, (_f32(1, 4, 3), _f32(4, 3, 3)), "rank 4")


@dataclass(frozen=True)
class ConvWeightGrad(_Convolution):
    """w'[o, c, k] = sum over n, s' of x[n, c, stride * s' + dilation * k - padding] * y[n, o, s'].

    `window` is the spatial size of the kernel, which the sizes of x and y alone leave open.
    """

    window: Shape

    kernel: ClassVar[str] = "conv_weight_grad"

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        self._check(x, y)
        counts = self._counts(spatial(x.shape, self.channels_last), self.window)
        fits = spatial(y.shape, self.channels_last) == counts and x.shape[0] == y.shape[0]
        words = f"a gradient of batch {x.shape[0]} and spatial size {counts}"
        require(fits, self, words, x, y)
        inputs, outputs = (channels(t.shape, self.channels_last) for t in (x, y))
        divides = inputs % self.groups == 0 and outputs % self.groups == 0
        require(divides, self, f"channels that {self.groups} groups divide", x, y)
        last = (*self.window, inputs // self.groups, outputs)
        first = (outputs, inputs // self.groups, *self.window)
        return x.with_shape(*(last if self.channels_last else first))

    def ref(self, x: Array, y: Array) -> Array:
        x = pad_spatial(to_last(x, self.channels_last), self.padding)
        y = to_last(y, self.channels_last)
        rows, counts = self._grouped(y), y.shape[1:-1]
        w = np.empty((*self.window, x.shape[-1] // self.groups, y.shape[-1]), x.dtype)
        for tap, view in self._taps(self.window, counts):
            product = self._grouped(x[view]).swapaxes(-1, -2) @ rows  # [g, C/g, O/g]
            w[tap] = np.moveaxis(product, 0, 1).reshape(w.shape[-2:])
        return self._weight_from_last(w)

    def vjp(self, g: Value, y: Value, *xs: Value) -> Gradients:
        x, rows = xs
        size = spatial(x.shape, self.channels_last)
        return self._sibling(ConvInputGrad, size=size)(rows, g), self._sibling(Conv)(x, g)

    def slice_axes(self, axis: int, *types: TensorType) -> Axes:
        x, y = types
        channel = channel_axis(x.rank, self.channels_last)
        inputs, outputs = self._weight_axes(x.rank)
        if self.groups == 1 and axis in (inputs, outputs):
            return (channel, None) if axis == inputs else (None, channel)
        single = self._depthwise(x.shape[channel], y.shape[channel])
        return (channel, channel) if axis == outputs and single else None

    def on_sliced(self, axis: int, size: int, *types: TensorType) -> Op:
        return self if self.groups == 1 else replace(self, groups=size)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return self._flops(xs[1], y)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for op, x, w, y in _cases(rng):
            yield Sample(op._sibling(cls, window=op._kernel(w.shape)), (x, y))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        op = cls((1, 1), ((0, 0), (0, 0)), (1, 1), 2, False, (3, 3))
        yield ErrorSample(op, (_f32(1, 4, 5, 5), _f32(1, 4, 5, 5)), "spatial size (3, 3)")
        yield ErrorSample(op, (_f32(1, 4, 5, 5), _f32(2, 4, 3, 3)), "a gradient of batch 1")
        yield ErrorSample(op, (_f32(1, 3, 5, 5), _f32(1, 4, 3, 3)), "2 groups divide")


def _f32(*shape: int) -> TensorType:
    return TensorType("f32", shape)


def _cases(rng: np.random.Generator) -> Iterator[tuple[Conv, Array, Array, Array]]:
    """(operator, x, w, y) with strides, dilation, groups, uneven padding, size 1; both layouts."""
    same, none = ((1, 1), (1, 1)), ((0, 0), (0, 0))
    cases: list[tuple[Conv, int, int, Shape, Shape]] = [
        (Conv((1, 1), same, (1, 1), 1, False), 3, 4, (5, 6), (3, 3)),
        (Conv((2, 2), ((0, 1), (1, 0)), (1, 1), 1, False), 2, 3, (6, 5), (3, 2)),
        (Conv((1, 2), ((2, 2), (2, 2)), (2, 2), 2, False), 4, 6, (5, 5), (3, 3)),
        (Conv((2, 2), same, (1, 1), 4, False), 4, 4, (5, 5), (3, 3)),
        (Conv((1, 1), none, (1, 1), 1, False), 3, 2, (1, 1), (1, 1)),
        (Conv((2,), ((1, 0),), (1,), 2, False), 2, 4, (7,), (3,)),
        (Conv((1, 1), same, (1, 1), 1, False), 9, 10, (6, 5), (3, 3)),
        (Conv((1, 1, 1), ((1, 1),) * 3, (1, 1, 1), 1, False), 2, 2, (2, 3, 2), (3, 1, 3)),
    ]
    for op, inputs, outputs, size, kernel in cases:
        for last in (False, True):
            x = rng.standard_normal((2, *size, inputs))
            w = rng.standard_normal((*kernel, inputs // op.groups, outputs)) / math.sqrt(inputs)
            conv = replace(op, channels_last=last)
            x, w = from_last(x, last), conv._weight_from_last(w)
            y = conv.infer(TensorType("f64", x.shape), TensorType("f64", w.shape))
            yield conv, x, w, rng.standard_normal(y.shape)
