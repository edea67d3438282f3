"""Losses, their gradients and metrics against torch.nn.functional with reduction "mean"."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pockengine.autodiff.objective import (
    L1,
    MSE,
    BCEWithLogits,
    CrossEntropy,
    Huber,
    Loss,
    OwnOutput,
    as_loss,
)
from pockengine.autodiff.reverse import gradients
from pockengine.errors import InputError
from pockengine.ir.graph import Graph, Input, leaf
from pockengine.ir.interpret import interpret
from pockengine.ir.types import TensorType
from pockengine.ops.build import mul, reshape

Arrays = dict[str, np.ndarray]


def forward(*shape: int, rows: int | None = None) -> Graph:
    """A model that gives its input of `shape` back, of a batch of `rows`."""
    z = leaf(Input, "z", TensorType("f32", shape))
    x = leaf(Input, "x", TensorType("f32", (rows or shape[0],)))
    return Graph((x, z), {"logits": mul(z, 1.0)})


def evaluate(loss: Loss, graph: Graph, arrays: Arrays) -> Arrays:
    objective = loss.objective(graph)
    z = graph.inputs[1]
    outputs = {"loss": objective.loss, "weight": objective.weight, **objective.metrics}
    outputs["gradient"] = gradients(objective.loss, [z])[z]
    everything = {"x": np.zeros(graph.inputs[0].shape, np.float32), **objective.data, **arrays}
    return interpret(Graph((), outputs), everything).outputs


def ones(n: int) -> np.ndarray:
    return np.ones(n, np.float32)


def check(found: Arrays, expected: torch.Tensor, z: torch.Tensor) -> None:
    expected.backward()
    np.testing.assert_allclose(found["loss"], expected.detach(), rtol=1e-5)
    np.testing.assert_allclose(found["gradient"], z.grad, rtol=1e-5, atol=1e-7)


WEIGHTS = (0.5, 1.0, 2.0, 0.1)
CASES = {
    "plain": (CrossEntropy(), {}),
    "smooth": (CrossEntropy(label_smoothing=0.1), {"label_smoothing": 0.1}),
    "ignore": (CrossEntropy(ignore_index=2), {"ignore_index": 2}),
    "classes": (CrossEntropy(class_weights=WEIGHTS), {"weight": torch.tensor(WEIGHTS)}),
    "all": (
        CrossEntropy(label_smoothing=0.2, ignore_index=1, class_weights=WEIGHTS),
        {"label_smoothing": 0.2, "ignore_index": 1, "weight": torch.tensor(WEIGHTS)},
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shape", [(7, 4), (3, 4, 5), (2, 4, 3, 2)])
def test_cross_entropy_equals_torch(case: str, shape: tuple[int, ...]) -> None:
    loss, options = CASES[case]
    rng = np.random.default_rng(0)
    z = rng.standard_normal(shape).astype(np.float32)
    labels = rng.integers(0, 4, shape[:1] + shape[2:])
    arrays = {"z": z, "target": labels, "sample_weight": ones(shape[0])}
    found = evaluate(loss, forward(*shape), arrays)
    t = torch.tensor(z, requires_grad=True)
    check(found, F.cross_entropy(t, torch.tensor(labels), **options), t)
    counted = labels != loss.ignore_index
    assert found["correct"] == np.sum((z.argmax(1) == labels) & counted)
    assert found["count"] == counted.sum()


def test_classes_along_the_last_axis() -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((2, 5, 3)).astype(np.float32)
    labels = rng.integers(0, 3, (2, 5))
    labels[0, :2] = -100
    arrays = {"z": z, "target": labels, "sample_weight": ones(2)}
    found = evaluate(CrossEntropy(axis=-1), forward(2, 5, 3), arrays)
    t = torch.tensor(z, requires_grad=True)
    check(found, F.cross_entropy(t.transpose(1, 2), torch.tensor(labels)), t)
    assert found["count"] == 8


def test_rows_that_are_a_multiple_of_the_batch() -> None:
    """Logits [N * T, C]: each sample's weight counts for its T rows."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((6, 4)).astype(np.float32)
    labels = rng.integers(0, 4, 6)
    arrays = {"z": z, "target": labels, "sample_weight": np.array([1, 0, 1], np.float32)}
    found = evaluate(CrossEntropy(), forward(6, 4, rows=3), arrays)
    t = torch.tensor(z, requires_grad=True)
    kept = [0, 1, 4, 5]
    check(found, F.cross_entropy(t[kept], torch.tensor(labels)[kept]), t)
    assert found["count"] == 4


REGRESSIONS: dict[str, tuple[Loss, Callable[..., torch.Tensor]]] = {
    "mse": (MSE(), F.mse_loss),
    "l1": (L1(), F.l1_loss),
    "huber": (Huber(delta=0.7), lambda z, t: F.huber_loss(z, t, delta=0.7)),
    "bce": (BCEWithLogits(), F.binary_cross_entropy_with_logits),
    "bce weighted": (
        BCEWithLogits(pos_weight=(0.5, 2.0)),
        lambda z, t: F.binary_cross_entropy_with_logits(z, t, pos_weight=torch.tensor([0.5, 2.0])),
    ),
}


