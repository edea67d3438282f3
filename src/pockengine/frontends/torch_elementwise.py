"""Elementwise PyTorch operators."""

import math
from collections.abc import Callable

from pockengine.frontends.torch_context import (
    Context,
    Handler,
    Number,
    Refused,
    Scalar,
    as_float,
    operand,
    plain,
    promoted,
    to,
)
from pockengine.ir.op import Op, Value
from pockengine.ops import elementwise as ew
from pockengine.ops.build import add, div, mul, sub
from pockengine.ops.shape import Reshape

LN2, LN10 = math.log(2.0), math.log(10.0)


def _unary(op: type[Op]) -> Handler:
    return lambda ctx, x: op()(x)


def _float_unary(op: type[Op]) -> Handler:
    return lambda ctx, x: op()(as_float(x))


def _binary(op: type[Op]) -> Handler:
    def handler(ctx: Context, a: Scalar, b: Scalar) -> Value:
        dtype = ctx.result.dtype
        return op()(operand(a, dtype), operand(b, dtype))

    return handler


def _comparison(op: type[Op]) -> Handler:
    def handler(ctx: Context, a: Scalar, b: Scalar) -> Value:
        dtype = promoted(a, b)
        return op()(operand(a, dtype), operand(b, dtype))

    return handler


def _logical(op: type[Op]) -> Handler:
    return lambda ctx, a, b: op()(truth(a), truth(b))


def _bitwise(op: type[Op]) -> Handler:
    def handler(ctx: Context, a: Scalar, b: Scalar) -> Value:
        if ctx.result.dtype != "bool":
            raise Refused("bitwise arithmetic on integers")
        return op()(operand(a, "bool"), operand(b, "bool"))

    return handler


def truth(x: Scalar) -> Value:
    """`x` as bool: whether it is not zero."""
    if isinstance(x, Value) and x.dtype != "bool":
        return ew.NotEqual()(x, operand(0, x.dtype))
    return operand(x, "bool")


def _scaled(ctx: Context, x: Scalar, alpha: Number) -> Value:
    value = operand(x, ctx.result.dtype)
    return value if alpha == 1 else mul(value, plain(alpha))


def _add(ctx: Context, a: Scalar, b: Scalar, alpha: Number = 1) -> Value:
    return add(operand(a, ctx.result.dtype), _scaled(ctx, b, alpha))


def _sub(ctx: Context, a: Scalar, b: Scalar, alpha: Number = 1) -> Value:
    return sub(operand(a, ctx.result.dtype), _scaled(ctx, b, alpha))


def _rsub(ctx: Context, a: Scalar, b: Scalar, alpha: Number = 1) -> Value:
    return _sub(ctx, b, a, alpha)


def _div(ctx: Context, a: Scalar, b: Scalar, rounding_mode: str | None = None) -> Value:
    dtype = ctx.result.dtype
    x, y = operand(a, dtype), operand(b, dtype)
    if rounding_mode is None:
        return div(x, y)
    if rounding_mode == "floor":
        return ew.FloorDiv()(x, y)
    return _truncated(ew.Div()(x, y)) if ctx.result.is_float else _truncated_integers(x, y)


def _floor_divide(ctx: Context, a: Scalar, b: Scalar) -> Value:
    return _div(ctx, a, b, "floor")


def _truncated(x: Value) -> Value:
    return mul(ew.Sign()(x), ew.Floor()(ew.Abs()(x)))


def _truncated_integers(x: Value, y: Value) -> Value:
    size = ew.FloorDiv()(ew.Abs()(x), ew.Abs()(y))
    return mul(size, mul(ew.Sign()(x), ew.Sign()(y)))


def _trunc(ctx: Context, x: Value) -> Value:
    return _truncated(x) if x.type.is_float else x


def _fmod(ctx: Context, a: Scalar, b: Scalar) -> Value:
    dtype = ctx.result.dtype
    x, y = operand(a, dtype), operand(b, dtype)
    return sub(x, mul(_div(ctx, x, y, "trunc"), y))


