"""Training graphs against PyTorch, and the laws of sparse updates and of accumulation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_graphs import Arrays, batch_of, mlp

from pockengine.autodiff.training import (
    Recipe,
    accumulating_graphs,
    evaluation_graph,
    training_graph,
)
from pockengine.errors import SchemeError
from pockengine.ir.graph import Graph
from pockengine.ir.interpret import interpret
from pockengine.ir.verify import verify
from pockengine.optim import SGD, Adam, AdamW, Clip, ClipNorm, Group, Lion, Optimizer
from pockengine.scheme import Channels, UpdateScheme


class TorchMlp(torch.nn.Module):
    """The twin of `small_graphs.mlp`."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = (torch.nn.Linear(*s) for s in [(5, 8), (8, 8), (8, 3)])
        self.load_state_dict({name: torch.tensor(a) for name, a in graph.data.items()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.fc1(x))
        h = h + torch.relu(self.fc2(h))
        return self.fc3(h)

    def loss(self, arrays: Arrays) -> torch.Tensor:
        logits = self(torch.tensor(arrays["x"]))
        return torch.nn.functional.cross_entropy(logits, torch.tensor(arrays["target"]))


def recipe(
    graph: Graph, scheme: UpdateScheme, optimizer: Optimizer, clip: Clip | None = None
) -> Recipe:
    return Recipe.of("cross_entropy", optimizer, scheme.resolve(graph), clip=clip)


def trained(graph: Graph, steps: int) -> tuple[Arrays, list[float]]:
    """The data after some steps on different batches, and the losses."""
    data, losses = dict(graph.data), []
    for step in range(steps):
        result = interpret(graph, data | batch_of(graph, step))
        data |= result.updates
        losses.append(float(result.outputs["loss"]))
    return data, losses


def test_full_training_equals_torch() -> None:
    forward = mlp()
    optimizer = SGD(momentum=0.9, weight_decay=0.01)
    graph = verify(training_graph(forward, recipe(forward, UpdateScheme.full(forward), optimizer)))
    data, losses = trained(graph, 10)
    twin = TorchMlp(forward)
    torchs = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(10):
        torchs.zero_grad()
        loss = twin.loss(batch_of(forward, step))
        loss.backward()
        torchs.step()
        assert losses[step] == pytest.approx(loss.item(), rel=1e-5)
    for name, p in twin.state_dict().items():
        np.testing.assert_allclose(data[name], p, rtol=1e-4, atol=1e-6)


def test_groups_equal_torch_s() -> None:
    forward = mlp()
    groups = (Group("*.bias", weight_decay=0.0, lr_scale=2.0),)
    optimizer = AdamW(weight_decay=0.1, groups=groups)
    graph = training_graph(forward, recipe(forward, UpdateScheme.full(forward), optimizer))
    data, _ = trained(graph, 5)
    twin = TorchMlp(forward)
    named = list(twin.named_parameters())
    biases = [p for n, p in named if n.endswith("bias")]
    rest = [p for n, p in named if not n.endswith("bias")]
    torchs = torch.optim.AdamW(
        [{"params": rest, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0, "lr": 0.2}],
        lr=0.1,
    )
    for step in range(5):
        torchs.zero_grad()
        twin.loss(batch_of(forward, step)).backward()
        torchs.step()
    for name, p in twin.state_dict().items():
        np.testing.assert_allclose(data[name], p, rtol=1e-3, atol=1e-5)


def test_a_group_that_names_nothing_is_refused() -> None:
    forward = mlp()
    optimizer = SGD(groups=(Group("*.gamma"),))
    with pytest.raises(SchemeError, match=r"group '\*.gamma' names nothing that is trained"):
        training_graph(forward, recipe(forward, UpdateScheme.full(forward), optimizer))


@pytest.mark.parametrize("optimizer", [SGD(), SGD(momentum=0.9), Adam(), Lion()])
def test_sparse_steps_are_the_slice_of_dense_ones(optimizer: Optimizer) -> None:
    """One step, as later ones differ: the dense training moves the other channels too."""
    forward = mlp()
    dense = training_graph(forward, recipe(forward, UpdateScheme.full(forward), optimizer))
    scheme = UpdateScheme({"fc2.weight": (1, 4, 6), "fc3.bias": True})
    sparse = verify(training_graph(forward, recipe(forward, scheme, optimizer)))
    arrays = batch_of(forward)
    whole, part = (interpret(g, arrays).updates for g in (dense, sparse))
    chosen, others = [1, 4, 6], [0, 2, 3, 5, 7]
    before = forward.data["fc2.weight"]
    after = part["fc2.weight"]
    np.testing.assert_allclose(after[:, chosen], whole["fc2.weight"][:, chosen], rtol=1e-6)
    np.testing.assert_array_equal(after[:, others], before[:, others])
    for slot in optimizer.slots:
        found = part[f"fc2.weight:{slot}"]
        np.testing.assert_allclose(found, whole[f"fc2.weight:{slot}"][:, chosen], rtol=1e-6)


def test_frozen_tensors_are_not_updated_at_all() -> None:
    forward = mlp()
    scheme = UpdateScheme({"fc3.weight": (0, 1), "fc2.bias": True})
    graph = training_graph(forward, recipe(forward, scheme, Adam()))
    slots = [f"{n}:{s}" for n in ("fc2.bias", "fc3.weight") for s in Adam().slots]
    clocks = ["optimizer:correction1", "optimizer:correction2"]
    assert sorted(graph.updates) == sorted(["fc2.bias", "fc3.weight", *slots, *clocks])
    assert graph.data["fc3.weight:exp_avg"].shape == (3, 2)


def test_channels_follow_the_layout() -> None:
    channels = Channels(1, (2, 0))
    found = Recipe.of("mse", "sgd", {"w": channels, "b": None}, {"w": (2, 3, 1, 0)}).selection
    assert found == {"w": Channels(2, (2, 0)), "b": None}


def test_only_the_loss_is_left_of_the_outputs() -> None:
    forward = mlp()
    graph = training_graph(forward, recipe(forward, UpdateScheme.full(forward), SGD()))
    assert list(graph.outputs) == ["loss", "weight", "correct", "count"]
    assert [v.op.name for v in graph.inputs] == ["x", "target", "sample_weight", "lr"]


def test_evaluation_gives_the_model_s_outputs_and_the_loss() -> None:
    forward = mlp()
    graph = verify(evaluation_graph(forward, "cross_entropy"))
    arrays = batch_of(forward)
    found = interpret(graph, arrays)
    assert found.updates == {}
    twin = TorchMlp(forward)
    logits = twin(torch.tensor(arrays["x"])).detach().numpy()
    np.testing.assert_allclose(found.outputs["logits"], logits, rtol=1e-4, atol=1e-6)
    assert found.outputs["loss"] == pytest.approx(twin.loss(arrays).item(), rel=1e-5)
    assert found.outputs["correct"] == (logits.argmax(1) == arrays["target"]).sum()
    assert found.outputs["count"] == len(logits)


def test_a_global_norm_clips_what_is_trained() -> None:
    forward = mlp()
    scheme = UpdateScheme.full(forward)
    graph = training_graph(forward, recipe(forward, scheme, SGD(), ClipNorm(0.1)))
    data, _ = trained(graph, 3)
    twin = TorchMlp(forward)
    torchs = torch.optim.SGD(twin.parameters(), lr=0.1)
    for step in range(3):
        torchs.zero_grad()
        twin.loss(batch_of(forward, step)).backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
        torchs.step()
    for name, p in twin.state_dict().items():
        np.testing.assert_allclose(data[name], p, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", [SGD(momentum=0.9), Adam()])
def test_accumulated_parts_equal_one_big_batch(optimizer: Optimizer) -> None:
    big, part = mlp(batch=12), mlp(batch=4)
    scheme = UpdateScheme({"fc2.weight": 0.5, "fc3.weight": True, "fc1.bias": True})
    clip = ClipNorm(0.5)
    whole = training_graph(big, recipe(big, scheme, optimizer, clip))
    first, last = accumulating_graphs(part, recipe(part, scheme, optimizer, clip))
    verify(first)
    verify(last)
    expected, data = dict(whole.data), {**first.data, **last.data}
    for step in range(3):
        arrays = batch_of(big, step)
        arrays["sample_weight"][[1, 6]] = 0.0, 0.5  # parts of unequal weight
        expected |= interpret(whole, expected | arrays).updates
        for i, graph in enumerate((first, first, last)):
            rows = slice(4 * i, 4 * i + 4)
            piece = {n: a[rows] if a.ndim else a for n, a in arrays.items()}
            data |= interpret(graph, data | piece).updates
    for name in whole.updates:
        np.testing.assert_allclose(data[name], expected[name], rtol=1e-4, atol=1e-6)
    accumulators = [n for n in first.updates if n.endswith(":gradient")] + ["accumulated_weight"]
    assert len(accumulators) == 4
    for name in accumulators:
        np.testing.assert_array_equal(data[name], 0)


def test_accumulating_changes_no_weight() -> None:
    forward = mlp()
    first, _ = accumulating_graphs(forward, recipe(forward, UpdateScheme.full(forward), SGD()))
    assert not set(first.updates) & set(forward.params)
    assert "lr" not in [v.op.name for v in first.inputs]


def test_what_the_loss_does_not_depend_on_is_left_alone() -> None:
    forward = mlp()
    hidden = replace(forward, outputs={"logits": forward.outputs["logits"], "h": _hidden(forward)})
    graph = training_graph(
        hidden, Recipe.of(_on("h"), SGD(), UpdateScheme.full(forward).resolve(forward))
    )
    assert sorted(graph.updates) == ["fc1.bias", "fc1.weight"]
    only = UpdateScheme({"fc3.bias": True}).resolve(forward)
    with pytest.raises(
        SchemeError, match="depends on none of the parameters that the scheme train"
    ):
        training_graph(hidden, Recipe.of(_on("h"), SGD(), only))


def _on(output: str):
    from pockengine.autodiff.objective import CrossEntropy

    return CrossEntropy(output=output)


def _hidden(graph: Graph):
    return next(v for v in graph.values() if type(v.op).__name__ == "Relu")


def test_a_parameter_that_no_output_needs_is_refused() -> None:
    forward = mlp()
    with pytest.raises(SchemeError, match="do not depend on 'fc9\\.weight'; do not train it"):
        training_graph(forward, Recipe.of("cross_entropy", SGD(), {"fc9.weight": None}))
