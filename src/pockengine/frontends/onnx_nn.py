"""ONNX operators of neural networks: convolution, pooling, normalisation, resizing, dropout."""

from collections.abc import Sequence

import numpy as np

from pockengine.errors import ImportModelError, UnsupportedError
from pockengine.frontends.onnx_math import scale, shift
from pockengine.frontends.onnx_node import Item, Node, Translation, axes_of, axis_of
from pockengine.frontends.onnx_shape import padded, reshaped, sliced
from pockengine.ir.graph import State
from pockengine.ir.op import Array, Value
from pockengine.ops import elementwise as e
from pockengine.ops import norm
from pockengine.ops.conv import Conv, ConvInputGrad
from pockengine.ops.pool import AvgPool, MaxPool
from pockengine.ops.random import Dropout
from pockengine.ops.reduce import Max, Mean, Sum

Padding = tuple[tuple[int, int], ...]


def with_bias(y: Value, bias: Value | None) -> Value:
    """y[N, C, *S] + bias[C]."""
    if bias is None:
        return y
    return e.Add()(y, reshaped(bias, (bias.shape[0], *(1,) * (y.type.rank - 2))))


def _ints(node: Node, name: str, rank: int, default: int = 1) -> tuple[int, ...]:
    numbers = tuple(node.attr(name, (default,) * rank))
    if len(numbers) != rank:
        raise ImportModelError(f"{name} expects {rank} numbers, got {numbers}")
    return numbers


def _padding(
    node: Node, size: Sequence[int], extent: Sequence[int], stride: Sequence[int]
) -> Padding:
    """(before, after) along each spatial axis; `extent` is the dilated size of the window."""
    auto = node.attr("auto_pad", "NOTSET")
    rank = len(size)
    if auto == "NOTSET":
        pads = _ints(node, "pads", 2 * rank, 0)
        return tuple(zip(pads[:rank], pads[rank:], strict=True))
    if auto == "VALID":
        return ((0, 0),) * rank
    totals = (
        max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, extent, stride, strict=True)
    )
    return tuple(_halves(t, auto == "SAME_LOWER") for t in totals)


