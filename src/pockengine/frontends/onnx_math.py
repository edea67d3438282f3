"""ONNX operators that compute element by element: arithmetic, activations, comparisons, logic."""

import math
from collections.abc import Callable
from functools import reduce

import numpy as np

from pockengine.errors import UnsupportedError
from pockengine.frontends.onnx_node import Item, Known, Node, Translation, full_like
from pockengine.frontends.onnx_read import element_dtype
from pockengine.ir.op import Op, Value
from pockengine.ir.types import NUMPY, DType
from pockengine.ops import elementwise as e

SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
SOFTPLUS_THRESHOLD = 20.0  # above it log(1 + exp(x)) is x in float32
Binary = Callable[[Value, Value], Value]


def scale(x: Value, number: float) -> Value:
    return x if number == 1.0 else e.Mul()(x, full_like(x, number))


def shift(x: Value, number: float) -> Value:
    return x if number == 0.0 else e.Add()(x, full_like(x, number))


def unary(op: Op) -> Translation:
    return lambda node: op(node.value(0))


def binary(op: Op) -> Translation:
    return lambda node: op(node.value(0), node.value(1))


def variadic(op: Op) -> Translation:
    return lambda node: reduce(op, node.values())


def divide(node: Node) -> Item:
    a, b = node.value(0), node.value(1)
    if a.type.is_float:
        return e.Div()(a, b)
    if a.dtype == "u8":
        return e.FloorDiv()(a, b)
    magnitude = e.FloorDiv()(e.Abs()(a), e.Abs()(b))  # integers: ONNX rounds towards zero
    return e.Mul()(e.Mul()(e.Sign()(a), e.Sign()(b)), magnitude)


def mod(node: Node) -> Item:
    a, b = node.value(0), node.value(1)
    if not node.attr("fmod", 0):
        return e.Mod()(a, b)
    remainder = e.Mod()(e.Abs()(a), e.Abs()(b))  # the sign follows the dividend, as in C
    return e.Mul()(e.Sign()(a), remainder)


def power(node: Node) -> Item:
    x = node.value(0)
    exponent = node.scalar(1)
    if exponent is None:
        return e.Pow()(x, _as_dtype(node.value(1), x.dtype))
    if not x.type.is_float:
        return e.Pow()(x, full_like(x, exponent))
    return _power_of(x, exponent)


def _power_of(x: Value, exponent: float) -> Value:
    if exponent == 1.0:
        return x
    if exponent == 2.0:
        return e.Mul()(x, x)
    if exponent == 3.0:
        return e.Mul()(e.Mul()(x, x), x)
    if exponent == 0.5:
        return e.Sqrt()(x)
    if exponent == -1.0:
        return e.Reciprocal()(x)
    return e.Pow()(x, full_like(x, exponent))


def cast(node: Node) -> Item:
    return _as_dtype(node.value(0), element_dtype(node.attr("to", 0), "the result of Cast"))


def cast_like(node: Node) -> Item:
    """A known number stays known, as only the dtype of the other input matters."""
    dtype = node.value(1).dtype
    if not node.is_known(0):
        return _as_dtype(node.value(0), dtype)
    return Known(node.array(0, "a number").astype(NUMPY[dtype]), node.proto.output[0])


def _as_dtype(x: Value, dtype: DType) -> Value:
    if x.dtype == dtype:
        return x
    if dtype == "bool":
        return e.NotEqual()(x, full_like(x, 0))
    return e.Cast(dtype)(x)


def clip(node: Node) -> Item:
    x = node.value(0)
    low = node.scalar(1) if node.has(1) else None
    high = node.scalar(2) if node.has(2) else None
    computed = (node.has(1) and low is None) or (node.has(2) and high is None)
    if x.type.is_float and not computed:
        return e.Clip(_bound(low), _bound(high))(x)
    if node.has(1):
        x = e.Maximum()(x, node.value(1))
    return e.Minimum()(x, node.value(2)) if node.has(2) else x


def _bound(number: float | None) -> float | None:
    """None for a bound that lets everything through."""
    if number is None or abs(number) >= float(np.finfo(np.float32).max):
        return None
    return number


def prelu(node: Node) -> Item:
    x, slope = node.value(0), node.value(1)
    return e.Where()(e.Greater()(x, full_like(x, 0)), x, e.Mul()(x, slope))


def selu(node: Node) -> Item:
    alpha = node.attr("alpha", SELU_ALPHA)
    return scale(e.Elu(alpha)(node.value(0)), node.attr("gamma", SELU_GAMMA))


def celu(node: Node) -> Item:
    alpha = node.attr("alpha", 1.0)
    return scale(e.Elu(1.0)(scale(node.value(0), 1.0 / alpha)), alpha)


def thresholded_relu(node: Node) -> Item:
    x, zero = node.value(0), full_like(node.value(0), 0)
    return e.Where()(e.Greater()(x, full_like(x, node.attr("alpha", 1.0))), x, zero)


