"""PyTorch's layers: convolution, pooling, resizing, normalisation, attention, dropout, softmax."""

import math
from collections.abc import Sequence

import numpy as np

from pockengine.frontends.torch_context import (
    Context,
    Handler,
    Refused,
    axis_of,
    pair,
    to,
)
from pockengine.frontends.torch_shape import reshaped, sliced
from pockengine.ir.graph import State
from pockengine.ir.op import Value
from pockengine.ops.attention import attention
from pockengine.ops.build import add, mul
from pockengine.ops.constant import Full
from pockengine.ops.conv import Conv, ConvInputGrad
from pockengine.ops.elementwise import Add, Floor, Sigmoid
from pockengine.ops.matmul import MatMul
from pockengine.ops.norm import (
    BatchNorm,
    Normalize,
    group_norm,
    instance_norm,
    layer_norm,
    others,
    rms_norm,
)
from pockengine.ops.pool import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, MaxPool
from pockengine.ops.random import Dropout, RandomUniform
from pockengine.ops.reduce import Max, Mean
from pockengine.ops.resize import Resize
from pockengine.ops.softmax import LogSoftmax, Softmax
from pockengine.ops.windows import window_counts

Ints = int | Sequence[int]
Padding = tuple[tuple[int, int], ...]


# ---- convolution ---------------------------------------------------------------------------------


def _spatial_rank(x: Value, weight: Value) -> int:
    if x.type.rank != weight.type.rank:
        raise Refused("an input without a batch dimension; add one")
    return x.type.rank - 2


def _symmetric(padding: Sequence[int]) -> Padding:
    return tuple((p, p) for p in padding)


def _with_bias(y: Value, bias: Value | None) -> Value:
    if bias is None:
        return y
    return add(y, reshaped(bias, (bias.shape[0], *(1,) * (y.type.rank - 2))))


