"""Each rule: the value it should give, and that the results stay the same."""

import pytest
from nets import NETS, Net, assert_same, count, image

from pockengine.ir.graph import Graph, Input, leaf
from pockengine.ir.text import print_graph
from pockengine.ir.types import TensorType
from pockengine.ir.verify import verify
from pockengine.ops.arithmetic import Cast, Neg
from pockengine.ops.build import (
    add,
    broadcast_to,
    div,
    flip,
    full,
    mul,
    reduce_sum,
    relu,
    reshape,
    slice_axis,
    sub,
    where,
)
from pockengine.ops.constant import Full
from pockengine.ops.matmul import MatMul
from pockengine.ops.shape import BroadcastTo, Concat, Pad, Reshape, Slice, Transpose
from pockengine.passes.mode import inference_mode
from pockengine.passes.simplify import RULES, simplify

X = leaf(Input, "x", TensorType("f32", (2, 3, 4)))
ROW = leaf(Input, "row", TensorType("f32", (1, 4)))

CASES = {
    "reshape twice": (reshape(reshape(relu(X), (6, 4)), (24,)), "Reshape(Relu(x))"),
    "reshape back": (Reshape((2, 3, 4))(Reshape((24,))(relu(X))), "Relu(x)"),
    "transpose twice": (Transpose((2, 0, 1))(Transpose((1, 0, 2))(X)), "Transpose(x)"),
    "transpose back": (Transpose((1, 2, 0))(Transpose((2, 0, 1))(X)), "x"),
    "transpose in order": (Transpose((1, 0, 2))(Reshape((1, 6, 4))(X)), "Reshape(x)"),
    "broadcast twice": (BroadcastTo((5, 2, 4))(BroadcastTo((2, 4))(ROW)), "BroadcastTo(row)"),
    "broadcast to itself": (BroadcastTo((2, 3, 4))(X), "x"),
    "broadcast operand": (mul(X, broadcast_to(ROW, (2, 3, 4))), "Mul(x, row)"),
    "broadcast that is needed": (
        mul(ROW, broadcast_to(ROW, (3, 4))),
        "Mul(row, BroadcastTo(row))",
    ),
    "cast to itself": (Cast("f32")(X), "x"),
    "pad by nothing": (Pad((0, 0, 0), (0, 0, 0), 1.0)(X), "x"),
    "concat of one": (Concat(1)(X), "x"),
    "slice of everything": (Slice(1, 0, 3, 1)(X), "x"),
    "slice twice": (slice_axis(slice_axis(X, 2, 1, 4), 2, 0, 3, 2), "Slice(x)"),
    "slice of another axis": (slice_axis(slice_axis(X, 2, 1, 4), 1, 0, 2), "Slice(Slice(x))"),
    "sum over one element": (reduce_sum(Reshape((2, 1, 12))(X), 1), "Reshape(x)"),
    "plus nothing": (add(X, 0.0), "x"),
    "nothing plus": (add(full((2, 1, 4), "f32", 0.0), X), "x"),
    "minus nothing": (sub(X, 0.0), "x"),
    "nothing minus": (sub(0.0, X), "Sub(0.0, x)"),
    "times one": (mul(1.0, X), "x"),
    "by one": (div(X, 1.0), "x"),
    "one that broadcasts": (mul(ROW, full((3, 1), "f32", 1.0)), "Mul(row, 1.0)"),
    "two factors": (mul(2.0, mul(X, 3.0)), "Mul(x, 6.0)"),
    "two terms": (add(add(X, 2.0), 3.0), "Add(x, 5.0)"),
    "two signs": (Neg()(Neg()(X)), "x"),
    "numbers alone": (mul(X, div(full((), "f32", 1.0), full((), "f32", 4.0))), "Mul(x, 0.25)"),
    "a number moved": (mul(X, reshape(full((4, 1), "f32", 2.0), (1, 4))), "Mul(x, 2.0)"),
    "where true": (where(full((), "bool", True), X, flip(X, 0)), "x"),
    "where false": (where(full((2, 3, 4), "bool", False), X, ROW), "BroadcastTo(row)"),
}


def shown(value) -> str:
    if isinstance(value.op, Input):
        return value.op.name
    if isinstance(value.op, Full):
        return repr(value.op.value)
    return f"{type(value.op).__name__}({', '.join(map(shown, value.inputs))})"


@pytest.mark.parametrize("name", CASES)
def test_rule(name):
    value, expected = CASES[name]
    before = Graph((X, ROW), {"y": value})
    after = verify(simplify(before))
    assert_same(before, after)
    assert shown(after.outputs["y"]) == expected


def test_every_rule_says_what_it_does():
    assert all("->" in (rule.__doc__ or "") for rule in RULES)


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)
def test_networks_keep_their_results(net):
    before = inference_mode(net())
    after = verify(simplify(before))
    assert_same(before, after)
    assert print_graph(simplify(after)) == print_graph(after)


def test_integers_wrap_as_they_did():
    x = leaf(Input, "x", TensorType("f32", (4,)))
    counted = mul(Cast("u8")(x), Full((), "u8", 200)())
    graph = Graph((x,), {"y": mul(counted, Full((), "u8", 2)())})
    assert shown(simplify(graph).outputs["y"]) == "Mul(Mul(Cast(x), 200), 2)"


def test_names_stay_in_reports():
    inner = Reshape((6, 4))(X, source="inner")
    graph = Graph((X,), {"y": Reshape((24,))(inner, source="outer")})
    assert simplify(graph).outputs["y"].source == "outer"


def test_a_product_reads_its_operands_transposed():
    x = leaf(Input, "x", TensorType("f32", (2, 3, 4)))
    y = leaf(Input, "y", TensorType("f32", (2, 5, 4)))
    z = MatMul(True, False)(Transpose((0, 2, 1))(x), Transpose((0, 2, 1))(y))
    graph = Graph((x, y), {"z": z})
    after = verify(simplify(graph))
    assert_same(graph, after)
    assert after.outputs["z"].op == MatMul(False, True)
    assert count(after, Transpose) == 0


@pytest.mark.parametrize(
    ("low", "value", "pads"),
    [((0, 0, 1, 0), 0.0, 0), ((0, 0, 1, 0), 1.0, 1), ((0, 1, 0, 0), 0.0, 1)],
)
def test_padding_joins_a_convolution(low, value, pads):
    net, x = Net(), image()
    graph = net.graph(x, net.conv(Pad(low, (0, 0, 2, 1), value)(x), "conv", 4, 3, 2))
    after = verify(simplify(graph))
    assert_same(graph, after)
    assert count(after, Pad) == pads
