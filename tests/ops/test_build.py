import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from pockengine.errors import GraphError
from pockengine.ir.graph import Graph, Input, leaf
from pockengine.ir.interpret import interpret
from pockengine.ir.op import Array, Value
from pockengine.ir.types import TensorType
from pockengine.ops import build as b
from pockengine.ops.elementwise import Mul, Pow, Reciprocal, Rsqrt, Sqrt
from pockengine.ops.shape import Full, Slice, Take

X = leaf(Input, "x", TensorType("f64", (2, 3, 4)))


def run(value: Value, x: Array) -> Array:
    return interpret(Graph((), {"y": value}), {"x": x}).outputs["y"]


def test_numbers_take_the_other_operands_dtype() -> None:
    tokens = leaf(Input, "t", TensorType("i64", (2,)))
    assert b.add(tokens, 1).dtype == "i64"
    assert b.sub(1.0, X).inputs[0].op == Full((), "f64", 1.0)
    assert b.where(b.greater(X, 0.0), X, 0.0).type == X.type
    with pytest.raises(TypeError, match="expected at least one Value, got the numbers 1 and 2"):
        b.mul(1, 2)


@pytest.mark.parametrize("axis", [3, -4])
def test_an_axis_that_is_not_there(axis: int) -> None:
    with pytest.raises(GraphError, match=r"expected an axis in \[-3, 3\) of f64\[2,3,4\], got "):
        b.softmax(X, axis)


def test_negative_axes_are_counted_from_the_end() -> None:
    assert b.reduce_sum(X, (-1, 0)).shape == (3,)
    assert b.reduce_max(X, -2, keepdims=True).shape == (2, 1, 4)
    assert b.reduce_mean(X).shape == ()
    assert b.concat([X, X], -1).shape == (2, 3, 8)
    assert b.stack([X, X], -1).shape == (2, 3, 4, 2)
    assert b.transpose(X, (-1, 0, 1)).shape == (4, 2, 3)
    assert b.expand_dims(X, -1).shape == (2, 3, 4, 1)
    assert b.argmax(X, -1).type == TensorType("i64", (2, 3))


def test_nothing_is_built_where_there_is_nothing_to_do() -> None:
    assert b.reshape(X, (2, -1, 4)) is X
    assert b.transpose(X, (0, 1, 2)) is X
    assert b.broadcast_to(X, X.shape) is X
    assert b.cast(X, "f64") is X
    assert b.slice_axis(X, 0, 0, 2) is X
    assert b.pad(X, (0, 0, 0), (0, 0, 0)) is X
    assert b.concat([X], 1) is X
    assert b.take(X, 1, range(3)) is X
    assert b.sum_to(X, X.shape) is X


def test_evenly_spaced_indices_are_a_slice() -> None:
    assert b.take(X, -1, [1, 3]).op == Slice(2, 1, 4, 2)
    assert b.take(X, 2, [-1]).op == Slice(2, 3, 4, 1)
    assert b.take(X, 2, [3, 1]).op == Take(2, (3, 1))


@pytest.mark.parametrize(
    ("exponent", "operator"), [(2.0, Mul), (0.5, Sqrt), (-0.5, Rsqrt), (-1, Reciprocal), (1.7, Pow)]
)
def test_powers(exponent: float, operator: type) -> None:
    x = np.random.default_rng(0).uniform(0.5, 2.0, X.shape)
    y = b.power(X, exponent)
    assert isinstance(y.op, operator)
    np.testing.assert_allclose(run(y, x), x**exponent)


@given(mutually_broadcastable_shapes(num_shapes=2, max_dims=4), st.randoms())
def test_sum_to_undoes_broadcasting(shapes: object, random: object) -> None:
    small = shapes.input_shapes[0]  # type: ignore[attr-defined]
    whole = shapes.result_shape  # type: ignore[attr-defined]
    x = leaf(Input, "x", TensorType("f64", whole))
    summed = b.sum_to(x, small)
    assert summed.shape == small
    ones = run(summed, np.ones(whole))
    expected = np.prod(whole) / max(np.prod(small), 1)
    np.testing.assert_array_equal(ones, np.full(small, expected))


COMPOSED = {
    "mish": b.mish,
    "softsign": b.softsign,
    "selu": b.selu,
    "celu": b.celu,
    "logsigmoid": b.log_sigmoid,
    "relu6": b.relu6,
    "elu": b.elu,
    "hardswish": b.hard_swish,
}


@pytest.mark.parametrize("name", COMPOSED)
def test_compositions_agree_with_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal(X.shape) * 4
    expected = getattr(torch.nn.functional, name)(torch.tensor(x)).numpy()
    np.testing.assert_allclose(run(COMPOSED[name](X), x), expected, 1e-7, 1e-9)


def test_other_compositions() -> None:
    x = np.random.default_rng(0).uniform(0.1, 0.9, X.shape)
    np.testing.assert_allclose(run(b.variance(X, (0, -1), correction=1), x), x.var((0, 2), ddof=1))
    np.testing.assert_allclose(run(b.logit(X), x), np.log(x / (1 - x)))
    np.testing.assert_allclose(run(b.log2(X), x), np.log2(x))
    np.testing.assert_allclose(run(b.tan(X), x), np.tan(x))
    np.testing.assert_allclose(run(b.logsumexp(X, -1), x), np.log(np.exp(x).sum(-1)))
    huge = np.full(X.shape, 1e4)
    np.testing.assert_allclose(run(b.logsumexp(X), huge), 1e4 + np.log(24))


def test_split_and_squeeze() -> None:
    x = np.arange(24.0).reshape(X.shape)
    parts = b.split(X, [1, 3], -1)
    np.testing.assert_array_equal(run(parts[1], x), x[..., 1:])
    assert b.squeeze(b.reduce_sum(X, 1, keepdims=True)).shape == (2, 4)
    assert b.squeeze(b.reduce_sum(X, (0, 1), keepdims=True), 0).shape == (1, 4)
    assert b.flatten(X).shape == (2, 12)


@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 5, 4)])
def test_linear(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, w, bias = rng.standard_normal(shape), rng.standard_normal((3, 4)), rng.standard_normal(3)
    leaves = {n: leaf(Input, n, a) for n, a in (("x", x), ("w", w), ("b", bias))}
    y = b.linear(*leaves.values())
    result = interpret(Graph((), {"y": y}), {"x": x, "w": w, "b": bias}).outputs["y"]
    np.testing.assert_allclose(result, x @ w.T + bias)