def _conv(
    ctx: Context,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Value:
    rank = _spatial_rank(x, weight)
    dilate = pair(dilation, rank)
    if isinstance(padding, str):
        around = _named_padding(padding, weight.shape[2:], dilate)
    else:
        around = _symmetric(pair(padding, rank))
    return _with_bias(Conv(pair(stride, rank), around, dilate, groups, False)(x, weight), bias)


def _named_padding(name: str, kernel: Sequence[int], dilation: Sequence[int]) -> Padding:
    total = [d * (k - 1) if name == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
    return tuple((n // 2, n - n // 2) for n in total)


def _conv_transpose(
    ctx: Context,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Value:
    rank = _spatial_rank(x, weight)
    strides, pads = pair(stride, rank), _symmetric(pair(padding, rank))
    size = ctx.result.shape[2:]
    op = ConvInputGrad(strides, pads, pair(dilation, rank), groups, False, size)
    return _with_bias(op(x, weight), bias)


def _convolution(
    ctx: Context,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
) -> Value:
    if transposed:
        return _conv_transpose(
            ctx, x, weight, bias, stride, padding, output_padding, groups, dilation
        )
    return _conv(ctx, x, weight, bias, stride, padding, dilation, groups)


def _im2col(
    ctx: Context, x: Value, kernel: Ints, dilation: Ints, padding: Ints, stride: Ints
) -> Value:
    """The windows of x[N, C, H, W] as columns [N, C kh kw, L]: a convolution that copies."""
    channels, size = x.shape[1], pair(kernel, 2)
    around = _symmetric(pair(padding, 2))
    op = Conv(pair(stride, 2), around, pair(dilation, 2), channels, False)
    return reshaped(op(x, _copying_kernels(ctx, channels, size)), ctx.result.shape)


def _col2im(
    ctx: Context,
    x: Value,
    output_size: Ints,
    kernel: Ints,
    dilation: Ints,
    padding: Ints,
    stride: Ints,
) -> Value:
    """The transpose of im2col: columns added into the places of their windows."""
    channels, size = ctx.result.shape[1], pair(kernel, 2)
    strides, around, dilate = pair(stride, 2), _symmetric(pair(padding, 2)), pair(dilation, 2)
    counts = window_counts(ctx.result.shape[2:], size, strides, around, dilate)
    image = reshaped(x, (*x.shape[:2], *counts))
    op = ConvInputGrad(strides, around, dilate, channels, False, ctx.result.shape[2:])
    return op(image, _copying_kernels(ctx, channels, size))


def _copying_kernels(ctx: Context, channels: int, size: Sequence[int]) -> Value:
    """For each channel one kernel for every place in the window, that reads this place alone."""
    places = np.eye(math.prod(size), dtype=np.float32)
    return ctx.const(np.tile(places, (channels, 1)).reshape(-1, 1, *size))


# ---- pooling and resizing ------------------------------------------------------------------------


def _window_padding(
    ctx: Context, x: Value, kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int]
) -> Padding:
    """Padding on both sides; where ceil_mode adds a window, the far side is padded further."""
    padding = []
    for n, m, k, s, p in zip(x.shape[2:], ctx.result.shape[2:], kernel, stride, pad, strict=True):
        fits = (n + 2 * p - k) // s + 1 == m
        padding.append((p, p if fits else (m - 1) * s + k - n - p))
    return tuple(padding)


def _max_pool(
    ctx: Context,
    x: Value,
    kernel_size: Ints,
    stride: Ints = (),
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> Value:
    rank = x.type.rank - 2
    kernel, pads, dilate = (pair(v, rank) for v in (kernel_size, padding, dilation))
    strides = pair(stride, rank) or kernel
    extent = [d * (k - 1) + 1 for d, k in zip(dilate, kernel, strict=True)]
    around = _window_padding(ctx, x, extent, strides, pads)
    return MaxPool(kernel, strides, around, dilate, False)(x)


def _max_pool_with_indices(ctx: Context, x: Value, *args: Ints) -> tuple[Value, None]:
    return _max_pool(ctx, x, *args), None  # type: ignore[arg-type]


def _avg_pool(
    ctx: Context,
    x: Value,
    kernel_size: Ints,
    stride: Ints = (),
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    rank = x.type.rank - 2
    kernel, pads = pair(kernel_size, rank), pair(padding, rank)
    strides = pair(stride, rank) or kernel
    around = _window_padding(ctx, x, kernel, strides, pads)
    longer = around != _symmetric(pads)
    if longer and count_include_pad and any(pads):
        raise Refused("ceil_mode together with padding that counts")
    # PyTorch never counts what ceil_mode adds, which without padding is to exclude padding.
    included = count_include_pad and not longer
    if divisor_override is None:
        return AvgPool(kernel, strides, around, included, False)(x)
    summed = mul(AvgPool(kernel, strides, around, True, False)(x), float(math.prod(kernel)))
    return mul(summed, 1.0 / divisor_override)


def _adaptive_avg_pool(ctx: Context, x: Value, output_size: Ints) -> Value:
    size, now = ctx.result.shape[2:], x.shape[2:]
    if size == now:
        return x
    if set(size) == {1}:
        return Mean(tuple(range(2, x.type.rank)), True)(x)
    return AdaptiveAvgPool(size, False)(x)


def _adaptive_max_pool(ctx: Context, x: Value, output_size: Ints) -> tuple[Value, None]:
    size = ctx.result.shape[2:]
    if set(size) == {1}:
        return Max(tuple(range(2, x.type.rank)), True)(x), None
    return AdaptiveMaxPool(size, False)(x), None


def _resize(mode: str, coordinates: str) -> Handler:
    def handler(ctx: Context, x: Value, *args: object, **kwargs: object) -> Value:
        size = ctx.result.shape[2:]
        factors = next((a for a in reversed(args) if isinstance(a, Sequence)), None)
        _check_scale(x.shape[2:], size, factors)
        return Resize(size, mode, coordinates, False)(x)

    return handler


def _check_scale(old: Sequence[int], new: Sequence[int], factors: object) -> None:
    # PyTorch uses a given factor itself, not new / old: they differ when the size was rounded.
    if isinstance(factors, Sequence) and any(isinstance(f, float) for f in factors):
        exact = all(n * f == m for n, m, f in zip(old, new, factors, strict=True))
        if not exact:
            raise Refused("a scale factor that does not give a whole size; pass the size instead")


def _bilinear(ctx: Context, x: Value, size: object, align_corners: bool, *scales: object) -> Value:
    coordinates = "align_corners" if align_corners else "half_pixel"
    return _resize("bilinear", coordinates)(ctx, x, *scales)  # type: ignore[return-value]


def _bicubic(ctx: Context, x: Value, size: object, align_corners: bool, *scales: object) -> Value:
    if any(s is not None for s in scales):
        raise Refused("bicubic resizing by a scale factor; pass the size instead")
    old, new = x.shape[2:], ctx.result.shape[2:]
    rows, columns = (
        ctx.const(_cubic_matrix(n, m, align_corners)) for n, m in zip(old, new, strict=True)
    )
    return MatMul(False, True)(MatMul(False, False)(rows, x), columns)


def _cubic_matrix(size: int, count: int, align_corners: bool) -> np.ndarray:
    """The matrix [count, size] of cubic convolution with a = -0.75, clamped at the borders."""
    at = np.arange(count)
    if align_corners:
        where = at * ((size - 1) / max(count - 1, 1))
    else:
        where = (at + 0.5) * (size / count) - 0.5
    first = np.floor(where).astype(int)
    matrix = np.zeros((count, size))
    for k in range(-1, 3):
        weight = _cubic(np.abs(where - (first + k)))
        np.add.at(matrix, (at, np.clip(first + k, 0, size - 1)), weight)
    return matrix.astype(np.float32)


def _cubic(t: np.ndarray, a: float = -0.75) -> np.ndarray:
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * (t**3 - 5 * t**2 + 8 * t - 4)
    return np.where(t <= 1, near, far)


# ---- normalisation -------------------------------------------------------------------------------


def _filled(count: int, dtype: str, value: float) -> Value:
    return Full((count,), dtype, value)()


def _batch_norm(
    ctx: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    var: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn: bool = False,
) -> Value:
    gamma = _filled(x.shape[1], x.dtype, 1.0) if weight is None else weight
    beta = _filled(x.shape[1], x.dtype, 0.0) if bias is None else bias
    if mean is None or var is None:
        return _normalized_by_batch(x, gamma, beta, eps)
    if training and not all(isinstance(v.op, State) for v in (mean, var)):
        raise Refused("running statistics that are no buffers of the model")
    return BatchNorm(1, eps, momentum, training)(x, gamma, beta, mean, var)


def _normalized_by_batch(x: Value, gamma: Value, beta: Value, eps: float) -> Value:
    column = (x.shape[1], *(1,) * (x.type.rank - 2))
    y = Normalize(others(1, x.type.rank), eps)(x)
    return add(mul(y, reshaped(gamma, column)), reshaped(beta, column))


def _batch_norm_functional(ctx: Context, x: Value, *args: object) -> tuple[Value | None, ...]:
    # The new running statistics (results 3 and 4) are made where BatchNorm is expanded, so a second
    # use of the norm is given the leaves again.
    mean, var = args[2:4]
    return _batch_norm(ctx, x, *args), None, None, mean, var  # type: ignore[arg-type,return-value]


def _batch_norm_inference(
    ctx: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    var: Value,
    momentum: float,
    eps: float,
) -> tuple[Value | None, ...]:
    return _batch_norm(ctx, x, weight, bias, mean, var, False, momentum, eps), None, None


def _batch_norm_no_stats(
    ctx: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Value | None, ...]:
    return _batch_norm(ctx, x, weight, bias, None, None, True, momentum, eps), None, None


def _instance_norm(
    ctx: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    var: Value | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn: bool = False,
) -> Value:
    if mean is not None and not use_input_stats:
        return _batch_norm(ctx, x, weight, bias, mean, var, False, momentum, eps)
    if mean is not None:
        raise Refused("running statistics of an instance norm in training")
    return instance_norm(x, weight, bias, eps)


def _layer_norm(
    ctx: Context,
    x: Value,
    shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn: bool = False,
) -> Value:
    return layer_norm(x, len(shape), weight, bias, eps)


def _native_layer_norm(ctx: Context, x: Value, *args: object) -> tuple[Value | None, ...]:
    return _layer_norm(ctx, x, *args), None, None  # type: ignore[arg-type]


def _group_norm(
    ctx: Context,
    x: Value,
    groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn: bool = False,
) -> Value:
    return group_norm(x, groups, weight, bias, eps)


def _native_group_norm(
    ctx: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    n: int,
    c: int,
    hw: int,
    groups: int,
    eps: float,
) -> tuple[Value | None, ...]:
    return group_norm(x, groups, weight, bias, eps), None, None


def _rms_norm(
    ctx: Context,
    x: Value,
    shape: Sequence[int],
    weight: Value | None = None,
    eps: float | None = None,
) -> Value:
    tiny = float(np.finfo(np.float32).eps)
    return rms_norm(x, len(shape), weight, tiny if eps is None else eps)


def _fused_rms_norm(ctx: Context, x: Value, *args: object) -> tuple[Value | None, ...]:
    return _rms_norm(ctx, x, *args), None  # type: ignore[arg-type]


# ---- attention, softmax, dropout -----------------------------------------------------------------


def _attention(
    ctx: Context,
    q: Value,
    k: Value,
    v: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    if enable_gqa:
        k, v = (_shared_heads(x, q.shape[-3]) for x in (k, v))
    y = attention(q, k, v, attn_mask, is_causal, scale)
    if not dropout_p:
        return y
    weights, values = y.inputs  # the last step of attention is weights @ values
    return y.op(_dropout(ctx, weights, dropout_p), values)


def _shared_heads(x: Value, heads: int) -> Value:
    """Each key or value head repeated for the query heads that share it. x[..., G, S, D]."""
    *batch, groups, length, size = x.shape
    if groups == heads:
        return x
    wide = reshaped(x, (*batch, groups, 1, length, size))
    repeated = add(wide, Full((heads // groups, 1, 1), x.dtype, 0.0)())
    return reshaped(repeated, (*batch, heads, length, size))


def _softmax(ctx: Context, x: Value, dim: int, *args: object, **kwargs: object) -> Value:
    return Softmax(axis_of(dim, x.type.rank))(to(x, ctx.result.dtype))


def _log_softmax(ctx: Context, x: Value, dim: int, *args: object, **kwargs: object) -> Value:
    return LogSoftmax(axis_of(dim, x.type.rank))(to(x, ctx.result.dtype))


def _dropout(ctx: Context, x: Value, p: float = 0.5, train: bool | None = True) -> Value:
    return Dropout(float(p), ctx.salt())(x, ctx.rng()) if train and p else x


def _native_dropout(
    ctx: Context, x: Value, p: float, train: bool | None = True
) -> tuple[Value, None]:
    return _dropout(ctx, x, p, train), None


def _feature_dropout(ctx: Context, x: Value, p: float, train: bool) -> Value:
    """Drops whole channels: one draw for each (sample, channel)."""
    if not train or not p:
        return x
    ones = Full((*x.shape[:2], *(1,) * (x.type.rank - 2)), x.dtype, 1.0)()
    return mul(x, _dropout(ctx, ones, p))


def _rand(ctx: Context, *args: object, **kwargs: object) -> Value:
    return RandomUniform(ctx.result.shape, ctx.salt())(ctx.rng())


def _floor(ctx: Context, x: Value) -> Value:
    """floor(keep + uniform) is how stochastic depth draws what it keeps; that is a dropout of ones.

    As a Dropout it is left out at inference, like every other.
    """
    keep = _keep_probability(x)
    if keep is None:
        return Floor()(x) if x.type.is_float else x
    ones = Full(x.shape, x.dtype, 1.0)()
    return mul(_dropout(ctx, ones, 1.0 - keep), keep)


def _keep_probability(x: Value) -> float | None:
    if not isinstance(x.op, Add):
        return None
    numbers = [v.op.value for v in x.inputs if isinstance(v.op, Full)]
    drawn = any(isinstance(v.op, RandomUniform) for v in x.inputs)
    return float(numbers[0]) if drawn and numbers else None


def _bernoulli(ctx: Context, x: Value, p: float) -> Value:
    ones = Full(x.shape, x.dtype, 1.0)()
    return mul(_dropout(ctx, ones, 1.0 - p), float(p))


def _glu(ctx: Context, x: Value, dim: int = -1) -> Value:
    axis = axis_of(dim, x.type.rank)
    half = x.shape[axis] // 2
    return mul(sliced(x, axis, 0, half), Sigmoid()(sliced(x, axis, half, 2 * half)))


HANDLERS: dict[str, Handler] = {
    "conv1d": _conv,
    "conv2d": _conv,
    "conv3d": _conv,
    "convolution": _convolution,
    "im2col": _im2col,
    "col2im": _col2im,
    "conv_transpose1d": _conv_transpose,
    "conv_transpose2d": _conv_transpose,
    "conv_transpose3d": _conv_transpose,
    **{f"max_pool{n}d": _max_pool for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices": _max_pool_with_indices for n in (2, 3)},
    **{f"avg_pool{n}d": _avg_pool for n in (1, 2, 3)},
    **{f"{p}adaptive_avg_pool{n}d": _adaptive_avg_pool for n in (1, 2, 3) for p in ("", "_")},
    **{f"adaptive_max_pool{n}d": _adaptive_max_pool for n in (1, 2, 3)},
    **{f"upsample_nearest{n}d": _resize("nearest", "asymmetric") for n in (1, 2)},
    **{f"_upsample_nearest_exact{n}d": _resize("nearest", "half_pixel") for n in (1, 2)},
    "upsample_bilinear2d": _bilinear,
    "upsample_linear1d": _bilinear,
    "upsample_bicubic2d": _bicubic,
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_functional": _batch_norm_functional,
    "native_batch_norm": _batch_norm_functional,
    "_batch_norm_with_update_functional": _batch_norm_functional,
    "_native_batch_norm_legit_no_training": _batch_norm_inference,
    "_native_batch_norm_legit.no_stats": _batch_norm_no_stats,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "native_layer_norm": _native_layer_norm,
    "group_norm": _group_norm,
    "native_group_norm": _native_group_norm,
    "rms_norm": _rms_norm,
    "_fused_rms_norm": _fused_rms_norm,
    "scaled_dot_product_attention": _attention,
    "softmax": _softmax,
    "_softmax": _softmax,
    "_safe_softmax": _softmax,
    "special_softmax": _softmax,
    "log_softmax": _log_softmax,
    "_log_softmax": _log_softmax,
    "dropout": _dropout,
    "native_dropout": _native_dropout,
    "feature_dropout": _feature_dropout,
    "rand": _rand,
    "rand_like": _rand,
    "floor": _floor,
    "bernoulli": _bernoulli,
    "glu": _glu,
}
