"""What the backward pass reads of truth values, and in what form."""

import numpy as np
import pytest
from nets import Net, assert_same, count, image

from pockengine.autodiff.reverse import gradients
from pockengine.ir.graph import Graph, State, leaf
from pockengine.ir.op import Value
from pockengine.ops.bits import PackBits, UnpackBits
from pockengine.ops.build import add, greater, iota, mul, reduce_sum, relu, relu6, reshape, where
from pockengine.ops.elementwise import Greater
from pockengine.ops.random import Dropout
from pockengine.passes.masks import LEAST, pack_masks
from pockengine.passes.mode import training_mode
from pockengine.passes.prune import prune
from pockengine.passes.simplify import simplify


def with_gradients(net: Net, x: Value, y: Value, *names: str) -> Graph:
    """Outputs the sum of y, and updates each named parameter to its gradient."""
    graph = training_mode(Graph((x,), {"loss": reduce_sum(mul(y, y))}, {}, net.data))
    loss = graph.outputs["loss"]
    params = graph.params
    found = gradients(loss, [params[n] for n in names])
    updates = {n: found[params[n]] for n in names}
    return prune(simplify(Graph((x,), graph.outputs, {**graph.updates, **updates}, graph.data)))


def masks(graph: Graph) -> list[Value]:
    return [v for v in graph.values() if isinstance(v.op, Greater)]


@pytest.mark.parametrize("activation", [relu, relu6])
def test_an_activation_that_is_not_kept_leaves_bits(activation):
    net, x = Net(), image()
    first = net.bias(x, "first")
    frozen = activation(net.conv(first, "conv", 16, 3))
    y = net.conv(frozen, "frozen", 4, 3)  # reads the activation, but has no gradient
    before = with_gradients(net, x, y, "first.bias")
    after = pack_masks(before)
    assert_same(before, after, 1e-6)
    assert (count(after, PackBits), count(after, UnpackBits)) == (1, 1)
    (bits,) = [v for v in after.values() if isinstance(v.op, PackBits)]
    assert bits.inputs[0].type.size <= 8 * bits.type.size


def test_an_activation_that_is_kept_is_compared_again():
    net, x = Net(), image()
    y = net.conv(relu(net.conv(x, "a", 8, 3)), "b", 4, 3)
    before = with_gradients(net, x, y, "a.weight", "b.weight")
    after = pack_masks(before)
    assert_same(before, after, 1e-6)
    assert count(after, PackBits) == 0


def test_the_mask_reads_the_side_that_is_kept():
    net, x = Net(), image()
    h = net.conv(x, "a", 8, 3)
    y = add(relu(h), mul(h, h))  # h is kept for h * h, relu(h) is not
    before = with_gradients(net, x, y, "a.weight")
    made = [v for v in masks(before) if v.inputs[0].shape == h.shape]
    assert [type(v.inputs[0].op).__name__ for v in made] == ["Relu"]
    after = pack_masks(before)
    assert_same(before, after, 1e-6)
    assert [type(v.inputs[0].op).__name__ for v in masks(after)] == ["Conv"]
    assert count(after, PackBits) == 0


def test_dropout_leaves_bits():
    net, x = Net(), image()
    rng = leaf(State, "rng", np.array([1, 2], np.int64))
    net.data["rng"] = np.array([1, 2], np.int64)
    y = Dropout(0.5, 3)(net.conv(x, "a", 16, 3), rng)
    before = with_gradients(net, x, y, "a.weight")
    after = pack_masks(before)
    assert_same(before, after, 1e-6)
    assert count(after, PackBits) == 1


def test_a_mask_made_of_positions_is_made_again():
    net, x = Net(), image(batch=1, channels=4, size=16)
    keep = greater(iota((1, 4, 16, 16), 3, "i32"), 3)
    y = where(keep, net.conv(x, "a", 4, 3), 0.0)
    after = pack_masks(with_gradients(net, x, y, "a.weight"))
    assert count(after, PackBits) == 0


def test_small_masks_are_left_alone():
    net, x = Net(), image(batch=1, size=4)
    first = net.bias(x, "first")
    y = net.conv(relu(net.conv(first, "conv", 4, 3)), "frozen", 4, 3)
    before = with_gradients(net, x, y, "first.bias")
    assert LEAST > 4 * 4 * 4
    assert count(pack_masks(before), PackBits) == 0


def test_a_reshaped_reader_keeps_the_activation():
    net, x = Net(), image()
    h = relu(net.conv(x, "a", 16, 3))
    y = net.linear(reshape(h, (2, 16 * 64)), "head", 3)
    before = with_gradients(net, x, y, "a.weight", "head.weight")
    after = pack_masks(before)
    assert_same(before, after, 1e-6)
    assert count(after, PackBits) == 0