def _pow(ctx: Context, a: Scalar, b: Scalar) -> Value:
    x = operand(a, ctx.result.dtype)
    if isinstance(b, Value):
        return ew.Pow()(x, to(b, x.dtype))
    if b in _POWERS:
        return _POWERS[b](x)
    return ew.Pow()(x, operand(b, x.dtype))


_POWERS: dict[float, Callable[[Value], Value]] = {
    0.5: lambda x: ew.Sqrt()(x),
    1: lambda x: x,
    2: lambda x: mul(x, x),
    3: lambda x: mul(mul(x, x), x),
    -0.5: lambda x: ew.Rsqrt()(x),
    -1: lambda x: ew.Reciprocal()(x),
}


def _square(ctx: Context, x: Value) -> Value:
    return mul(x, x)


def _clamp(ctx: Context, x: Value, low: Scalar | None = None, high: Scalar | None = None) -> Value:
    x = to(x, ctx.result.dtype)
    if x.type.is_float and not isinstance(low, Value) and not isinstance(high, Value):
        return ew.Clip(_maybe_float(low), _maybe_float(high))(x)
    if low is not None:
        x = ew.Maximum()(x, operand(low, x.dtype))
    return x if high is None else ew.Minimum()(x, operand(high, x.dtype))


def _maybe_float(x: Number | None) -> float | None:
    return None if x is None else float(x)


def _clamp_max(ctx: Context, x: Value, high: Scalar) -> Value:
    return _clamp(ctx, x, None, high)


def _hardtanh(ctx: Context, x: Value, low: Number = -1.0, high: Number = 1.0) -> Value:
    return ew.Clip(float(low), float(high))(x)


def _relu6(ctx: Context, x: Value) -> Value:
    return ew.Clip(0.0, 6.0)(x)


def _leaky_relu(ctx: Context, x: Value, slope: float = 0.01) -> Value:
    return ew.LeakyRelu(float(slope))(x)


def _prelu(ctx: Context, x: Value, weight: Value) -> Value:
    if weight.type.rank == 1 < weight.type.size:  # one slope a channel
        weight = Reshape((*weight.shape, *(1,) * (x.type.rank - 2)))(weight)
    return ew.Where()(ew.Greater()(x, operand(0, x.dtype)), x, mul(x, weight))


def _elu(ctx: Context, x: Value, alpha: Number = 1, scale: Number = 1, inner: Number = 1) -> Value:
    y = ew.Elu(float(alpha))(x) if inner == 1 else _general_elu(x, float(alpha), float(inner))
    return y if scale == 1 else mul(y, float(scale))


def _general_elu(x: Value, alpha: float, inner: float) -> Value:
    # Below zero alpha * (exp(inner * x) - 1) is an ordinary ELU of inner * x; above, x itself.
    below = ew.Elu(alpha)(mul(x, inner))
    return ew.Where()(ew.Greater()(x, operand(0, x.dtype)), x, below)


def _celu(ctx: Context, x: Value, alpha: Number = 1) -> Value:
    return _general_elu(x, float(alpha), 1.0 / float(alpha))


def _selu(ctx: Context, x: Value) -> Value:
    return _elu(ctx, x, 1.6732632423543772, 1.0507009873554805)


def _softplus(ctx: Context, x: Value, beta: Number = 1, threshold: Number = 20) -> Value:
    return ew.Softplus(float(beta), float(threshold))(x)


def _log_sigmoid(ctx: Context, x: Value) -> Value:
    return ew.Neg()(ew.Softplus(1.0, 20.0)(ew.Neg()(x)))


def _log_sigmoid_forward(ctx: Context, x: Value) -> tuple[Value | None, ...]:
    return _log_sigmoid(ctx, x), None


def _gelu(ctx: Context, x: Value, approximate: str = "none") -> Value:
    return ew.Gelu(approximate == "tanh")(x)


