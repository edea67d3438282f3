"""The reverse walk: sums, broadcasting, need-analysis, and errors in words."""

import numpy as np
import pytest
from small_graphs import mlp

from pockengine.autodiff.reverse import gradients
from pockengine.errors import GraphError
from pockengine.ir.graph import Graph, Input, leaf, topological
from pockengine.ir.interpret import interpret
from pockengine.ir.op import Value
from pockengine.ir.text import parse_graph, print_graph
from pockengine.ir.types import TensorType
from pockengine.ops import OPS
from pockengine.ops.build import add, cast, mul, reduce_sum, relu
from pockengine.ops.norm import BatchMean
from pockengine.ops.reduce import ArgMax


def f64(name: str, *shape: int) -> Value:
    return leaf(Input, name, TensorType("f64", shape))


def evaluate(values: dict[str, Value], **arrays: np.ndarray) -> dict[str, np.ndarray]:
    return interpret(Graph((), values), arrays).outputs


def test_users_are_added() -> None:
    x = f64("x", 3)
    y = reduce_sum(add(mul(x, x), x))
    at = np.array([1.0, -2.0, 3.0])
    g = evaluate({"g": gradients(y, [x])[x]}, x=at)["g"]
    np.testing.assert_allclose(g, 2 * at + 1)


def test_the_same_operand_twice() -> None:
    x = f64("x", 2)
    g = gradients(reduce_sum(add(x, x)), [x])[x]
    np.testing.assert_allclose(evaluate({"g": g}, x=np.zeros(2))["g"], 2)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1), (1, 4), (1, 1, 1), (3, 4)])
def test_broadcasting_is_undone(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, c = f64("x", *shape), f64("c", 2, 3, 4)
    g = gradients(reduce_sum(mul(x, c)), [x])[x]
    assert g.type == x.type
    weights = rng.standard_normal((2, 3, 4))
    expected = np.zeros(shape)
    axes = (1,) * (3 - len(shape)) + shape
    kept = weights.sum(axis=tuple(i for i, n in enumerate(axes) if n == 1), keepdims=True)
    expected = kept.reshape(shape)
    found = evaluate({"g": g}, x=np.zeros(shape), c=weights)["g"]
    np.testing.assert_allclose(found, expected)


def test_agrees_with_central_differences() -> None:
    graph = mlp()
    rng = np.random.default_rng(3)
    data = {name: a.astype(np.float64) for name, a in graph.data.items()}
    wide = _as_f64(graph)
    loss = reduce_sum(mul(wide.outputs["logits"], wide.outputs["logits"]))
    params = wide.params
    found = gradients(loss, list(params.values()))
    x = rng.standard_normal((6, 5))
    outputs = {"loss": loss} | {name: found[p] for name, p in params.items()}
    at = interpret(Graph((), outputs, {}, data), {"x": x}).outputs
    for name in params:
        step = rng.standard_normal(data[name].shape)
        ends = [
            evaluate({"loss": loss}, **(data | {name: data[name] + h * step}), x=x)["loss"]
            for h in (-1e-6, 1e-6)
        ]
        slope = (ends[1] - ends[0]) / 2e-6
        np.testing.assert_allclose(np.sum(at[name] * step), slope, rtol=1e-6)


def _as_f64(graph: Graph) -> Graph:
    return parse_graph(print_graph(graph).replace("f32", "f64"), OPS)


def test_frozen_values_have_no_gradient_nodes() -> None:
    graph = mlp()
    loss = reduce_sum(graph.outputs["logits"])
    last = graph.params["fc3.bias"]
    found = gradients(loss, [last])
    forward = set(topological([loss]))
    new = [v for v in topological(found.values()) if v not in forward]
    # ones of the loss's shape, spread over the logits, and summed over the batch: no product
    assert not [v for v in new if type(v.op).__name__ == "MatMul"]
    everything = gradients(loss, list(graph.params.values()))
    products = [
        v
        for v in topological(everything.values())
        if v not in forward and type(v.op).__name__ == "MatMul"
    ]
    assert len(products) == 5  # three weights, and two of the layers' inputs: not the model's


def test_what_is_not_reached_has_no_entry() -> None:
    x, other = f64("x", 2), f64("other", 2)
    assert list(gradients(reduce_sum(x), [x, other])) == [x]


def test_integers_stop_the_walk() -> None:
    x = f64("x", 2, 3)
    y = reduce_sum(mul(cast(ArgMax(1, keepdims=False)(x), "f64"), 2.0))
    assert gradients(y, [x]) == {}


def test_a_seed_scales() -> None:
    x = f64("x", 2)
    s = f64("s")
    g = gradients(reduce_sum(x), [x], seed=s)[x]
    np.testing.assert_allclose(evaluate({"g": g}, s=np.array(3.0))["g"], [3, 3])


def test_a_vector_is_refused() -> None:
    with pytest.raises(GraphError, match=r"of a floating-point scalar, got f64\[2\] from Relu"):
        gradients(relu(f64("x", 2)), [])


def test_an_operator_without_gradient_is_named_with_its_source() -> None:
    x = f64("x", 2, 3)
    y = BatchMean((0,))(x, source="model.bn1")
    with pytest.raises(GraphError, match=r"differentiate BatchMean.* at model.bn1: .* no gradient"):
        gradients(reduce_sum(y), [x])


def test_the_walk_is_not_recursive() -> None:
    x = f64("x", 1)
    y = x
    for _ in range(5000):
        y = relu(y)
    assert gradients(reduce_sum(y), [x])[x].shape == (1,)
