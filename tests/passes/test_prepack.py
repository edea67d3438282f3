"""Frozen weights in panels."""

import numpy as np
import pytest
from nets import Net, assert_same, count, run

from pockengine.ir.graph import Graph, Input, Param, leaf
from pockengine.ir.op import Value
from pockengine.ir.types import TensorType
from pockengine.ops.build import add, gather, matmul, mul, reshape, transpose
from pockengine.ops.matmul import MatMul
from pockengine.ops.panels import FromPanels, takes_panels
from pockengine.ops.shape import Transpose
from pockengine.panels import from_panels
from pockengine.passes.prepack import prepack

WIDTH = 8
X = leaf(Input, "x", TensorType("f32", (4, 6)))


def graph(net: Net, **outputs: Value) -> Graph:
    return Graph((X,), outputs, {}, net.data)


def packed(before: Graph, layouts: dict | None = None) -> tuple[Graph, dict]:
    graphs, found = prepack({"only": before}, layouts or {}, WIDTH)
    assert_same(before, graphs["only"])
    return graphs["only"], found


def panels_of(after: Graph, name: str) -> Value:
    value = after.leaves(Param)[name]
    assert value.type.rank == 3 and value.shape[2] == WIDTH
    return value


def test_a_product():
    net = Net()
    after, layouts = packed(graph(net, y=matmul(X, net.weight("w", 6, 5))))
    assert panels_of(after, "w").shape == (1, 6, 8)
    assert layouts == {}
    assert np.array_equal(from_panels(after.data["w"], (6, 5)), net.data["w"])


def test_a_linear_layer_is_turned_once():
    net = Net()
    y = matmul(X, net.weight("w", 9, 6), transpose_b=True)
    after, layouts = packed(graph(net, y=y))
    assert panels_of(after, "w").shape == (2, 6, 8)
    assert layouts == {"w": (1, 0)}
    assert count(after, Transpose) == 0
    assert after.outputs["y"].op == MatMul(False, False)
    _, layouts = prepack({"only": graph(net, y=y)}, {"w": (1, 0)}, WIDTH)
    assert layouts == {"w": (0, 1)}


@pytest.mark.parametrize("linear", [False, True])
def test_one_copy_serves_forward_and_backward(linear):
    net = Net()
    w = net.weight("w", 5, 6) if linear else net.weight("w", 6, 5)
    y = matmul(X, w, transpose_b=linear)
    dx = matmul(y, w, transpose_b=not linear)
    train, predict = graph(net, y=y, dx=dx), graph(net, y=y)
    after, _ = prepack({"train": train, "predict": predict}, {}, WIDTH)
    assert_same(train, after["train"])
    assert_same(predict, after["predict"])
    assert panels_of(after["train"], "w").type == panels_of(after["predict"], "w").type
    assert {v.op for v in after["train"].values() if isinstance(v.op, MatMul)} == {
        MatMul(False, False),
        MatMul(False, True),
    }


def test_the_matrix_of_a_convolution():
    net = Net()
    y = matmul(X, reshape(net.weight("w", 1, 2, 3, 7), (6, 7)))
    after, layouts = packed(graph(net, y=y), {"w": (2, 3, 1, 0)})
    assert panels_of(after, "w").shape == (1, 6, 8)
    assert layouts == {"w": (2, 3, 1, 0)}
    (view,) = (v for v in after.values() if isinstance(v.op, FromPanels))
    assert view.shape == (1, 2, 3, 7)


def unchanged() -> dict[str, Graph]:
    net = Net()
    w, narrow = net.weight("w", 6, 5), net.weight("narrow", 6, 3)
    rows = leaf(Input, "rows", TensorType("i64", (2,)))
    y = matmul(X, w)
    return {
        "trained": Graph((X,), {"y": y}, {"w": add(w, w)}, net.data),
        "also an output": graph(net, y=y, w=w),
        "also read by index": Graph((X, rows), {"y": y, "z": gather(w, rows)}, {}, net.data),
        "also multiplied": graph(net, y=y, z=mul(w, w)),
        "a batch of products": graph(net, y=matmul(reshape(X, (2, 2, 6)), w)),
        "other rows": graph(net, y=matmul(X, reshape(transpose(w, (1, 0)), (6, 5)))),
        "few columns": graph(net, y=matmul(X, narrow)),
    }


@pytest.mark.parametrize("name", unchanged())
def test_what_stays(name):
    before = unchanged()[name]
    after, layouts = prepack({"only": before}, {}, WIDTH)
    plain = [n for n in ("w", "narrow") if n in before.leaves(Param)]
    assert all(after["only"].leaves(Param)[n].type.rank == 2 for n in plain)
    assert layouts == {}


def test_an_update_in_another_entry_point_counts():
    net = Net()
    w = net.weight("w", 6, 5)
    still = graph(net, y=matmul(X, w))
    train = Graph((X,), {"y": matmul(X, w)}, {"w": add(w, w)}, net.data)
    after, _ = prepack({"predict": still, "train": train}, {}, WIDTH)
    assert count(after["predict"], FromPanels) == 0


def test_data_of_leaves_that_a_graph_lacks_stays_away():
    net = Net()
    first, second = matmul(X, net.weight("w", 6, 5)), matmul(X, net.weight("v", 6, 5))
    one = Graph((X,), {"y": first}, {}, {"w": net.data["w"]})
    both = graph(net, y=first, z=second)
    after, _ = prepack({"one": one, "both": both}, {}, WIDTH)
    assert after["one"].data.keys() == {"w"}
    np.testing.assert_allclose(run(after["both"])["z"], run(both)["z"], rtol=1e-6)


def test_who_takes_panels():
    net = Net()
    w = net.weight("w", 6, 5)
    square = net.weight("square", 6, 6)
    assert takes_panels(matmul(X, w), w)
    assert not takes_panels(add(w, w), w)
    assert not takes_panels(matmul(square, square), square)
    assert not takes_panels(matmul(leaf(Input, "a", w.type), square, transpose_a=True), square)
    assert not takes_panels(matmul(reshape(X, (2, 2, 6)), w), w)
