"""Convolutions that are matrix products."""

import pytest
from nets import NETS, Net, assert_same, count

from pockengine.ir.graph import Graph, Input, leaf
from pockengine.ir.types import TensorType
from pockengine.ops.build import matmul
from pockengine.ops.conv import Conv, ConvInputGrad
from pockengine.ops.matmul import MatMul
from pockengine.passes.layout import channels_last
from pockengine.passes.lower import lower
from pockengine.passes.mode import inference_mode


def conv_graph(size, kernel, stride, padding=0, groups=1) -> Graph:
    net, rank = Net(), len(size)
    x = leaf(Input, "x", TensorType("f32", (2, *size, 6)))
    w = net.weight("w", *kernel, 6 // groups, 4)
    op = Conv(stride, ((padding, padding),) * rank, (1,) * rank, groups, True)
    return net.graph(x, op(x, w))


PRODUCTS = {
    "1x1": conv_graph((5, 4), (1, 1), (1, 1)),
    "1x1, stride": conv_graph((5, 4), (1, 1), (2, 3)),
    "patches": conv_graph((6, 4), (3, 2), (3, 2)),
    "patches that leave a rest": conv_graph((7, 5), (3, 2), (3, 2)),
    "one axis": conv_graph((8,), (4,), (4,)),
}
OTHERS = {
    "overlap": conv_graph((5, 4), (3, 3), (1, 1)),
    "padding": conv_graph((5, 4), (1, 1), (1, 1), padding=1),
    "groups": conv_graph((5, 4), (1, 1), (1, 1), groups=2),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_convolution_becomes_a_product(name):
    after = lower(PRODUCTS[name])
    assert count(after, Conv) == 0
    assert count(after, MatMul) == 1
    assert_same(PRODUCTS[name], after)


@pytest.mark.parametrize("name", OTHERS)
def test_other_convolutions_stay(name):
    after = lower(OTHERS[name])
    assert count(after, Conv) == 1
    assert after.outputs["y"] is OTHERS[name].outputs["y"]


@pytest.mark.parametrize(("size", "products"), [((6, 4), 1), ((7, 4), 0)])
def test_transposed_convolution(size, products):
    net = Net()
    y = leaf(Input, "y", TensorType("f32", (2, 2, 2, 5)))
    op = ConvInputGrad((3, 2), ((0, 0), (0, 0)), (1, 1), 1, True, size)
    graph = net.graph(y, op(y, net.weight("w", 3, 2, 4, 5)))
    assert count(lower(graph), MatMul) == products
    assert_same(graph, lower(graph))


def test_rows_of_a_sequence_are_one_product():
    net = Net()
    x = leaf(Input, "x", TensorType("f32", (2, 3, 4)))
    graph = net.graph(x, matmul(x, net.weight("w", 5, 4), transpose_b=True))
    (product,) = [v for v in lower(graph).values() if isinstance(v.op, MatMul)]
    assert product.shape == (6, 5)
    assert_same(graph, lower(graph))


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)
def test_networks_keep_their_results(net):
    before = channels_last(inference_mode(net()))[0]
    assert_same(before, lower(before))
