"""The gradient of a frozen norm's gain without what came before the norm."""

import numpy as np
import pytest
from nets import Net, assert_same, image, mobilenet, resnet, run

from pockengine.autodiff.reverse import gradients
from pockengine.ir.graph import Graph
from pockengine.ir.op import Value
from pockengine.ops.build import mul, reduce_sum, relu6
from pockengine.ops.elementwise import Mul, Sub
from pockengine.passes.gains import gain_gradients
from pockengine.passes.layout import channels_last
from pockengine.passes.lower import lower
from pockengine.passes.mode import inference_mode, training_mode
from pockengine.passes.prune import prune
from pockengine.passes.simplify import simplify


def step(graph: Graph, *names: str) -> Graph:
    """Outputs the sum of y * y, and updates the named parameters, or all, to their gradients."""
    graph, _ = channels_last(simplify(graph))
    graph = prune(simplify(lower(graph)))
    (y,) = graph.outputs.values()
    loss = reduce_sum(mul(y, y))
    wanted = {n: v for n, v in graph.params.items() if n in (names or graph.params)}
    found = gradients(loss, list(wanted.values()))
    updates = {n: found[v] for n, v in wanted.items()}
    made = Graph(graph.inputs, {"loss": loss}, {**graph.updates, **updates}, graph.data)
    return prune(simplify(made))


def block(
    kernel: int = 1, stride: int = 1, groups: int = 1, batch: int = 2, train: bool = False
) -> Graph:
    net, x = Net(norms_train=train), image(batch, channels=4)
    y = relu6(net.norm(net.conv(x, "before", 8), "first"))
    y = net.norm(net.conv(y, "conv", 8, kernel, stride, groups), "norm")
    mode = training_mode if train else inference_mode
    return mode(net.graph(x, net.conv(relu6(y), "after", 4)))


def saved(graph: Graph) -> list[Value]:
    """What is centred in the forward pass and read once more in the backward pass."""
    users = graph.users()
    return [v for v in users if isinstance(v.op, Sub) and v.type.size > 8 and len(users[v]) > 1]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "stride", "groups"), [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 8)]
)
def test_nothing_before_the_norm_is_saved(kernel, stride, groups, batch):
    before = step(block(kernel, stride, groups, batch))
    after = prune(gain_gradients(before))
    assert_same(before, after)
    assert (len(saved(before)), len(saved(after))) == (2, 0)


@pytest.mark.parametrize("net", [mobilenet, resnet])
def test_networks_keep_their_gradients(net):
    before = step(inference_mode(net()))
    after = prune(gain_gradients(before))
    assert_same(before, after)
    assert len(saved(after)) < len(saved(before))


def test_a_gain_of_zero_has_its_gradient():
    graph = block()
    graph = graph.with_data(**{"norm.weight": np.zeros(8, np.float32)})
    before = step(graph)
    after = prune(gain_gradients(before))
    assert_same(before, after)
    assert run(after)["new norm.weight"].any()


def test_a_large_weight_is_not_scaled():
    """Where the pixels are few, dz * gain is fewer bytes than w * gain."""
    few, many = (prune(gain_gradients(step(inference_mode(_conv_of(size))))) for size in (3, 16))
    weights = [[v for v in g.values() if isinstance(v.op, Mul)] for g in (few, many)]
    scaled = [sum(v.shape == (3, 3, 8, 8) for v in found) for found in weights]
    assert scaled == [2, 3]


def _conv_of(size: int) -> Graph:
    net, x = Net(), image(channels=8, size=size)
    y = relu6(net.norm(net.conv(x, "before", 8), "first"))
    return net.graph(x, relu6(net.norm(net.conv(y, "conv", 8, 3), "norm")))


@pytest.mark.parametrize("names", [("norm.weight",), ("conv.weight", "norm.bias")])
def test_both_must_be_trained(names):
    before = step(block(), *names)
    assert gain_gradients(before).values() == before.values()


def test_batch_statistics_stay():
    before = step(block(train=True))
    assert gain_gradients(before).values() == before.values()
