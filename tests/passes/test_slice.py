"""Slices move up as far as they save something, and no further; results stay what they were."""

import numpy as np

from pockengine.autodiff.training import Recipe, training_graph
from pockengine.ir.graph import Graph, Input, Param, leaf
from pockengine.ir.interpret import interpret
from pockengine.ir.op import Value
from pockengine.ir.types import TensorType
from pockengine.ir.verify import verify
from pockengine.ops.build import add, matmul, mul, reduce_mean, relu, reshape
from pockengine.ops.conv import Conv, ConvWeightGrad
from pockengine.ops.index import Take
from pockengine.ops.matmul import MatMul
from pockengine.ops.shape import Slice
from pockengine.optim import SGD
from pockengine.passes.slice import push_slices
from pockengine.scheme import Channels

RNG = np.random.default_rng(0)


def given(name: str, *shape: int) -> Value:
    return leaf(Input, name, TensorType("f32", shape))


def check(inputs: list[Value], y: Value) -> Value:
    """Pushes the slices of `y`, checks that its value stays the same, and returns its new self."""
    graph = Graph(tuple(inputs), {"y": y})
    pushed = verify(push_slices(graph))
    arrays = {v.op.name: RNG.standard_normal(v.shape).astype(np.float32) for v in inputs}
    before, after = (interpret(g, arrays).outputs["y"] for g in (graph, pushed))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    return pushed.outputs["y"]


def test_a_slice_of_a_product_s_rows_is_a_product_of_fewer_rows() -> None:
    x, g = given("x", 6, 4), given("g", 6, 5)
    y = check([x, g], Take(0, (0, 2, 3))(MatMul(True, False)(x, g)))
    assert isinstance(y.op, MatMul)
    assert isinstance(y.inputs[0].op, Take) and y.inputs[0].inputs[0] is x
    assert y.inputs[1] is g


def test_a_slice_passes_through_several_operators() -> None:
    x, c = given("x", 3, 4), given("c", 4)
    y = check([x, c], Take(0, (0, 2))(reshape(add(mul(x, 2.0), c), (3, 2, 2))))
    takes = [v for v in Graph((), {"y": y}).values() if isinstance(v.op, Take | Slice)]
    assert [t.inputs[0] for t in takes] == [x]


def test_a_value_with_another_reader_is_not_computed_twice() -> None:
    x = given("x", 6, 4)
    h = relu(x)
    y = check([x], add(Take(1, (0, 2, 3))(h), reduce_mean(h, (1,), keepdims=True)))
    sliced = y.inputs[0]
    assert isinstance(sliced.op, Take) and sliced.inputs[0] is y.inputs[1].inputs[0]


def test_a_result_is_computed_whole() -> None:
    x = given("x", 6, 4)
    h = relu(x)
    graph = push_slices(Graph((x,), {"h": h, "part": Take(1, (0, 3))(h)}))
    assert graph.outputs["part"].inputs[0] is graph.outputs["h"]


def test_a_slice_of_an_axis_that_was_split_off_is_one_of_the_whole_axis() -> None:
    """As of a kernel [2, 2, C, O] whose gradient is a product [4 * C, O]."""
    x, g = given("x", 6, 12), given("g", 6, 5)
    product = MatMul(True, False)(x, g)
    y = check([x, g], Take(2, (0, 2))(reshape(product, (2, 2, 3, 5))))
    assert y.inputs[0].op == MatMul(True, False)
    cut = y.inputs[0].inputs[0]
    assert cut.op == Take(1, (0, 2, 3, 5, 6, 8, 9, 11)) and cut.inputs[0] is x


def test_a_slice_of_merged_axes_stays() -> None:
    x = given("x", 6, 2, 3)
    y = check([x], Take(1, (0, 4, 5))(reshape(relu(x), (6, 6))))
    assert isinstance(y.op, Take)


def test_evenly_spaced_indices_become_a_slice() -> None:
    x = given("x", 9)
    assert check([x], Take(0, (2, 3, 4))(x)).op == Slice(0, 2, 5, 1)
    assert check([x], Take(0, (1, 4, 7))(x)).op == Slice(0, 1, 8, 3)
    assert check([x], Take(0, (5,))(x)).op == Slice(0, 5, 6, 1)
    assert check([x], Take(0, (2, 1))(x)).op == Take(0, (2, 1))


def test_slices_of_the_model_itself_move_too() -> None:
    """Of the last layer of an encoder only the first token is computed."""
    x, w = given("x", 2, 5, 4), given("w", 4, 4)
    y = check([x, w], Slice(1, 0, 1, 1)(relu(matmul(x, w))))
    assert y.inputs[0].shape == (2, 1, 4)


