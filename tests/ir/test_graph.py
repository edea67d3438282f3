import numpy as np

from pockengine.ir.graph import Graph, Input, Param, State, leaf, topological, zeros
from pockengine.ir.types import TensorType
from pockengine.ops.build import add, mul, neg

F2 = TensorType("f32", (2,))


def small() -> Graph:
    x, w, s = leaf(Input, "x", F2), leaf(Param, "w", F2), leaf(State, "s", F2)
    product = mul(x, w)
    return Graph((x,), {"y": neg(product)}, {"s": add(s, product)}, {"w": zeros(F2)})


def test_operands_come_first() -> None:
    graph = small()
    order = graph.values()
    assert all(order.index(x) < order.index(v) for v in order for x in v.inputs)
    assert len(order) == len(set(order)) == 6


def test_an_unused_input_is_a_value() -> None:
    x = leaf(Input, "x", F2)
    assert Graph((x,), {}).values() == [x]


def test_leaves_by_kind() -> None:
    graph = small()
    assert list(graph.params) == ["w"]
    assert set(graph.leaves()) == {"x", "w", "s"}


def test_users() -> None:
    graph = small()
    product = graph.outputs["y"].inputs[0]
    assert graph.users()[product] == [graph.outputs["y"], graph.updates["s"]]
    assert graph.users()[graph.outputs["y"]] == []


def test_data_is_added_to_a_new_graph() -> None:
    graph = small()
    more = graph.with_data(s=np.ones(2, np.float32))
    assert set(more.data) == {"w", "s"} and set(graph.data) == {"w"}


def test_a_deep_graph_needs_no_recursion() -> None:
    value = leaf(Input, "x", F2)
    for _ in range(5000):
        value = neg(value)
    assert len(topological([value])) == 5001


def test_a_line_about_it() -> None:
    assert str(small()) == "Graph(6 values -> y=f32[2])"
