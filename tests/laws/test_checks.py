"""The laws themselves: each refuses an operator that breaks it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pytest

from pockengine.errors import GraphError
from pockengine.ir.graph import Graph, Input, leaf
from pockengine.ir.op import Array, ErrorSample, Gradients, Op, Sample, Value
from pockengine.ir.types import TensorType
from pockengine.ops.build import add, mul
from pockengine.ops.pointwise import Binary, Unary
from pockengine.testing import check_graph, check_op


@dataclass(frozen=True)
class WrongGradient(Unary):
    """y = x^2"""

    def ref(self, x: Array) -> Array:
        return x * x

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (mul(g, x),)


@dataclass(frozen=True)
class ForgottenGradient(WrongGradient):
    """y = x^2"""

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        return (None,)


@dataclass(frozen=True)
class Widens(Unary):
    """y = 2 x, in another precision"""

    def ref(self, x: Array) -> Array:
        return x * np.float64(2)


@dataclass(frozen=True)
class NotElementwise(Unary):
    """y = x - max x"""

    def ref(self, x: Array) -> Array:
        return np.asarray(x - x.max())


@dataclass(frozen=True)
class NotCommutative(Binary):
    """y = a - b"""

    commutative = True

    def ref(self, a: Array, b: Array) -> Array:
        return a - b


@dataclass(frozen=True)
class NotLinear(Unary):
    """y = x + 1"""

    linear_in = (0,)

    def ref(self, x: Array) -> Array:
        return x + x.dtype.type(1)


@dataclass(frozen=True)
class WrongSlice(Op):
    """y = x reversed along axis 0"""

    def infer(self, x: TensorType) -> TensorType:
        return x

    def ref(self, x: Array) -> Array:
        return x[::-1].copy()

    def slice_axes(self, axis: int, x: TensorType) -> tuple[int, ...]:
        return (axis,)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        return [Sample(cls(), (rng.standard_normal((4, n)),), ()) for n in (1, 2, 3)]


@dataclass(frozen=True)
class Unprintable(Unary):
    """y = x, with a field that is no plain value"""

    table: object = field(default_factory=lambda: np.zeros(2))

    def ref(self, x: Array) -> Array:
        return x


@dataclass(frozen=True)
class AcceptsAnything(Unary):
    """y = x"""

    def infer(self, x: TensorType) -> TensorType:
        return x

    def ref(self, x: Array) -> Array:
        return x


@dataclass(frozen=True)
class OtherWords(Unary):
    """y = x"""

    def ref(self, x: Array) -> Array:
        return x

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls(), (TensorType("i32", ()),), "a poem")


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        (WrongGradient, "gradient of WrongGradient() for input 0"),
        (ForgottenGradient, "gradient of ForgottenGradient() for input 0: 0.0, differences"),
        (Widens, "Widens() infers f32[2,3,4] but computes f64[2,3,4]"),
        (NotElementwise, "NotElementwise() is not elementwise"),
        (NotCommutative, "NotCommutative() is not commutative"),
        (NotLinear, "NotLinear() is not linear in input 0"),
        (WrongSlice, "WrongSlice() sliced along axis 0"),
        (AcceptsAnything, "AcceptsAnything() accepts"),
        (OtherWords, "expected 'a poem' in the message"),
    ],
)
def test_a_law_that_is_broken(operator: type[Op], words: str) -> None:
    with pytest.raises(AssertionError) as error:
        check_op(operator)
    assert words in str(error.value)


def test_a_field_that_does_not_print() -> None:
    with pytest.raises(GraphError, match="cannot read this line of a graph"):
        check_op(Unprintable)


def test_check_graph() -> None:
    x = leaf(Input, "x", TensorType("f32", (2, 3)))
    outputs = check_graph(Graph((x,), {"y": add(x, 1.0)}), {"x": np.ones((2, 3), np.float32)})
    np.testing.assert_array_equal(outputs["y"], np.full((2, 3), 2.0))
    wrong = Value(add(x, 1.0).op, (x, x), TensorType("f32", (1,)))
    with pytest.raises(GraphError, match="is typed"):
        check_graph(Graph((x,), {"y": wrong}))
