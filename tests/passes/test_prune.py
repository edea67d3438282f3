"""Nothing twice, nothing unread."""

import numpy as np
from nets import Net, assert_same, count, image

from pockengine.ir.graph import Graph
from pockengine.ops.build import add, exp, full, mul, relu, sub
from pockengine.ops.constant import Full
from pockengine.ops.elementwise import Exp, Mul, Sub
from pockengine.passes.prune import drop_data, prune


def test_equal_values_become_one():
    net, x = Net(), image()
    before = net.graph(x, add(exp(relu(x)), exp(relu(x))))
    after = prune(before)
    assert_same(before, after)
    assert count(after, Exp) == 1
    y = after.outputs["y"]
    assert y.inputs[0] is y.inputs[1]


def test_order_matters_only_where_it_does():
    net, x = Net(), image()
    y = relu(x)
    after = prune(net.graph(x, add(add(mul(x, y), mul(y, x)), add(sub(x, y), sub(y, x)))))
    assert count(after, Mul) == 1
    assert count(after, Sub) == 2


def test_zero_and_minus_zero_are_two_numbers():
    x = image()
    graph = Graph((x,), {"a": add(x, full((), "f32", 0.0)), "b": add(x, full((), "f32", -0.0))})
    assert count(prune(graph), Full) == 2


def test_data_that_nobody_reads_is_dropped():
    net, x = Net(), image()
    net.weight("unused", 3)
    graph = net.graph(x, net.conv(x, "conv", 4))
    assert set(drop_data(graph).data) == {"conv.weight"}
    assert np.shares_memory(prune(graph).data["conv.weight"], net.data["conv.weight"])
