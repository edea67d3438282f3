"""Gradients where the samples do not look: at ties, bounds, zeros, and of compositions."""

import math

import numpy as np
import pytest

from pockengine.autodiff.reverse import gradients
from pockengine.ir.graph import Graph, Input, leaf
from pockengine.ir.interpret import interpret
from pockengine.ir.op import Array, Op
from pockengine.ops.build import reduce_sum
from pockengine.ops.elementwise import Abs, Clip, Maximum, Minimum, Pow, Relu
from pockengine.ops.matmul import MatMul
from pockengine.ops.reduce import Max, Prod
from pockengine.ops.shape import BroadcastTo, Put, Slice, Take
from pockengine.ops.softmax import LogSoftmax, Softmax


def gradient(op: Op, *arrays: Array) -> list[Array]:
    inputs = [leaf(Input, f"x{i}", a) for i, a in enumerate(arrays)]
    found = gradients(reduce_sum(op(*inputs)), inputs)
    graph = Graph((), {f"d{i}": found[x] for i, x in enumerate(inputs)})
    result = interpret(graph, {f"x{i}": a for i, a in enumerate(arrays)})
    return list(result.outputs.values())


@pytest.mark.parametrize(
    ("op", "x", "expected"),
    [
        (Relu(), [-1.0, 0.0, 2.0], [0, 0, 1]),
        (Clip(0.0, 6.0), [0.0, 3.0, 6.0, 7.0], [0, 1, 0, 0]),
        (Abs(), [-2.0, 0.0, 2.0], [-1, 0, 1]),
        (Max((0,), False), [1.0, 5.0, 5.0], [0, 0.5, 0.5]),
        (Prod((0,), False), [2.0, 3.0, 4.0], [12, 8, 6]),
        (Prod((0,), False), [2.0, 0.0, 4.0], [0, 8, 0]),
        (Prod((0,), True), [0.0, 0.0, 4.0], [0, 0, 0]),
        (Slice(0, 1, 6, 2), [1.0] * 6, [0, 1, 0, 1, 0, 1]),
        (Slice(0, 0, 4, 3), [1.0] * 5, [1, 0, 0, 1, 0]),
        (Take(0, (1, 1, 0, 1)), [1.0, 2.0, 3.0], [1, 3, 0]),
        (BroadcastTo((4, 3)), [1.0, 2.0, 3.0], [4, 4, 4]),
    ],
    ids=str,
)
def test_of_one_input(op: Op, x: list[float], expected: list[float]) -> None:
    np.testing.assert_array_equal(gradient(op, np.array(x))[0], expected)


@pytest.mark.parametrize("op", [Maximum(), Minimum()], ids=str)
def test_ties_are_shared(op: Op) -> None:
    ours, theirs = gradient(op, np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    np.testing.assert_array_equal(ours, [0.5, 0.5])
    np.testing.assert_array_equal(theirs, [0.5, 0.5])


def test_power_of_zero() -> None:
    base, exponent = gradient(Pow(), np.array([0.0, 0.0, -2.0]), np.array([0.0, 2.0, 3.0]))
    np.testing.assert_array_equal(base, [0, 0, 12])
    np.testing.assert_array_equal(exponent, [0, 0, 0])


def test_what_put_overwrites_has_no_gradient() -> None:
    x, piece = gradient(Put(0, (2, 0)), np.ones(3), np.ones(2))
    np.testing.assert_array_equal(x, [0, 1, 0])
    np.testing.assert_array_equal(piece, [1, 1])


def test_a_shared_matrix_gets_one_product_of_all_rows() -> None:
    a, b = leaf(Input, "a", np.ones((5, 2, 3))), leaf(Input, "b", np.ones((3, 4)))
    to_b = gradients(reduce_sum(MatMul(False, False)(a, b)), [b])[b]
    assert isinstance(to_b.op, MatMul) and to_b.inputs[0].shape == (10, 3)


@pytest.mark.parametrize("op", [Softmax(0), LogSoftmax(0)], ids=str)
def test_a_masked_score_has_a_finite_gradient(op: Op) -> None:
    assert np.isfinite(gradient(op, np.array([0.0, 1.0, -math.inf]))).all()