def _mish(ctx: Context, x: Value) -> Value:
    return mul(x, ew.Tanh()(ew.Softplus(1.0, 20.0)(x)))


def _softsign(ctx: Context, x: Value) -> Value:
    return div(x, add(ew.Abs()(x), 1.0))


def _hardshrink(ctx: Context, x: Value, lambd: Number = 0.5) -> Value:
    large = ew.Greater()(ew.Abs()(x), operand(lambd, x.dtype))
    return ew.Where()(large, x, operand(0, x.dtype))


def _softshrink(ctx: Context, x: Value, lambd: Number = 0.5) -> Value:
    return sub(x, ew.Clip(-float(lambd), float(lambd))(x))


def _threshold(ctx: Context, x: Value, threshold: Number, value: Number) -> Value:
    above = ew.Greater()(x, operand(threshold, x.dtype))
    return ew.Where()(above, x, operand(value, x.dtype))


def _expm1(ctx: Context, x: Value) -> Value:
    return sub(ew.Exp()(as_float(x)), 1.0)


def _tan(ctx: Context, x: Value) -> Value:
    return div(ew.Sin()(as_float(x)), ew.Cos()(as_float(x)))


def _log2(ctx: Context, x: Value) -> Value:
    return div(ew.Log()(as_float(x)), LN2)


def _log10(ctx: Context, x: Value) -> Value:
    return div(ew.Log()(as_float(x)), LN10)


def _exp2(ctx: Context, x: Value) -> Value:
    return ew.Exp()(mul(as_float(x), LN2))


def _erfc(ctx: Context, x: Value) -> Value:
    return sub(operand(1, x.dtype), ew.Erf()(x))


def _logit(ctx: Context, x: Value, eps: float | None = None) -> Value:
    if eps is not None:
        x = ew.Clip(float(eps), 1.0 - float(eps))(x)
    return sub(ew.Log()(x), ew.Log1p()(ew.Neg()(x)))


def _round(ctx: Context, x: Value, decimals: int = 0) -> Value:
    if decimals:
        raise Refused(f"rounding to {decimals} decimals")
    return ew.Round()(x) if x.type.is_float else x


def _not(ctx: Context, x: Value) -> Value:
    return ew.Not()(truth(x))


def _bitwise_not(ctx: Context, x: Value) -> Value:
    return ew.Not()(x) if x.dtype == "bool" else sub(ew.Neg()(x), 1)


def _isinf(ctx: Context, x: Value) -> Value:
    return ew.Equal()(ew.Abs()(x), operand(math.inf, x.dtype))


def _isfinite(ctx: Context, x: Value) -> Value:
    return ew.Less()(ew.Abs()(x), operand(math.inf, x.dtype))


def _where(ctx: Context, condition: Value, a: Scalar, b: Scalar) -> Value:
    dtype = ctx.result.dtype
    return ew.Where()(truth(condition), operand(a, dtype), operand(b, dtype))


def _masked_fill(ctx: Context, x: Value, mask: Value, value: Scalar) -> Value:
    return ew.Where()(mask, operand(value, x.dtype), x)


def _cast(ctx: Context, x: Value, *args: object, **kwargs: object) -> Value:
    return to(x, ctx.result.dtype)


def _addcmul(ctx: Context, x: Value, a: Value, b: Value, value: Number = 1) -> Value:
    return add(x, _scaled(ctx, mul(a, b), value))


def _addcdiv(ctx: Context, x: Value, a: Value, b: Value, value: Number = 1) -> Value:
    return add(x, _scaled(ctx, div(a, b), value))


def _lerp(ctx: Context, a: Value, b: Value, weight: Scalar) -> Value:
    return add(a, mul(sub(b, a), operand(weight, a.dtype)))


