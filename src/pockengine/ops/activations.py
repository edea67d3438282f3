"""Activation functions.

A gradient that needs only a truth value makes it by comparison, so that a pass can keep bits.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pockengine.ir.op import Array, Gradients, Value
from pockengine.ops.arithmetic import Erf, Exp, Tanh, add, div, erf, mul, sub
from pockengine.ops.compare import And, Greater, GreaterEqual, Less, where
from pockengine.ops.constant import c_literal
from pockengine.ops.pointwise import INFINITE, Operand, Unary, as_dtype, scalar


def _where_above(x: Value, bound: float, g: Value, otherwise: Operand) -> Value:
    return where(Greater()(x, scalar(bound, x.dtype)), g, otherwise)


def _c(value: float) -> str:
    return c_literal(value, "f32")


@dataclass(frozen=True)
class Relu(Unary):
    """y = max(x, 0); the gradient is 0 at 0."""

    edges = INFINITE
    torch = "torch.relu"

    def ref(self, x: Array) -> Array:
        return np.maximum(x, 0)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (_where_above(y, 0.0, g, 0.0),)

    def c_expr(self, x: str) -> str:
        return f"({x} < 0.0f ? 0.0f : {x})"


@dataclass(frozen=True)
class Clip(Unary):
    """y = min(max(x, low), high), a side without bound being None; the gradient is 0 at a bound."""

    low: float | None
    high: float | None

    edges = (*INFINITE, 6.0)

    def ref(self, x: Array) -> Array:
        return as_dtype(np.clip(x, self.low, self.high), x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        tests = []
        if self.low is not None:
            tests.append(Greater()(y, scalar(self.low, y.dtype)))
        if self.high is not None:
            tests.append(Less()(y, scalar(self.high, y.dtype)))
        if not tests:
            return (g,)
        inside = tests[0] if len(tests) == 1 else And()(*tests)
        return (where(inside, g, 0.0),)

    def c_expr(self, x: str) -> str:
        text = x if self.high is None else f"({x} > {_c(self.high)} ? {_c(self.high)} : {x})"
        if self.low is None:
            return text
        return f"({x} < {_c(self.low)} ? {_c(self.low)} : {text})"

    @classmethod
    def variants(cls) -> Iterable["Clip"]:
        return cls(0.0, 6.0), cls(-1.5, None), cls(None, 0.5), cls(None, None)


@dataclass(frozen=True)
class LeakyRelu(Unary):
    """y = x where x > 0, else slope * x"""

    slope: float

    def ref(self, x: Array) -> Array:
        return as_dtype(np.where(x > 0, x, self.slope * x), x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (_where_above(x, 0.0, g, mul(g, self.slope)),)

    def c_expr(self, x: str) -> str:
        return f"({x} > 0.0f ? {x} : {_c(self.slope)} * {x})"

    @classmethod
    def variants(cls) -> Iterable["LeakyRelu"]:
        return cls(0.1), cls(-0.5)


@dataclass(frozen=True)
class Elu(Unary):
    """y = x where x > 0, else alpha * (e^x - 1); there dy/dx = y + alpha."""

    alpha: float

    edges = (*INFINITE, -1e-6, -50.0)

    def ref(self, x: Array) -> Array:
        return as_dtype(np.where(x > 0, x, self.alpha * np.expm1(np.minimum(x, 0))), x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (_where_above(x, 0.0, g, mul(g, add(y, self.alpha))),)

    def c_expr(self, x: str) -> str:
        return f"({x} > 0.0f ? {x} : {_c(self.alpha)} * pk_expm1({x}))"

    @classmethod
    def variants(cls) -> Iterable["Elu"]:
        return cls(1.0), cls(0.3)


@dataclass(frozen=True)
class Softplus(Unary):
    """y = log(1 + e^(beta x)) / beta, and x itself where beta x > threshold"""

    beta: float
    threshold: float

    edges = (0.0, 30.0, -30.0, math.inf)

    def ref(self, x: Array) -> Array:
        z = self.beta * x
        curve = np.log1p(np.exp(np.minimum(z, self.threshold))) / self.beta
        return as_dtype(np.where(z > self.threshold, x, curve), x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        z = mul(x, self.beta)
        return (_where_above(z, self.threshold, g, mul(g, Sigmoid()(z))),)

    def c_expr(self, x: str) -> str:
        z = f"{_c(self.beta)} * {x}"
        return f"({z} > {_c(self.threshold)} ? {x} : pk_log1p(pk_exp({z})) / {_c(self.beta)})"

    @classmethod
    def variants(cls) -> Iterable["Softplus"]:
        return cls(1.0, 20.0), cls(2.0, 30.0)


@dataclass(frozen=True)
class Sigmoid(Unary):
    """y = 1 / (1 + e^-x)"""

    edges = (*INFINITE, 30.0, -30.0)
    torch = "torch.sigmoid"

    def ref(self, x: Array) -> Array:
        return sigmoid(x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (mul(g, mul(y, sub(1.0, y))),)

    def c_expr(self, x: str) -> str:
        return f"pk_sigmoid({x})"


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), without loss of precision for large negative x."""
    small = np.exp(-np.abs(x))
    return as_dtype(np.where(x < 0, small, 1.0) / (1.0 + small), x)


