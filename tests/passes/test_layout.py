"""Channels-last: the same results, and Transposes only where an image comes in."""

import numpy as np
import pytest
from nets import NETS, Net, assert_same, count, image, mobilenet, resnet, shufflenet, unet

from pockengine.ir.graph import Const, Graph, Input, leaf
from pockengine.ir.op import Value
from pockengine.ir.types import TensorType
from pockengine.ir.verify import verify
from pockengine.ops.build import add, greater, mul, relu, reshape, slice_axis, softmax, where
from pockengine.ops.conv import Conv, ConvInputGrad
from pockengine.ops.reduce import ArgMax, Max
from pockengine.ops.shape import Flip, Pad, Transpose
from pockengine.passes.fold import constant_name, fold
from pockengine.passes.layout import channels_last
from pockengine.passes.mode import inference_mode, training_mode
from pockengine.passes.simplify import simplify

BY_NAME = pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)


def transposes(graph: Graph) -> list[Value]:
    return [v for v in graph.values() if isinstance(v.op, Transpose)]


@BY_NAME
def test_same_results(net):
    before = inference_mode(net())
    after, _ = channels_last(before)
    verify(after)
    assert_same(before, after)
    convs = [v for v in after.values() if isinstance(v.op, (Conv, ConvInputGrad))]
    assert convs and all(v.op.channels_last for v in convs)


@BY_NAME
def test_transposes_are_left_only_at_the_ends(net):
    graph = simplify(channels_last(inference_mode(net()))[0])
    ends = (*graph.inputs, *graph.outputs.values())
    inner = [v for v in transposes(graph) if v not in ends and v.inputs[0] not in ends]
    # the shuffle of channels is itself one
    assert len(inner) == (1 if net is shufflenet else 0), inner


def test_batch_norm_in_training_goes_channels_last_too():
    before = training_mode(mobilenet(norms_train=True))
    after, _ = channels_last(before)
    assert_same(before, after)
    assert len(transposes(simplify(after))) == 1


def test_output_map_keeps_its_layout():
    after, _ = channels_last(inference_mode(unet()))
    assert after.outputs["y"].shape == (2, 3, 8, 8)
    assert count(after, Transpose) == 2


def test_layouts_map_weights_back():
    before = inference_mode(resnet())
    after, layouts = channels_last(before)
    assert layouts["stem.weight"] == (2, 3, 1, 0)
    assert "head.weight" not in layouts
    for name, perm in layouts.items():
        np.testing.assert_array_equal(after.data[name], before.data[name].transpose(perm))
        assert after.data[name].flags.c_contiguous


def test_other_readers_of_a_weight_see_it_as_before():
    net, x = Net(), image()
    y = net.conv(x, "conv", 4, 3)
    w = y.inputs[1]
    graph = Graph((x,), {"y": y, "penalty": mul(w, w)}, {}, net.data)
    assert_same(graph, channels_last(graph)[0])


CASES = {
    "pad": lambda y: Pad((0, 1, 0, 2), (0, 0, 1, 0), 0.5)(y),
    "slice": lambda y: slice_axis(y, 1, 1, 4, 2),
    "flip": lambda y: Flip((1, 3))(y),
    "max": lambda y: Max((1,), False)(y),
    "max of two": lambda y: Max((1, 3), True)(y),
    "argmax": lambda y: ArgMax(1, False)(y),
    "softmax": lambda y: softmax(y, 1),
    "where": lambda y: where(greater(y, 0.1), y, 0.0),
    "groups": lambda y: reshape(mul(reshape(y, (2, 2, 2, 8, 8)), 2.0), (2, 4, 8, 8)),
    "row vector": lambda y: add(y, reshape(softmax(y, 1), (2, 4, 8, 8))),
}


@pytest.mark.parametrize("case", CASES)
def test_transposes_sink_through(case):
    net, x = Net(), image()
    y = CASES[case](relu(net.conv(x, "conv", 4, 3)))
    before = Graph((x,), {"y": y}, {}, net.data)
    after, _ = channels_last(before)
    assert_same(before, after)
    assert all(
        v in after.outputs.values() or v.inputs[0] in after.inputs for v in transposes(after)
    )


def test_flattening_a_map_keeps_one_transpose():
    net, x = Net(), image(size=4)
    y = net.linear(reshape(relu(net.conv(x, "conv", 4, 3)), (2, 64)), "head", 3)
    before = net.graph(x, y)
    after, _ = channels_last(before)
    assert_same(before, after)
    assert len(transposes(after)) == 2


def test_the_heads_of_an_attention_are_left_alone():
    x = leaf(Input, "x", TensorType("f32", (2, 4, 7, 8)))
    y = reshape(Transpose((0, 2, 1, 3))(x), (2, 7, 32))
    assert len(transposes(channels_last(Graph((x,), {"y": y}))[0])) == 1


def test_a_constant_is_named_by_what_it_holds():
    graph = fold(simplify(inference_mode(resnet())), set())
    after, layouts = channels_last(graph)
    verify(after)
    consts = after.leaves(Const)
    assert consts and not set(layouts) & set(consts)
    assert all(name == constant_name(after.data[name]) for name in consts)
