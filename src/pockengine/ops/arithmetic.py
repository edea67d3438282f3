"""Elementwise arithmetic and elementary functions."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pockengine.ir.op import Array, ErrorSample, Gradients, Sample, Value, require
from pockengine.ir.types import FLOATS, NUMPY, DType, TensorType
from pockengine.ops.compare import Equal, Greater, Less, where
from pockengine.ops.pointwise import (
    ANY,
    INFINITE,
    NUMBERS,
    Binary,
    Operand,
    Pointwise,
    Unary,
    as_dtype,
    lifted,
    scalar,
)


def add(a: Operand, b: Operand) -> Value:
    """a + b"""
    return Add()(*lifted(a, b))


def sub(a: Operand, b: Operand) -> Value:
    """a - b"""
    return Sub()(*lifted(a, b))


def mul(a: Operand, b: Operand) -> Value:
    """a * b"""
    return Mul()(*lifted(a, b))


def div(a: Operand, b: Operand) -> Value:
    """a / b"""
    return Div()(*lifted(a, b))


# ---- two operands --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Add(Binary):
    """y = a + b"""

    commutative = True
    torch = "torch.add"

    def ref(self, a: Array, b: Array) -> Array:
        return a + b

    def vjp(self, g: Value, y: Value, a: Value, b: Value) -> Gradients:
        return g, g

    def c_expr(self, a: str, b: str) -> str:
        return f"({a} + {b})"


@dataclass(frozen=True)
class Sub(Binary):
    """y = a - b"""

    torch = "torch.sub"

    def ref(self, a: Array, b: Array) -> Array:
        return a - b

    def vjp(self, g: Value, y: Value, a: Value, b: Value) -> Gradients:
        return g, Neg()(g)

    def c_expr(self, a: str, b: str) -> str:
        return f"({a} - {b})"


@dataclass(frozen=True)
class Mul(Binary):
    """y = a * b"""

    commutative = True
    linear_in = (0, 1)
    torch = "torch.mul"

    def ref(self, a: Array, b: Array) -> Array:
        return a * b

    def vjp(self, g: Value, y: Value, a: Value, b: Value) -> Gradients:
        return mul(g, b), mul(g, a)

    def c_expr(self, a: str, b: str) -> str:
        return f"({a} * {b})"


@dataclass(frozen=True)
class Div(Binary):
    """y = a / b, of floating-point numbers; FloorDiv divides integers."""

    accepts = FLOATS
    linear_in = (0,)
    torch = "torch.div"

    def ref(self, a: Array, b: Array) -> Array:
        return a / b

    def vjp(self, g: Value, y: Value, a: Value, b: Value) -> Gradients:
        to_a = div(g, b)
        return to_a, Neg()(mul(to_a, y))

    def c_expr(self, a: str, b: str) -> str:
        return f"({a} / {b})"


@dataclass(frozen=True)
class Pow(Binary):
    """y = a ^ b. dy/da = b a^(b-1), which is 0 for b = 0; dy/db = y log a, or 0 where a <= 0."""

    accepts = FLOATS
    torch = "torch.pow"

    def ref(self, a: Array, b: Array) -> Array:
        return np.power(a, b)

    def vjp(self, g: Value, y: Value, a: Value, b: Value) -> Gradients:
        slope = mul(b, Pow()(a, sub(b, 1.0)))
        slope = where(Equal()(b, scalar(0.0, b.dtype)), 0.0, slope)
        positive = Greater()(a, scalar(0.0, a.dtype))
        log_a = Log()(where(positive, a, 1.0))
        return mul(g, slope), mul(g, mul(y, log_a))

    def c_expr(self, a: str, b: str) -> str:
        return f"pk_pow({a}, {b})"

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for a, b in (((2, 3), (3,)), ((2, 1), (1, 4)), ((1,), ()), ((), ())):
            exponent = np.asarray(rng.uniform(-2.0, 2.0, b))
            yield Sample(cls(), (np.asarray(rng.uniform(0.3, 2.0, a)), exponent))
        yield Sample(cls(), (np.array([-2.0, -1.5, 0.5]), np.array([2.0, 3.0, 0.0])), (0,))
        yield Sample(cls(), (np.array([0.0, 0.0, 1.0, -1.0]), np.array([0.0, 2.0, 9.0, 0.5])), ())


@dataclass(frozen=True)
class Maximum(Binary):
    """y = max(a, b), NaN if one is; where both are equal each gets half of the gradient."""

    commutative = True
    torch = "torch.maximum"

    def ref(self, a: Array, b: Array) -> Array:
        return np.maximum(a, b)

    def vjp(self, g: Value, y: Value, a: Value, b: Value) -> Gradients:
        return _to_the_chosen(g, Greater()(a, b), Less()(a, b))

    def c_expr(self, a: str, b: str) -> str:
        return f"({a} > {b} || {a} != {a} ? {a} : {b})"


@dataclass(frozen=True)
class Minimum(Binary):
    """y = min(a, b), NaN if one is; where both are equal each gets half of the gradient."""

    commutative = True
    torch = "torch.minimum"

    def ref(self, a: Array, b: Array) -> Array:
        return np.minimum(a, b)

    def vjp(self, g: Value, y: Value, a: Value, b: Value) -> Gradients:
        return _to_the_chosen(g, Less()(a, b), Greater()(a, b))

    def c_expr(self, a: str, b: str) -> str:
        return f"({a} < {b} || {a} != {a} ? {a} : {b})"


def _to_the_chosen(g: Value, first: Value, second: Value) -> Gradients:
    half = mul(g, 0.5)
    return where(first, g, where(second, 0.0, half)), where(second, g, where(first, 0.0, half))


@dataclass(frozen=True)
class FloorDiv(Binary):
    """y = floor(a / b). Integer division by zero is not defined."""

    def ref(self, a: Array, b: Array) -> Array:
        return np.floor_divide(a, b)

    def vjp(self, g: Value, y: Value, a: Value, b: Value) -> Gradients:
        return None, None

    def c_expr(self, a: str, b: str) -> str:
        return f"__builtin_floor((double){a} / (double){b})"

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        return _division_samples(cls(), rng)


@dataclass(frozen=True)
class Mod(Binary):
    """y = a - b floor(a / b), which has the sign of b. Integers modulo zero are not defined."""

    torch = "torch.remainder"

    def ref(self, a: Array, b: Array) -> Array:
        return np.mod(a, b)

    def vjp(self, g: Value, y: Value, a: Value, b: Value) -> Gradients:
        return g, Neg()(mul(g, FloorDiv()(a, b)))

    def c_expr(self, a: str, b: str) -> str:
        return f"({a} - {b} * __builtin_floor((double){a} / (double){b}))"

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        return _division_samples(cls(), rng)


def _division_samples(op: Binary, rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in (np.int64, np.int32):
        a, b = np.array([7, -7, 7, -7, 0, 6], dtype), np.array([3, 3, -3, -3, 5, 2], dtype)
        yield Sample(op, (a, b))
    yield Sample(op, (np.array([[5.3], [-0.7]]), np.array([2.0, -1.5])))
    yield Sample(op, (np.array([1.3]), np.array(0.5)))


# ---- one operand ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Neg(Unary):
    """y = -x"""

    accepts = NUMBERS
    linear_in = (0,)
    torch = "torch.neg"

    def ref(self, x: Array) -> Array:
        return np.negative(x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (Neg()(g),)

    def c_expr(self, x: str) -> str:
        return f"(-{x})"


@dataclass(frozen=True)
class Abs(Unary):
    """y = |x|; the gradient is 0 at 0."""

    accepts = NUMBERS
    torch = "torch.abs"

    def ref(self, x: Array) -> Array:
        return np.abs(x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (mul(g, Sign()(x)),)

    def c_expr(self, x: str) -> str:
        return f"({x} > 0 ? {x} : 0 - {x})"


@dataclass(frozen=True)
class Sign(Unary):
    """y = 1, 0 or -1, as x > 0, x = 0 or x < 0; 0 for NaN."""

    accepts = NUMBERS
    torch = "torch.sign"

    def ref(self, x: Array) -> Array:
        return as_dtype(np.subtract(x > 0, x < 0, dtype=np.int8), x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (None,)

    def c_expr(self, x: str) -> str:
        return f"(({x} > 0) - ({x} < 0))"


@dataclass(frozen=True)
class Exp(Unary):
    """y = e^x"""

    edges = (*INFINITE, 80.0, -80.0, 100.0)
    torch = "torch.exp"

    def ref(self, x: Array) -> Array:
        return np.exp(x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (mul(g, y),)

    def c_expr(self, x: str) -> str:
        return f"pk_exp({x})"


@dataclass(frozen=True)
class Log(Unary):
    """y = log x, NaN where x < 0"""

    domain = (0.1, 5.0)
    edges = (0.0, 1.0, 1e-30, 1e30, math.inf, -1.0)
    torch = "torch.log"

    def ref(self, x: Array) -> Array:
        return np.log(x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (div(g, x),)

    def c_expr(self, x: str) -> str:
        return f"pk_log({x})"


@dataclass(frozen=True)
class Log1p(Unary):
    """y = log(1 + x), exact for small x"""

    domain = (-0.9, 5.0)
    edges = (0.0, 1e-8, -1e-8, 1e30, -1.0)
    torch = "torch.log1p"

    def ref(self, x: Array) -> Array:
        return np.log1p(x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (div(g, add(x, 1.0)),)

    def c_expr(self, x: str) -> str:
        return f"pk_log1p({x})"


@dataclass(frozen=True)
class Sqrt(Unary):
    """y = sqrt(x)"""

    domain = (0.1, 5.0)
    edges = (0.0, 1.0, 1e-30, 1e30, math.inf)
    torch = "torch.sqrt"

    def ref(self, x: Array) -> Array:
        return np.sqrt(x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (div(mul(g, 0.5), y),)

    def c_expr(self, x: str) -> str:
        return f"sqrtf({x})"


@dataclass(frozen=True)
class Rsqrt(Unary):
    """y = 1 / sqrt(x)"""

    domain = (0.1, 5.0)
    edges = (0.0, 1.0, 1e-30, 1e30, math.inf)
    torch = "torch.rsqrt"

    def ref(self, x: Array) -> Array:
        return as_dtype(1.0 / np.sqrt(x), x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (mul(mul(g, -0.5), mul(y, mul(y, y))),)

    def c_expr(self, x: str) -> str:
        return f"(1.0f / sqrtf({x}))"


@dataclass(frozen=True)
class Reciprocal(Unary):
    """y = 1 / x"""

    domain = (0.2, 4.0)
    edges = (0.0, 1.0, -2.0, math.inf)
    torch = "torch.reciprocal"

    def ref(self, x: Array) -> Array:
        return as_dtype(1.0 / x, x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (Neg()(mul(g, mul(y, y))),)

    def c_expr(self, x: str) -> str:
        return f"(1.0f / {x})"


@dataclass(frozen=True)
class Sin(Unary):
    """y = sin x"""

    torch = "torch.sin"

    def ref(self, x: Array) -> Array:
        return np.sin(x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (mul(g, Cos()(x)),)

    def c_expr(self, x: str) -> str:
        return f"pk_sin({x})"


@dataclass(frozen=True)
class Cos(Unary):
    """y = cos x"""

    torch = "torch.cos"

    def ref(self, x: Array) -> Array:
        return np.cos(x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (Neg()(mul(g, Sin()(x))),)

    def c_expr(self, x: str) -> str:
        return f"pk_cos({x})"


@dataclass(frozen=True)
class Tanh(Unary):
    """y = tanh x"""

    edges = (*INFINITE, 20.0, -20.0, 1e-6)
    torch = "torch.tanh"

    def ref(self, x: Array) -> Array:
        return np.tanh(x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (mul(g, sub(1.0, mul(y, y))),)

    def c_expr(self, x: str) -> str:
        return f"pk_tanh({x})"


@dataclass(frozen=True)
class Erf(Unary):
    """y = 2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x"""

    edges = (0.0, 1e-6, 5.0, -5.0, math.inf, -math.inf)
    torch = "torch.erf"

    def ref(self, x: Array) -> Array:
        return erf(x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (mul(g, mul(Exp()(Neg()(mul(x, x))), 2.0 / math.sqrt(math.pi))),)

    def c_expr(self, x: str) -> str:
        return f"pk_erf({x})"


def erf(x: Array) -> Array:
    """The error function of each element, which NumPy does not have."""
    return as_dtype(np.frompyfunc(math.erf, 1, 1)(x), x)


@dataclass(frozen=True)
class _Rounding(Unary):
    """A step function: its gradient is zero."""

    edges = (0.5, -0.5, 1.5, 2.5, 3.0, -0.0, 1e20)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (None,)


@dataclass(frozen=True)
class Floor(_Rounding):
    """The largest integer <= x"""

    torch = "torch.floor"

    def ref(self, x: Array) -> Array:
        return np.floor(x)

    def c_expr(self, x: str) -> str:
        return f"floorf({x})"


@dataclass(frozen=True)
class Ceil(_Rounding):
    """The smallest integer >= x"""

    torch = "torch.ceil"

    def ref(self, x: Array) -> Array:
        return np.ceil(x)

    def c_expr(self, x: str) -> str:
        return f"ceilf({x})"


@dataclass(frozen=True)
class Round(_Rounding):
    """The nearest integer; halves go to the even one"""

    torch = "torch.round"

    def ref(self, x: Array) -> Array:
        return np.rint(x)

    def c_expr(self, x: str) -> str:
        return f"rintf({x})"


_C_CAST = {
    "f32": "(float)({})",
    "f64": "(double)({})",
    "i32": "(int32_t)({})",
    "i64": "(int64_t)({})",
    "u8": "(unsigned char)({})",
    "bool": "(({}) != 0)",
}


@dataclass(frozen=True)
class StopGradient(Unary):
    """y = x, a constant as far as gradients go: torch.Tensor.detach."""

    accepts = ANY

    def ref(self, x: Array) -> Array:
        return x

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (None,)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return 0

    def c_expr(self, x: str) -> str:
        return x

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape in ((2, 3), (1,), ()):
            yield Sample(cls(), (np.asarray(rng.standard_normal(shape)),), ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        return ()


@dataclass(frozen=True)
class Cast(Pointwise):
    """x as another dtype: floats lose their fraction towards zero, bool is x != 0."""

    dtype: DType

    accepts = ANY

    def infer(self, x: TensorType) -> TensorType:
        known = self.dtype in ANY and x.dtype in ANY
        require(known, self, f"a dtype among {', '.join(ANY)}", x)
        return x.with_dtype(self.dtype)

    def ref(self, x: Array) -> Array:
        return x.astype(NUMPY[self.dtype])

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (Cast(x.dtype)(g) if x.type.is_float and y.type.is_float else None,)

    def c_expr(self, x: str) -> str:
        return _C_CAST[self.dtype].format(x)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape, dtype in (((2, 3), "f64"), ((), "i32"), ((1,), "bool"), ((4,), "i64")):
            yield Sample(cls(dtype), (np.asarray(rng.uniform(-9.0, 9.0, shape)),), ())
        yield Sample(cls("f64"), (np.asarray(rng.uniform(-9.0, 9.0, (2, 2))),))
        yield Sample(cls("f32"), (np.array([0, -3, 7], np.int64),))
        yield Sample(cls("f32"), (np.array([True, False]),))
        yield Sample(cls("bool"), (np.array([0, 2, -1], np.int32),))
        yield Sample(cls("u8"), (np.array([0.0, 254.9]),), ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls("f16"), (TensorType("f32", (2,)),), "a dtype among f32")