def hard_sigmoid(node: Node) -> Item:
    x, alpha, beta = node.value(0), node.attr("alpha", 0.2), node.attr("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return e.HardSigmoid()(x)
    return e.Clip(0.0, 1.0)(shift(scale(x, alpha), beta))


def gelu(node: Node) -> Item:
    return e.Gelu(node.attr("approximate", "none") == "tanh")(node.value(0))


def swish(node: Node) -> Item:
    x, alpha = node.value(0), node.attr("alpha", 1.0)
    return e.Silu()(x) if alpha == 1.0 else e.Mul()(x, e.Sigmoid()(scale(x, alpha)))


def mish(node: Node) -> Item:
    x = node.value(0)
    return e.Mul()(x, e.Tanh()(e.Softplus(1.0, SOFTPLUS_THRESHOLD)(x)))


def softsign(node: Node) -> Item:
    x = node.value(0)
    return e.Div()(x, shift(e.Abs()(x), 1.0))


def shrink(node: Node) -> Item:
    x, lambd, bias = node.value(0), node.attr("lambd", 0.5), node.attr("bias", 0.0)
    zero = full_like(x, 0)
    above = e.Where()(e.Greater()(x, full_like(x, lambd)), shift(x, -bias), zero)
    return e.Where()(e.Less()(x, full_like(x, -lambd)), shift(x, bias), above)


def tan(node: Node) -> Item:
    return e.Div()(e.Sin()(node.value(0)), e.Cos()(node.value(0)))


def hyperbolic(join: Op) -> Translation:
    """sinh and cosh: (exp(x) -+ exp(-x)) / 2."""
    return lambda node: scale(join(e.Exp()(node.value(0)), e.Exp()(e.Neg()(node.value(0)))), 0.5)


def is_inf(node: Node) -> Item:
    x = node.value(0)
    if node.attr("detect_negative", 1) and node.attr("detect_positive", 1):
        return e.Equal()(e.Abs()(x), full_like(x, math.inf))
    infinity = math.inf if node.attr("detect_positive", 1) else -math.inf
    return e.Equal()(x, full_like(x, infinity))


def mean_of(node: Node) -> Item:
    total = reduce(e.Add(), node.values())
    return scale(total, 1.0 / len(node.inputs))


def where(node: Node) -> Item:
    return e.Where()(*node.values())


def dequantize(node: Node) -> Item:
    """A weight stored as integers becomes frozen floats; activations must not be quantised."""
    if not isinstance(node.item(0), Known):
        raise UnsupportedError("activations are quantised; export the model in float32")
    stored = node.array(0, "a quantised weight")
    steps = node.array(1, "a quantisation scale")
    zero = node.array(2, "a zero point") if node.has(2) else np.zeros_like(steps)
    if node.attr("block_size", 0):
        raise UnsupportedError("weights are quantised in blocks; export the model in float32")
    if steps.ndim == 1 and steps.size > 1:
        shape = [1] * stored.ndim
        shape[node.attr("axis", 1)] = -1
        steps, zero = steps.reshape(shape), zero.reshape(shape)
    floats = (stored.astype(np.float32) - zero.astype(np.float32)) * steps
    return Known(floats.astype(np.float32), node.proto.output[0])


TRANSLATIONS: dict[str, Translation] = {
    "Abs": unary(e.Abs()),
    "Neg": unary(e.Neg()),
    "Sign": unary(e.Sign()),
    "Exp": unary(e.Exp()),
    "Log": unary(e.Log()),
    "Sqrt": unary(e.Sqrt()),
    "Reciprocal": unary(e.Reciprocal()),
    "Sin": unary(e.Sin()),
    "Cos": unary(e.Cos()),
    "Tan": tan,
    "Sinh": hyperbolic(e.Sub()),
    "Cosh": hyperbolic(e.Add()),
    "Tanh": unary(e.Tanh()),
    "Sigmoid": unary(e.Sigmoid()),
    "Erf": unary(e.Erf()),
    "Floor": unary(e.Floor()),
    "Ceil": unary(e.Ceil()),
    "Round": unary(e.Round()),
    "Not": unary(e.Not()),
    "IsNaN": unary(e.IsNan()),
    "IsInf": is_inf,
    "Relu": unary(e.Relu()),
    "HardSwish": unary(e.HardSwish()),
    "Softplus": unary(e.Softplus(1.0, SOFTPLUS_THRESHOLD)),
    "LeakyRelu": lambda n: e.LeakyRelu(n.attr("alpha", 0.01))(n.value(0)),
    "Elu": lambda n: e.Elu(n.attr("alpha", 1.0))(n.value(0)),
    "Selu": selu,
    "Celu": celu,
    "ThresholdedRelu": thresholded_relu,
    "HardSigmoid": hard_sigmoid,
    "Gelu": gelu,
    "Swish": swish,
    "Mish": mish,
    "Softsign": softsign,
    "Shrink": shrink,
    "PRelu": prelu,
    "Clip": clip,
    "Cast": cast,
    "CastLike": cast_like,
    "Add": binary(e.Add()),
    "Sub": binary(e.Sub()),
    "Mul": binary(e.Mul()),
    "Div": divide,
    "Mod": mod,
    "Pow": power,
    "Less": binary(e.Less()),
    "LessOrEqual": binary(e.LessEqual()),
    "Greater": binary(e.Greater()),
    "GreaterOrEqual": binary(e.GreaterEqual()),
    "Equal": binary(e.Equal()),
    "And": binary(e.And()),
    "Or": binary(e.Or()),
    "Xor": binary(e.Xor()),
    "Where": where,
    "Min": variadic(e.Minimum()),
    "Max": variadic(e.Maximum()),
    "Sum": variadic(e.Add()),
    "Mean": mean_of,
    "DequantizeLinear": dequantize,
}
