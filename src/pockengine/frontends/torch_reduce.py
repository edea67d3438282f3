"""PyTorch operators that reduce axes, and matrix products."""

import math
from collections.abc import Sequence

from pockengine.frontends.torch_context import (
    BatchFixed,
    Context,
    Handler,
    Number,
    Refused,
    axes_of,
    axis_of,
    to,
)
from pockengine.frontends.torch_elementwise import truth
from pockengine.frontends.torch_shape import reshaped
from pockengine.ir.op import Value
from pockengine.ir.types import holds_batch
from pockengine.ops import elementwise as ew
from pockengine.ops import reduce as rd
from pockengine.ops.build import add, equal, mul, sub, where
from pockengine.ops.matmul import MatMul

Axes = int | Sequence[int] | None


def _sum(
    ctx: Context, x: Value, dim: Axes = None, keepdim: bool = False, **kwargs: object
) -> Value:
    return rd.Sum(axes_of(dim, x.type.rank), keepdim)(to(x, ctx.result.dtype))


def _mean(ctx: Context, x: Value, dim: Axes = None, keepdim: bool = False, **kw: object) -> Value:
    return rd.Mean(axes_of(dim, x.type.rank), keepdim)(to(x, ctx.result.dtype))


def _amax(ctx: Context, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    return rd.Max(axes_of(dim, x.type.rank), keepdim)(x)


def _amin(ctx: Context, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    return rd.Min(axes_of(dim, x.type.rank), keepdim)(x)


def _max_with_index(ctx: Context, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    axis = axis_of(dim, x.type.rank)
    return rd.Max((axis,), keepdim)(x), rd.ArgMax(axis, keepdim)(x)


def _min_with_index(ctx: Context, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    axis = axis_of(dim, x.type.rank)
    return rd.Min((axis,), keepdim)(x), rd.ArgMax(axis, keepdim)(ew.Neg()(x))


def _argmax(ctx: Context, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    if dim is None:
        return reshaped(rd.ArgMax(0, False)(reshaped(x, (x.type.size,))), ctx.result.shape)
    return rd.ArgMax(axis_of(dim, x.type.rank), keepdim)(to(x, _comparable(x)))


def _argmin(ctx: Context, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return _argmax(ctx, ew.Neg()(to(x, _comparable(x))), dim, keepdim)


def _comparable(x: Value) -> str:
    return "i64" if x.dtype == "bool" else x.dtype


def _prod(ctx: Context, x: Value, dim: Axes = None, keepdim: bool = False, **kw: object) -> Value:
    return rd.Prod(axes_of(dim, x.type.rank), keepdim)(to(x, ctx.result.dtype))


def _cumsum(ctx: Context, x: Value, dim: int, **kwargs: object) -> Value:
    return rd.CumSum(axis_of(dim, x.type.rank))(to(x, ctx.result.dtype))


def _any(ctx: Context, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    counted = rd.Max(axes_of(dim, x.type.rank), keepdim)(to(truth(x), "i64"))
    return truth(counted)


def _all(ctx: Context, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    return truth(rd.Min(axes_of(dim, x.type.rank), keepdim)(to(truth(x), "i64")))


def variance(x: Value, axes: tuple[int, ...], correction: Number, keepdim: bool) -> Value:
    """Mean squared deviation over `axes`, divided by count - correction instead of count."""
    centred = sub(x, rd.Mean(axes, True)(x))
    biased = rd.Mean(axes, keepdim)(mul(centred, centred))
    if not correction:
        return biased
    if holds_batch(*(x.shape[a] for a in axes)):
        raise BatchFixed("takes an unbiased variance over the batch")
    count = math.prod(x.shape[a] for a in axes)
    return mul(biased, count / (count - correction))


def _correction(unbiased: object, correction: Number | None) -> Number:
    if correction is not None:
        return correction
    return int(unbiased) if isinstance(unbiased, bool) else 1


def _var(
    ctx: Context,
    x: Value,
    dim: Axes = None,
    *,
    correction: Number | None = 1,
    keepdim: bool = False,
) -> Value:
    return variance(x, axes_of(dim, x.type.rank), _correction(None, correction), keepdim)


def _var_dim(
    ctx: Context, x: Value, dim: Axes = None, unbiased: bool = True, keepdim: bool = False
) -> Value:
    return variance(x, axes_of(dim, x.type.rank), _correction(unbiased, None), keepdim)


def _std(
    ctx: Context,
    x: Value,
    dim: Axes = None,
    *,
    correction: Number | None = 1,
    keepdim: bool = False,
) -> Value:
    return _root(_var(ctx, x, dim, correction=correction, keepdim=keepdim))


def _root(x: Value) -> Value:
    """sqrt(x) with the gradient 0 at 0, as PyTorch has it for norms and deviations."""
    zero = equal(x, 0.0)
    return where(zero, 0.0, ew.Sqrt()(where(zero, 1.0, x)))


def _var_mean(
    ctx: Context,
    x: Value,
    dim: Axes = None,
    *,
    correction: Number | None = 1,
    keepdim: bool = False,
) -> tuple[Value, Value]:
    mean = rd.Mean(axes_of(dim, x.type.rank), keepdim)(x)
    return _var(ctx, x, dim, correction=correction, keepdim=keepdim), mean


def _logsumexp(ctx: Context, x: Value, dim: Axes, keepdim: bool = False) -> Value:
    axes = axes_of(dim, x.type.rank)
    top = rd.Max(axes, True)(x)
    total = rd.Sum(axes, keepdim)(ew.Exp()(sub(x, top)))
    return add(ew.Log()(total), reshaped(top, ctx.result.shape))


def _vector_norm(
    ctx: Context,
    x: Value,
    ord: Number | str | None = 2,
    dim: Axes = None,
    keepdim: bool = False,
    **kwargs: object,
) -> Value:
    axes = axes_of(dim, x.type.rank)
    if ord in (2, None, "fro"):
        return _root(rd.Sum(axes, keepdim)(mul(x, x)))
    if ord == 1:
        return rd.Sum(axes, keepdim)(ew.Abs()(x))
    if ord == math.inf:
        return rd.Max(axes, keepdim)(ew.Abs()(x))
    raise Refused(f"a norm of order {ord}")


def weight_norm(ctx: Context, v: Value, g: Value, dim: int = 0) -> Value:
    """The direction of v with the length g, taken over all axes but `dim`."""
    axes = tuple(a for a in range(v.type.rank) if a != axis_of(dim, v.type.rank))
    return mul(v, ew.Div()(g, ew.Sqrt()(rd.Sum(axes, True)(mul(v, v)))))


def _weight_norm_interface(ctx: Context, v: Value, g: Value, dim: int = 0) -> tuple[Value, None]:
    return weight_norm(ctx, v, g, dim), None


def matmul(ctx: Context, a: Value, b: Value) -> Value:
    """PyTorch's matrix product, with vectors on either side."""
    left = reshaped(a, (1, *a.shape)) if a.type.rank == 1 else a
    right = reshaped(b, (*b.shape, 1)) if b.type.rank == 1 else b
    return reshaped(MatMul(False, False)(left, right), ctx.result.shape)


def _addmm(
    ctx: Context, c: Value, a: Value, b: Value, beta: Number = 1, alpha: Number = 1
) -> Value:
    product = MatMul(False, False)(a, b)
    product = product if alpha == 1 else mul(product, float(alpha))
    if beta == 0:
        return product
    return add(product, c if beta == 1 else mul(c, float(beta)))


def linear(ctx: Context, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """x weight^T + bias."""
    if x.type.rank == 1:
        y = MatMul(False, True)(reshaped(x, (1, *x.shape)), weight)
    else:
        y = MatMul(False, True)(x, weight)
    y = y if bias is None else add(y, bias)
    return reshaped(y, ctx.result.shape)


def _outer(ctx: Context, a: Value, b: Value) -> Value:
    return mul(reshaped(a, (*a.shape, 1)), b)


HANDLERS: dict[str, Handler] = {
    "sum": _sum,
    "mean": _mean,
    "amax": _amax,
    "amin": _amin,
    "max.default": _amax,
    "max.dim": _max_with_index,
    "max.other": lambda ctx, a, b: ew.Maximum()(a, b),
    "min.default": _amin,
    "min.dim": _min_with_index,
    "min.other": lambda ctx, a, b: ew.Minimum()(a, b),
    "argmax": _argmax,
    "argmin": _argmin,
    "prod": _prod,
    "prod.dim_int": _prod,
    "cumsum": _cumsum,
    "any": _any,
    "all": _all,
    "var.correction": _var,
    "var.dim": _var_dim,
    "std.correction": _std,
    "var_mean.correction": _var_mean,
    "logsumexp": _logsumexp,
    "linalg_vector_norm": _vector_norm,
    "norm": _vector_norm,
    "_weight_norm": weight_norm,
    "_weight_norm_interface": _weight_norm_interface,
    "matmul": matmul,
    "mm": matmul,
    "bmm": matmul,
    "mv": matmul,
    "dot": matmul,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "linear": linear,
    "outer": _outer,
}