def _halves(total: int, lower: bool) -> tuple[int, int]:
    """`total` in two; the odd one goes to the end, or to the start when `lower`."""
    return ((total + 1) // 2, total // 2) if lower else (total // 2, (total + 1) // 2)


def _extent(window: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    return tuple((k - 1) * d + 1 for k, d in zip(window, dilation, strict=True))


def conv(node: Node) -> Item:
    x, w = node.value(0), node.value(1)
    rank = x.type.rank - 2
    stride, dilation = _ints(node, "strides", rank), _ints(node, "dilations", rank)
    padding = _padding(node, x.shape[2:], _extent(w.shape[2:], dilation), stride)
    y = Conv(stride, padding, dilation, node.attr("group", 1), channels_last=False)(x, w)
    return with_bias(y, node.optional(2))


def conv_transpose(node: Node) -> Item:
    """The gradient of the convolution that would map the result's size to the input's."""
    x, w = node.value(0), node.value(1)
    rank = x.type.rank - 2
    stride, dilation = _ints(node, "strides", rank), _ints(node, "dilations", rank)
    extent = _extent(w.shape[2:], dilation)
    extra = _ints(node, "output_padding", rank, 0)
    full = [
        (n - 1) * s + k + p for n, s, k, p in zip(x.shape[2:], stride, extent, extra, strict=True)
    ]
    padding, size = _transposed_padding(node, x.shape[2:], full, extent, stride)
    groups = node.attr("group", 1)
    y = ConvInputGrad(stride, padding, dilation, groups, False, size)(x, w)
    return with_bias(y, node.optional(2))


def _transposed_padding(
    node: Node,
    given: Sequence[int],
    full: Sequence[int],
    extent: Sequence[int],
    stride: Sequence[int],
) -> tuple[Padding, tuple[int, ...]]:
    """The padding and the result's size; `full` is that size without padding."""
    auto = node.attr("auto_pad", "NOTSET")
    wanted = node.attr("output_shape", None)
    if wanted is None and auto not in ("SAME_UPPER", "SAME_LOWER"):
        padding = _padding(node, given, extent, stride)
        return padding, tuple(f - lo - hi for f, (lo, hi) in zip(full, padding, strict=True))
    size = tuple(wanted or (n * s for n, s in zip(given, stride, strict=True)))
    totals = (max(f - n, 0) for f, n in zip(full, size[-len(full) :], strict=True))
    return tuple(_halves(t, auto != "SAME_UPPER") for t in totals), size[-len(full) :]


def _window(
    node: Node, x: Value
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], Padding]:
    """(window, stride, dilation, padding); ceil_mode is not applied yet."""
    rank = x.type.rank - 2
    window = _ints(node, "kernel_shape", rank, 0)
    stride, dilation = _ints(node, "strides", rank), _ints(node, "dilations", rank)
    return window, stride, dilation, _padding(node, x.shape[2:], _extent(window, dilation), stride)


def _ceil_extra(
    node: Node, x: Value, extent: Sequence[int], stride: Sequence[int], padding: Padding
) -> tuple[int, ...]:
    """What ceil_mode adds after each axis, so that a last, partial window fits in."""
    extra = []
    for n, k, s, (lo, hi) in zip(x.shape[2:], extent, stride, padding, strict=True):
        room = n + lo + hi - k
        count = -(-room // s) if node.attr("ceil_mode", 0) else room // s
        if count * s >= n + lo:
            count -= 1  # a window must start inside the input or the padding before it
        extra.append(max(count * s - room, 0))
    return tuple(extra)


def max_pool(node: Node) -> Item:
    x = node.value(0)
    window, stride, dilation, padding = _window(node, x)
    extra = _ceil_extra(node, x, _extent(window, dilation), stride, padding)
    wider = tuple((lo, hi + more) for (lo, hi), more in zip(padding, extra, strict=True))
    return MaxPool(window, stride, wider, dilation, channels_last=False)(x)


def average_pool(node: Node) -> Item:
    x = node.value(0)
    window, stride, dilation, padding = _window(node, x)
    if set(dilation) != {1}:
        raise UnsupportedError("AveragePool with dilations")
    extra = _ceil_extra(node, x, window, stride, padding)
    counted = bool(node.attr("count_include_pad", 0))
    if counted and any(extra):  # the padding counts, what ceil_mode adds does not
        x = padded(x, (0, 0, *(p[0] for p in padding)), (0, 0, *(p[1] for p in padding)), 0.0)
        padding, counted = ((0, 0),) * len(window), False
    wider = tuple((lo, hi + more) for (lo, hi), more in zip(padding, extra, strict=True))
    return AvgPool(window, stride, wider, counted, channels_last=False)(x)


def global_average_pool(node: Node) -> Item:
    x = node.value(0)
    return Mean(tuple(range(2, x.type.rank)), True)(x)


def global_max_pool(node: Node) -> Item:
    x = node.value(0)
    return Max(tuple(range(2, x.type.rank)), True)(x)


def batch_normalization(node: Node) -> Item:
    vectors = (node.value(1), node.value(2), node.state(3), node.state(4))
    momentum = round(1.0 - node.attr("momentum", 0.9), 7)  # ONNX gives the share that is kept
    training = bool(node.attr("training_mode", 0))
    op = norm.BatchNorm(1, node.attr("epsilon", 1e-5), momentum, training)
    return op(node.value(0), *vectors)


def layer_normalization(node: Node) -> Item:
    x = node.value(0)
    count = x.type.rank - axis_of(node.attr("axis", -1), x.type.rank)
    return norm.layer_norm(x, count, node.value(1), node.optional(2), node.attr("epsilon", 1e-5))


def rms_normalization(node: Node) -> Item:
    x = node.value(0)
    count = x.type.rank - axis_of(node.attr("axis", -1), x.type.rank)
    return norm.rms_norm(x, count, node.value(1), node.attr("epsilon", 1e-5))


def instance_normalization(node: Node) -> Item:
    x, gamma, beta = node.values()
    return norm.instance_norm(x, gamma, beta, node.attr("epsilon", 1e-5))


def group_normalization(node: Node) -> Item:
    x, gamma, beta = node.values()
    groups, eps = node.attr("num_groups", 1), node.attr("epsilon", 1e-5)
    if gamma.shape[0] == x.shape[1]:
        return norm.group_norm(x, groups, gamma, beta, eps)
    grouped = reshaped(x, (x.shape[0], groups, x.type.size // (x.shape[0] * groups)))
    y = norm.Normalize((2,), eps)(grouped)  # before opset 21 there is one scale a group
    y = e.Add()(e.Mul()(y, reshaped(gamma, (groups, 1))), reshaped(beta, (groups, 1)))
    return reshaped(y, x.shape)


def mean_variance_normalization(node: Node) -> Item:
    x = node.value(0)
    return norm.Normalize(axes_of(node.attr("axes", (0, 2, 3)), x.type.rank), 1e-18)(x)


def lp_normalization(node: Node) -> Item:
    x = node.value(0)
    axes = (axis_of(node.attr("axis", -1), x.type.rank),)
    if node.attr("p", 2) == 1:
        return e.Div()(x, Sum(axes, True)(e.Abs()(x)))
    return e.Div()(x, e.Sqrt()(Sum(axes, True)(e.Mul()(x, x))))


def lrn(node: Node) -> Item:
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels)^beta."""
    x, size = node.value(0), node.attr("size", 1)
    low, high = [0] * x.type.rank, [0] * x.type.rank
    low[1], high[1] = (size - 1) // 2, size // 2
    squares = padded(e.Mul()(x, x), low, high, 0.0)
    total = sliced(squares, 1, 0, x.shape[1])
    for i in range(1, size):
        total = e.Add()(total, sliced(squares, 1, i, i + x.shape[1]))
    base = shift(scale(total, node.attr("alpha", 1e-4) / size), node.attr("bias", 1.0))
    return e.Mul()(x, e.Exp()(scale(e.Log()(base), -node.attr("beta", 0.75))))


def dropout(node: Node) -> Item:
    """Drops only where the model itself was exported for training."""
    x = node.value(0)
    training = node.has(2) and bool(node.array(2, "the training mode of Dropout").item())
    ratio = node.scalar(1) if node.has(1) else 0.5
    if ratio is None:
        raise UnsupportedError("Dropout with a ratio that the model computes")
    if not training or ratio == 0.0:
        return x
    rng = node.leaves.get(State, "rng", _NO_RANDOMNESS)
    return Dropout(ratio, node.leaves.next_salt())(x, rng)


_NO_RANDOMNESS: Array = np.zeros(2, np.int64)  # (seed, step)


TRANSLATIONS: dict[str, Translation] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "BatchNormalization": batch_normalization,
    "LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization,
    "InstanceNormalization": instance_normalization,
    "GroupNormalization": group_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
    "LpNormalization": lp_normalization,
    "LRN": lrn,
    "Dropout": dropout,
}