@pytest.mark.parametrize("case", REGRESSIONS)
@pytest.mark.parametrize("shape", [(5, 2), (3, 4, 2)])
def test_elementwise_losses_equal_torch(case: str, shape: tuple[int, ...]) -> None:
    loss, torchs = REGRESSIONS[case]
    rng = np.random.default_rng(0)
    z = 2 * rng.standard_normal(shape).astype(np.float32)
    target = rng.random(shape).astype(np.float32)
    arrays = {"z": z, "target": target, "sample_weight": ones(shape[0])}
    t = torch.tensor(z, requires_grad=True)
    check(evaluate(loss, forward(*shape), arrays), torchs(t, torch.tensor(target)), t)


@pytest.mark.parametrize("loss", [CrossEntropy(class_weights=WEIGHTS), MSE(), BCEWithLogits()])
def test_rows_of_weight_zero_do_not_count(loss: Loss) -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((6, 4)).astype(np.float32)
    classes = isinstance(loss, CrossEntropy)
    target = rng.integers(0, 4, 6) if classes else rng.random((6, 4)).astype(np.float32)
    padded = {"z": z, "target": target, "sample_weight": np.repeat([1, 0], [4, 2]).astype("f4")}
    short = {"z": z[:4], "target": target[:4], "sample_weight": ones(4)}
    a, b = evaluate(loss, forward(6, 4), padded), evaluate(loss, forward(4, 4), short)
    np.testing.assert_allclose(a.pop("gradient"), np.pad(b.pop("gradient"), ((0, 2), (0, 0))))
    assert a.keys() == b.keys()
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-6)


@pytest.mark.parametrize("loss", [CrossEntropy(), MSE(), Huber(), BCEWithLogits()])
def test_a_batch_of_weight_zero_has_no_loss_and_no_gradient(loss: Loss) -> None:
    z = np.ones((3, 4), np.float32)
    target = np.zeros(3, np.int64) if isinstance(loss, CrossEntropy) else np.zeros_like(z)
    arrays = {"z": z, "target": target, "sample_weight": np.zeros(3, np.float32)}
    found = evaluate(loss, forward(3, 4), arrays)
    assert found["loss"] == 0
    np.testing.assert_array_equal(found["gradient"], 0)


def test_everything_ignored_has_no_gradient() -> None:
    z = np.ones((3, 4), np.float32)
    arrays = {"z": z, "target": np.full(3, -100), "sample_weight": ones(3)}
    found = evaluate(CrossEntropy(), forward(3, 4), arrays)
    assert found["loss"] == 0
    np.testing.assert_array_equal(found["gradient"], 0)


def test_the_model_s_own_loss() -> None:
    loss, logits = (
        leaf(Input, "loss", TensorType("f32", ())),
        leaf(Input, "logits", TensorType("f32", (2, 3))),
    )
    graph = Graph((loss, logits), {"loss": mul(loss, 2.0), "logits": logits})
    objective = OwnOutput().objective(graph)
    assert objective.total is graph.outputs["loss"]
    assert objective.inputs == ()
    with pytest.raises(InputError, match=r"one scalar as its loss, it gives logits: f32\[2,3\]"):
        OwnOutput().objective(Graph((logits,), {"logits": logits}))


def test_the_graph_s_own_sample_weight_is_used() -> None:
    weight = leaf(Input, "sample_weight", TensorType("f32", (3,)))
    z = leaf(Input, "z", TensorType("f32", (3, 4)))
    graph = Graph((z, weight), {"logits": mul(z, reshape(weight, (3, 1)))})
    assert MSE().objective(graph).inputs[1] is weight


@pytest.mark.parametrize(
    ("loss", "shape", "message"),
    [
        (
            CrossEntropy(),
            (3,),
            r"along axis 1 needs floating-point logits \[N, C, ...\], got f32\[3\]",
        ),
        (CrossEntropy(class_weights=(1.0,)), (3, 4), "expected 4 class weights, got 1"),
        (CrossEntropy(output="scores"), (3, 4), "needs output 'scores', the model has logits"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(
    loss: Loss, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        loss.objective(forward(*shape))


def test_rows_that_are_no_multiple_of_the_batch_are_refused() -> None:
    with pytest.raises(InputError, match="an output of 2 rows, or times so many, got 3"):
        MSE().objective(forward(3, 4, rows=2))


def test_names_stand_for_defaults() -> None:
    assert as_loss("huber") == Huber()
    with pytest.raises(InputError, match="no loss is named 'hinge'; there are cross_entropy"):
        as_loss("hinge")