def test_readers_that_take_the_same_slice_count_as_one() -> None:
    """As with a residual around the last layer of an encoder."""
    x, w = given("x", 2, 5, 4), given("w", 4, 4)
    h = relu(x)
    y = check([x, w], Slice(1, 0, 1, 1)(add(h, matmul(mul(h, 2.0), w))))
    (first,) = [v for v in Graph((), {"y": y}).values() if isinstance(v.op, Slice)]
    assert first.inputs == (x,)


def test_nested_slices() -> None:
    x, w = given("x", 6, 4), given("w", 4, 8)
    y = Take(1, (0, 3))(Take(0, (1, 2, 5))(matmul(x, w)))
    y = check([x, w], y)
    assert isinstance(y.op, MatMul) and y.inputs[0].shape == (3, 4) and y.inputs[1].shape == (4, 2)


def test_slices_along_two_axes_do_not_change_places_for_ever() -> None:
    x = given("x", 6, 4)
    h = relu(x)
    y = check([x], add(Slice(0, 0, 1, 1)(Slice(1, 1, 2, 1)(h)), reduce_mean(h)))
    assert [type(v.op) for v in (y.inputs[0], y.inputs[0].inputs[0])] == [Slice, Slice]


def convolutions(channels_last: bool, groups: int = 1) -> Graph:
    """conv -> relu -> conv -> relu -> mean over space, weights in the layout of the activations."""
    rng = np.random.default_rng(0)
    last = channels_last
    x = given("x", *((2, 5, 5, 4) if last else (2, 4, 5, 5)))
    shapes = {"a": (3, 3, 4 // groups, 8), "b": (3, 3, 8 // groups, 8)}
    data = {n: rng.standard_normal(s).astype(np.float32) / 6 for n, s in shapes.items()}
    if not last:
        data = {n: np.ascontiguousarray(w.transpose(3, 2, 0, 1)) for n, w in data.items()}
    op = Conv((1, 1), ((1, 1), (1, 1)), (1, 1), groups, last)
    h = relu(op(x, leaf(Param, "a", data["a"])))
    h = relu(op(h, leaf(Param, "b", data["b"])))
    return Graph((x,), {"y": reduce_mean(h, (1, 2) if last else (2, 3))}, {}, data)


def trained(forward: Graph, channels: Channels | None) -> tuple[Graph, Graph]:
    graph = training_graph(forward, Recipe.of("mse", SGD(), {"b": channels}))
    return graph, verify(push_slices(graph))


def arrays_of(graph: Graph) -> dict[str, np.ndarray]:
    arrays = {v.op.name: RNG.standard_normal(v.shape).astype(np.float32) for v in graph.inputs}
    return arrays | {"sample_weight": np.ones(2, np.float32)}


def test_a_sparse_convolution_keeps_the_chosen_channels_only() -> None:
    for last, axis in ((True, 2), (False, 1)):
        forward = convolutions(last)
        dense, _ = trained(forward, None)
        graph, pushed = trained(forward, Channels(axis, (0, 3, 4)))
        arrays = arrays_of(graph)
        before, after = (interpret(g, arrays).updates["b"] for g in (graph, pushed))
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-7)
        whole = interpret(dense, arrays).updates["b"]
        chosen = np.take(whole, (0, 3, 4), axis)
        np.testing.assert_allclose(np.take(after, (0, 3, 4), axis), chosen, rtol=1e-6, atol=1e-7)
        (kernel,) = [v for v in pushed.values() if isinstance(v.op, ConvWeightGrad)]
        assert kernel.shape[axis] == 3
        saved = kernel.inputs[0]
        assert isinstance(saved.op, Take)
        assert saved.type.size == 2 * 5 * 5 * 3


def test_a_slice_that_cannot_move_stays() -> None:
    """Channels within groups are not one range of the activation's channels."""
    graph, pushed = trained(convolutions(True, groups=2), Channels(2, (1, 3)))
    arrays = arrays_of(graph)
    before, after = (interpret(g, arrays).updates["b"] for g in (graph, pushed))
    np.testing.assert_array_equal(after, before)
    (kernel,) = [v for v in pushed.values() if isinstance(v.op, ConvWeightGrad)]
    assert kernel.shape == (3, 3, 4, 8)


def test_nothing_to_push_changes_nothing() -> None:
    forward = convolutions(True)
    pushed = push_slices(forward)
    assert pushed.outputs == forward.outputs
