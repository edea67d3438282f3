"""Frozen norms move into frozen weights; trained weights stay themselves; memory does not grow."""

import numpy as np
import pytest
from nets import NETS, Net, assert_same, count, image

from pockengine.ir.graph import Const, Graph, Input, Leaf, Param, leaf
from pockengine.ir.types import TensorType
from pockengine.ir.verify import verify
from pockengine.ops.build import add, broadcast_to, gather, matmul, mul, reshape, transpose
from pockengine.ops.conv import Conv
from pockengine.ops.elementwise import Add, Mul, Rsqrt, Sub
from pockengine.ops.shape import Transpose
from pockengine.passes.fold import fold, fold_constants
from pockengine.passes.mode import inference_mode
from pockengine.passes.prune import prune
from pockengine.passes.simplify import simplify


def conv_and_norm(groups: int = 1, up: bool = False, bias: bool = False) -> Graph:
    net, x = Net(), image(channels=4)
    y = net.up(x, "conv", 8, groups) if up else net.conv(x, "conv", 8, 3, 1, groups)
    y = net.bias(y, "conv") if bias else y
    return simplify(inference_mode(net.graph(x, net.norm(y, "norm"))))


def resident(graph: Graph) -> int:
    return sum(v.type.nbytes for v in graph.leaves(Leaf).values() if not isinstance(v.op, Input))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("groups", "up"), [(1, False), (2, False), (4, False), (1, True), (2, True)]
)
def test_a_frozen_norm_costs_one_addition(groups, up, bias):
    before = conv_and_norm(groups, up, bias)
    after = verify(fold(before, set()))
    assert_same(before, after)
    assert (count(after, Mul, Sub, Rsqrt), count(after, Add)) == (0, 1)
    assert resident(after) <= resident(before)


def test_a_trained_weight_keeps_itself():
    before = conv_and_norm()
    after = fold(before, {"conv.weight"})
    assert_same(before, after)
    (conv,) = [v for v in after.values() if isinstance(v.op, Conv)]
    assert conv.inputs[1].op.name == "conv.weight"
    assert (count(after, Mul), count(after, Add), count(after, Sub, Rsqrt)) == (1, 1, 0)


def test_a_trained_shift_costs_a_shift():
    before = conv_and_norm()
    after = fold(before, {"norm.bias"})
    assert_same(before, after)
    assert "norm.bias" in after.params
    assert "conv.weight" not in after.params
    vectors = [v for v in after.values() if v.op.elementwise and v.type.size == 8]
    maps = [v for v in after.values() if v.op.elementwise and v.type.size > 8]
    assert len(maps) == 1
    assert len(vectors) == 1


def test_a_trained_scale_stays():
    before = conv_and_norm()
    after = fold(before, {"norm.weight"})
    assert_same(before, after)
    assert {"norm.weight", "conv.weight"} <= set(after.params)


def test_a_convolution_with_two_readers_is_left_alone():
    net, x = Net(), image()
    y = net.conv(x, "conv", 4, 3)
    graph = inference_mode(net.graph(x, add(net.norm(y, "norm"), y)))
    after = fold(graph, set())
    assert_same(graph, after)
    assert count(after, Conv) == 1
    assert "conv.weight" in after.params


def test_linear_layer_before_a_norm():
    net = Net()
    x = leaf(Input, "x", TensorType("f32", (5, 4)))
    graph = simplify(inference_mode(net.graph(x, net.norm(net.linear(x, "fc", 6), "norm"))))
    after = fold(graph, set())
    assert_same(graph, after)
    assert (count(after, Mul, Sub), count(after, Add)) == (0, 1)


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)
def test_networks_keep_their_results(net):
    before = simplify(inference_mode(net()))
    after = prune(simplify(fold(before, set())))
    assert_same(before, after)
    assert resident(after) <= resident(before)
    some = {name for name in before.params if "norm" not in name}
    assert_same(before, fold(before, some))


def test_a_broadcast_is_not_stored():
    net = Net()
    x = leaf(Input, "x", TensorType("f32", (64, 64)))
    graph = net.graph(x, matmul(x, broadcast_to(net.weight("row", 64), (64, 64))))
    assert count(fold_constants(graph, set()), Const) == 0


def test_a_weight_is_not_kept_twice():
    net = Net()
    idx = leaf(Input, "idx", TensorType("i64", (3,)))
    table = net.weight("table", 100, 32)
    h = gather(table, idx, 0)
    both = Graph((idx,), {"y": matmul(h, transpose(table, (1, 0)))}, {}, net.data)
    assert count(fold_constants(both, set()), Transpose) == 1
    x = leaf(Input, "x", TensorType("f32", (3, 32)))
    once = Graph((x,), {"y": matmul(x, transpose(table, (1, 0)))}, {}, net.data)
    assert count(fold_constants(once, set()), Transpose) == 0
    assert count(fold_constants(once, {"table"}), Transpose) == 1


def test_equal_constants_have_one_name():
    net = Net()
    x = leaf(Input, "x", TensorType("f32", (4, 8)))
    w = net.weight("w", 8, 8)
    scale = net.weight("scale", 8)

    def product(sign: float) -> Graph:
        return net.graph(x, mul(matmul(x, mul(w, reshape(scale, (8, 1)))), sign))

    first, second = (fold_constants(product(sign), set()) for sign in (1.0, -1.0))
    assert set(first.leaves(Const)) == set(second.leaves(Const)) != set()
    assert set(first.data) == set(first.leaves(Const))
    np.testing.assert_array_equal(*(next(iter(g.data.values())) for g in (first, second)))


def test_equal_results_share_one_constant():
    net = Net()
    x = leaf(Input, "x", TensorType("f32", (4, 8)))
    net.data |= {"a": np.ones((8, 8), np.float32), "b": np.ones((8, 8), np.float32)}
    a, b = (leaf(Param, name, net.data[name]) for name in "ab")
    y = matmul(matmul(x, transpose(a, (1, 0))), transpose(b, (1, 0)))
    after = verify(fold_constants(net.graph(x, y), set()))
    assert len(after.leaves(Const)) == 1