@dataclass(frozen=True)
class HardSigmoid(Unary):
    """y = min(max(x + 3, 0), 6) / 6"""

    domain = (-5.0, 5.0)
    edges = (3.0, -3.0, 0.0, math.inf, -math.inf)
    torch = "torch.nn.functional.hardsigmoid"

    def ref(self, x: Array) -> Array:
        return as_dtype(np.clip(x + 3, 0, 6) / 6, x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        above, below = Greater()(x, scalar(-3.0, x.dtype)), Less()(x, scalar(3.0, x.dtype))
        return (where(And()(above, below), mul(g, 1.0 / 6.0), 0.0),)

    def c_expr(self, x: str) -> str:
        return f"({x} < -3.0f ? 0.0f : {x} > 3.0f ? 1.0f : ({x} + 3.0f) / 6.0f)"


@dataclass(frozen=True)
class HardSwish(Unary):
    """y = x * min(max(x + 3, 0), 6) / 6; inside, dy/dx = x / 3 + 1 / 2."""

    domain = (-5.0, 5.0)
    edges = (3.0, -3.0, 0.0, 10.0, -10.0)
    torch = "torch.nn.functional.hardswish"

    def ref(self, x: Array) -> Array:
        return as_dtype(x * (np.clip(x + 3, 0, 6) / 6), x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        inside = mul(g, add(mul(x, 1.0 / 3.0), 0.5))
        above = GreaterEqual()(x, scalar(3.0, x.dtype))
        rest = where(above, g, 0.0)
        within = And()(Greater()(x, scalar(-3.0, x.dtype)), Less()(x, scalar(3.0, x.dtype)))
        return (where(within, inside, rest),)

    def c_expr(self, x: str) -> str:
        return f"({x} < -3.0f ? 0.0f : {x} > 3.0f ? {x} : {x} * (({x} + 3.0f) / 6.0f))"


@dataclass(frozen=True)
class Silu(Unary):
    """y = x s with s = sigmoid(x); dy/dx = s (1 + x (1 - s))."""

    edges = (0.0, 20.0, -20.0, 1e-6)
    torch = "torch.nn.functional.silu"

    def ref(self, x: Array) -> Array:
        return x * sigmoid(x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        s = Sigmoid()(x)
        return (mul(g, mul(s, add(mul(x, sub(1.0, s)), 1.0))),)

    def c_expr(self, x: str) -> str:
        return f"({x} * pk_sigmoid({x}))"


_TANH_SCALE, _TANH_CUBE = math.sqrt(2.0 / math.pi), 0.044715


@dataclass(frozen=True)
class Gelu(Unary):
    """y = x (1 + erf(x / sqrt 2)) / 2, or nearly so: x (1 + tanh u) / 2, u = s (x + 0.044715 x^3).

    dy/dx = (1 + erf(x / sqrt 2)) / 2 + x e^(-x^2 / 2) / sqrt(2 pi); s = sqrt(2 / pi).
    """

    approximate: bool

    edges = (0.0, 6.0, -6.0, 1e-6)

    def ref(self, x: Array) -> Array:
        if self.approximate:
            inner = np.tanh(_TANH_SCALE * (x + _TANH_CUBE * x**3))
        else:
            inner = erf(x * math.sqrt(0.5))
        return as_dtype(0.5 * x * (1.0 + inner), x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        square = mul(x, x)
        if self.approximate:
            u = mul(mul(x, add(mul(square, _TANH_CUBE), 1.0)), _TANH_SCALE)
            inner = Tanh()(u)
            inner_slope = mul(add(mul(square, 3 * _TANH_CUBE), 1.0), _TANH_SCALE)
            density = mul(mul(sub(1.0, mul(inner, inner)), inner_slope), 0.5)
        else:
            inner = Erf()(mul(x, math.sqrt(0.5)))
            density = div(Exp()(mul(square, -0.5)), math.sqrt(2.0 * math.pi))
        half = mul(add(inner, 1.0), 0.5)
        return (mul(g, add(half, mul(x, density))),)

    def c_expr(self, x: str) -> str:
        if self.approximate:
            u = f"{_c(_TANH_SCALE)} * ({x} + {_c(_TANH_CUBE)} * {x} * {x} * {x})"
            return f"(0.5f * {x} * (1.0f + pk_tanh({u})))"
        return f"(0.5f * {x} * (1.0f + pk_erf({_c(math.sqrt(0.5))} * {x})))"

    @classmethod
    def variants(cls) -> Iterable["Gelu"]:
        return cls(False), cls(True)
