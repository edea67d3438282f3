"""Elementwise comparison, logic and choice."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pockengine.ir.op import Array, ErrorSample, Gradients, Sample, Value, require
from pockengine.ir.types import DType, TensorType
from pockengine.ops.pointwise import ANY, Binary, Operand, Pointwise, Unary, broadcast, lifted


@dataclass(frozen=True)
class _Comparison(Binary):
    """bool: how a compares with b. No gradient."""

    def result(self, operand: DType) -> DType:
        return "bool"

    def vjp(self, g: Value, y: Value, a: Value, b: Value) -> Gradients:
        return None, None


@dataclass(frozen=True)
class Less(_Comparison):
    """y = a < b"""

    torch = "torch.lt"

    def ref(self, a: Array, b: Array) -> Array:
        return np.less(a, b)

    def c_expr(self, a: str, b: str) -> str:
        return f"({a} < {b})"


@dataclass(frozen=True)
class LessEqual(_Comparison):
    """y = a <= b"""

    torch = "torch.le"

    def ref(self, a: Array, b: Array) -> Array:
        return np.less_equal(a, b)

    def c_expr(self, a: str, b: str) -> str:
        return f"({a} <= {b})"


@dataclass(frozen=True)
class Greater(_Comparison):
    """y = a > b"""

    torch = "torch.gt"

    def ref(self, a: Array, b: Array) -> Array:
        return np.greater(a, b)

    def c_expr(self, a: str, b: str) -> str:
        return f"({a} > {b})"


@dataclass(frozen=True)
class GreaterEqual(_Comparison):
    """y = a >= b"""

    torch = "torch.ge"

    def ref(self, a: Array, b: Array) -> Array:
        return np.greater_equal(a, b)

    def c_expr(self, a: str, b: str) -> str:
        return f"({a} >= {b})"


@dataclass(frozen=True)
class Equal(_Comparison):
    """y = (a == b), also of bools"""

    accepts = ANY
    commutative = True
    torch = "torch.eq"

    def ref(self, a: Array, b: Array) -> Array:
        return np.equal(a, b)

    def c_expr(self, a: str, b: str) -> str:
        return f"({a} == {b})"


@dataclass(frozen=True)
class NotEqual(_Comparison):
    """y = (a != b), also of bools"""

    accepts = ANY
    commutative = True
    torch = "torch.ne"

    def ref(self, a: Array, b: Array) -> Array:
        return np.not_equal(a, b)

    def c_expr(self, a: str, b: str) -> str:
        return f"({a} != {b})"


@dataclass(frozen=True)
class _Logic(Binary):
    """bool x bool -> bool"""

    accepts = ("bool",)
    commutative = True

    def vjp(self, g: Value, y: Value, a: Value, b: Value) -> Gradients:
        return None, None


@dataclass(frozen=True)
class And(_Logic):
    """y = a and b"""

    torch = "torch.logical_and"

    def ref(self, a: Array, b: Array) -> Array:
        return np.logical_and(a, b)

    def c_expr(self, a: str, b: str) -> str:
        return f"({a} & {b})"


@dataclass(frozen=True)
class Or(_Logic):
    """y = a or b"""

    torch = "torch.logical_or"

    def ref(self, a: Array, b: Array) -> Array:
        return np.logical_or(a, b)

    def c_expr(self, a: str, b: str) -> str:
        return f"({a} | {b})"


@dataclass(frozen=True)
class Xor(_Logic):
    """y = either a or b"""

    torch = "torch.logical_xor"

    def ref(self, a: Array, b: Array) -> Array:
        return np.logical_xor(a, b)

    def c_expr(self, a: str, b: str) -> str:
        return f"({a} ^ {b})"


@dataclass(frozen=True)
class Not(Unary):
    """y = not x"""

    accepts = ("bool",)
    torch = "torch.logical_not"

    def ref(self, x: Array) -> Array:
        return np.logical_not(x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (None,)

    def c_expr(self, x: str) -> str:
        return f"(!{x})"

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape in ((2, 3), (1,), ()):
            yield Sample(cls(), (np.asarray(rng.random(shape) < 0.5),))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls(), (TensorType("i32", (2,)),), "Not expects a tensor among bool")


@dataclass(frozen=True)
class IsNan(Unary):
    """y = (x != x): bool of x's shape"""

    edges = (0.0, math.nan, math.inf, -math.nan)
    torch = "torch.isnan"

    def infer(self, x: TensorType) -> TensorType:
        self.check_dtypes(x)
        return x.with_dtype("bool")

    def ref(self, x: Array) -> Array:
        return np.isnan(x)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (None,)

    def c_expr(self, x: str) -> str:
        return f"({x} != {x})"


@dataclass(frozen=True)
class Where(Pointwise):
    """y = a where cond holds, else b. (bool, a, b) -> a's dtype; all three broadcast."""

    accepts = ANY
    torch = "torch.where"

    def infer(self, cond: TensorType, a: TensorType, b: TensorType) -> TensorType:
        require(cond.dtype == "bool", self, "a bool condition", cond, a, b)
        self.check_dtypes(a, b)
        return TensorType(a.dtype, broadcast(self, cond, a, b))

    def ref(self, cond: Array, a: Array, b: Array) -> Array:
        return np.where(cond, a, b)

    def vjp(self, g: Value, y: Value, cond: Value, a: Value, b: Value) -> Gradients:
        return None, where(cond, g, 0.0), where(cond, 0.0, g)

    def c_expr(self, cond: str, a: str, b: str) -> str:
        return f"({cond} ? {a} : {b})"

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for cond, a, b in (((2, 3), (2, 3), (2, 3)), ((2, 1), (3,), ()), ((), (1,), (1,))):
            arrays = rng.standard_normal(a), np.asarray(rng.standard_normal(b))
            yield Sample(cls(), (np.asarray(rng.random(cond) < 0.5), *arrays))
        mask = np.array([True, False])
        yield Sample(cls(), (mask, np.array([1, 2]), np.array([3, 4])))
        yield Sample(cls(), (mask, np.array([0.5, math.nan]), np.array(-math.inf)), ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        x, cond = TensorType("f32", (2,)), TensorType("bool", (2,))
        yield ErrorSample(cls(), (x, x, x), "Where expects a bool condition")
        yield ErrorSample(cls(), (cond, x, x.with_dtype("i32")), "tensors of one dtype")
        yield ErrorSample(cls(), (cond, x, x.with_shape(3)), "shapes that broadcast")


def where(cond: Value, a: Operand, b: Operand) -> Value:
    """a where cond holds, else b."""
    return Where()(cond, *lifted(a, b))
