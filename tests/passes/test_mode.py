"""What batch norms and dropout become."""

import numpy as np
import pytest
from nets import Net, assert_same, count, image, mobilenet, run

from pockengine.errors import GraphError
from pockengine.ir.graph import Graph, Input, State, leaf
from pockengine.ir.interpret import interpret
from pockengine.ir.types import TensorType, type_of
from pockengine.ir.verify import verify
from pockengine.ops.build import add, reduce_mean
from pockengine.ops.norm import BatchNorm, Normalize
from pockengine.ops.random import Dropout
from pockengine.passes.mode import inference_mode, training_mode, weigh_batch


def norm_graph(training: bool, batch: int = 4, momentum: float | None = 0.1) -> Graph:
    net, x = Net(norms_train=training), image(batch, 3, 4)
    y = net.norm(x, "norm")
    y = BatchNorm(1, 1e-5, momentum, training)(*y.inputs, source="norm")
    return net.graph(x, y)


def dropout_graph(p: float) -> Graph:
    x = leaf(Input, "x", TensorType("f32", (64, 64)))
    seed = np.array([7, 3], np.int64)
    rng = leaf(State, "rng", seed)
    return Graph((x,), {"y": Dropout(p, 5)(x, rng)}, {}, {"rng": seed})


@pytest.mark.parametrize("training", [False, True])
def test_training_gives_what_the_norm_means(training):
    graph = norm_graph(training)
    made = verify(training_mode(graph))
    assert count(made, BatchNorm) == 0
    np.testing.assert_allclose(run(made)["y"], run(graph)["y"], rtol=1e-4, atol=1e-5)


def test_running_statistics_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    graph = training_mode(norm_graph(True))
    twin = torch.nn.BatchNorm2d(3)
    names = ("weight", "bias", "running_mean", "running_var")
    state = {n: torch.from_numpy(graph.data[f"norm.{n}"]) for n in names}
    twin.load_state_dict(state, strict=False)
    x = np.random.default_rng(1).standard_normal((4, 3, 4, 4)).astype(np.float32)
    want = twin(torch.from_numpy(x)).detach().numpy()
    result = interpret(graph, {"x": x})
    np.testing.assert_allclose(result.outputs["y"], want, rtol=1e-4, atol=1e-5)
    for name in names[2:]:
        want = twin.state_dict()[name].numpy()
        np.testing.assert_allclose(result.updates[f"norm.{name}"], want, rtol=1e-5)


def test_frozen_statistics_get_no_update():
    assert not training_mode(norm_graph(False)).updates


def test_inference_uses_running_statistics():
    made = inference_mode(norm_graph(True))
    assert not made.updates
    assert_same(norm_graph(False), made)


def test_norm_that_is_used_twice_updates_twice():
    net, x = Net(norms_train=True), image(4, 3, 4)
    first = net.norm(x, "norm")
    second = first.op(add(x, 1.0), *first.inputs[1:])
    graph = training_mode(net.graph(x, add(first, second)))
    xs = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    of_batch = xs.mean(axis=(0, 2, 3))
    want = 0.9 * (0.9 * net.data["norm.running_mean"] + 0.1 * of_batch) + 0.1 * (of_batch + 1)
    np.testing.assert_allclose(run(graph)["new norm.running_mean"], want, rtol=1e-5)


def test_average_of_all_batches_is_refused():
    with pytest.raises(GraphError, match="expected a momentum, got None"):
        training_mode(norm_graph(True, momentum=None))


def test_dropout_scales_what_it_keeps():
    made = verify(training_mode(dropout_graph(0.25)))
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    result = interpret(made, {"x": x})
    kept = result.outputs["y"] != 0
    assert 0.70 < kept.mean() < 0.80
    np.testing.assert_allclose(result.outputs["y"][kept], x[kept] / 0.75, rtol=1e-6)
    assert result.updates["rng"].tolist() == [7, 4]
    again = interpret(made, {"x": x, "rng": result.updates["rng"]})
    assert (again.outputs["y"] != result.outputs["y"]).any()


def test_dropout_of_nothing_is_nothing():
    made = training_mode(dropout_graph(0.0))
    assert made.outputs["y"] is made.inputs[0]
    assert not made.updates


def test_dropout_is_nothing_at_inference():
    made = inference_mode(dropout_graph(0.5))
    assert made.outputs["y"] is made.inputs[0]


def test_padded_rows_do_not_count():
    weight = leaf(Input, "weight", TensorType("f32", (4,)))
    graph = weigh_batch(training_mode(norm_graph(True)), weight, 4)
    x = np.random.default_rng(1).standard_normal((4, 3, 4, 4)).astype(np.float32)
    x[3] = 1e3
    weighed = interpret(graph, {"x": x, "weight": np.array([1, 1, 1, 0], np.float32)})
    full = interpret(training_mode(norm_graph(True, batch=3)), {"x": x[:3]})
    np.testing.assert_allclose(weighed.outputs["y"][:3], full.outputs["y"], rtol=1e-4, atol=1e-5)
    for name, array in full.updates.items():
        np.testing.assert_allclose(weighed.updates[name], array, rtol=1e-4)


def test_rows_cut_from_samples_have_their_sample_s_weight():
    weight = leaf(Input, "weight", TensorType("f32", (2,)))
    x = leaf(Input, "x", TensorType("f32", (4, 3)))
    graph = weigh_batch(Graph((x, weight), {"y": Normalize((0,), 0.0)(x)}), weight, 2)
    rows = np.array([[1, 2, 3], [3, 4, 5], [9, 9, 9], [9, 9, 9]], np.float32)
    y = interpret(graph, {"x": rows, "weight": np.array([1, 0], np.float32)}).outputs["y"]
    np.testing.assert_allclose(y[:2], [[-1, -1, -1], [1, 1, 1]])


def test_statistics_over_no_batch_are_refused():
    weight = leaf(Input, "weight", TensorType("f32", (3,)))
    x = leaf(Input, "x", TensorType("f32", (4, 3)))
    graph = Graph((x,), {"y": reduce_mean(Normalize((0,), 0.0)(x), (0,))})
    with pytest.raises(GraphError, match="no multiple of the batch 3; use batches that are always"):
        weigh_batch(graph, weight, 3)


def test_a_whole_network():
    graph = training_mode(mobilenet(norms_train=True))
    verify(graph)
    assert count(graph, Normalize) == 4
    assert len(graph.updates) == 8
    assert all(type_of(run(graph)[f"new {n}"]) == v.type for n, v in graph.updates.items())