def _nan_to_num(
    ctx: Context,
    x: Value,
    nan: float | None = None,
    posinf: float | None = None,
    neginf: float | None = None,
) -> Value:
    limit = 3.4028234663852886e38 if x.dtype == "f32" else 1.7976931348623157e308
    low, high = -limit if neginf is None else neginf, limit if posinf is None else posinf
    bounded = ew.Where()(ew.Equal()(x, operand(math.inf, x.dtype)), operand(high, x.dtype), x)
    bounded = ew.Where()(ew.Equal()(x, operand(-math.inf, x.dtype)), operand(low, x.dtype), bounded)
    return ew.Where()(ew.IsNan()(x), operand(nan or 0.0, x.dtype), bounded)


HANDLERS: dict[str, Handler] = {
    **{
        name: _unary(op)
        for name, op in {
            "neg": ew.Neg,
            "abs": ew.Abs,
            "sign": ew.Sign,
            "relu": ew.Relu,
            "silu": ew.Silu,
            "hardsigmoid": ew.HardSigmoid,
            "hardswish": ew.HardSwish,
            "isnan": ew.IsNan,
            "floor": ew.Floor,
            "ceil": ew.Ceil,
        }.items()
    },
    **{
        name: _float_unary(op)
        for name, op in {
            "exp": ew.Exp,
            "log": ew.Log,
            "log1p": ew.Log1p,
            "sqrt": ew.Sqrt,
            "rsqrt": ew.Rsqrt,
            "reciprocal": ew.Reciprocal,
            "sin": ew.Sin,
            "cos": ew.Cos,
            "tanh": ew.Tanh,
            "sigmoid": ew.Sigmoid,
            "erf": ew.Erf,
        }.items()
    },
    **{
        name: _binary(op)
        for name, op in {
            "mul": ew.Mul,
            "multiply": ew.Mul,
            "maximum": ew.Maximum,
            "minimum": ew.Minimum,
            "remainder": ew.Mod,
        }.items()
    },
    **{
        name: _comparison(op)
        for name, op in {
            "lt": ew.Less,
            "le": ew.LessEqual,
            "gt": ew.Greater,
            "ge": ew.GreaterEqual,
            "eq": ew.Equal,
            "ne": ew.NotEqual,
        }.items()
    },
    **{
        f"logical_{name}": _logical(op)
        for name, op in {"and": ew.And, "or": ew.Or, "xor": ew.Xor}.items()
    },
    **{
        name: _bitwise(op)
        for name, op in {
            "bitwise_and": ew.And,
            "bitwise_or": ew.Or,
            "bitwise_xor": ew.Xor,
            "__and__": ew.And,
            "__or__": ew.Or,
            "__xor__": ew.Xor,
        }.items()
    },
    "add": _add,
    "sub": _sub,
    "rsub": _rsub,
    "div": _div,
    "floor_divide": _floor_divide,
    "fmod": _fmod,
    "trunc": _trunc,
    "pow": _pow,
    "square": _square,
    "round": _round,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp_max,
    "hardtanh": _hardtanh,
    "relu6": _relu6,
    "leaky_relu": _leaky_relu,
    "prelu": _prelu,
    "_prelu_kernel": _prelu,
    "elu": _elu,
    "celu": _celu,
    "selu": _selu,
    "softplus": _softplus,
    "log_sigmoid": _log_sigmoid,
    "log_sigmoid_forward": _log_sigmoid_forward,
    "gelu": _gelu,
    "mish": _mish,
    "softsign": _softsign,
    "hardshrink": _hardshrink,
    "softshrink": _softshrink,
    "threshold": _threshold,
    "expm1": _expm1,
    "tan": _tan,
    "log2": _log2,
    "log10": _log10,
    "exp2": _exp2,
    "erfc": _erfc,
    "special_erfc": _erfc,
    "logit": _logit,
    "logical_not": _not,
    "bitwise_not": _bitwise_not,
    "isinf": _isinf,
    "isfinite": _isfinite,
    "where": _where,
    "masked_fill": _masked_fill,
    "_to_copy": _cast,
    "to": _cast,
    "type_as": _cast,
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "lerp": _lerp,
    "nan_to_num": _nan_to_num,
}
