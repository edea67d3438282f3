"""What the PyTorch front end keeps, renames, folds and refuses."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pockengine.compiler import plan_job
from pockengine.errors import ImportModelError, UnsupportedError
from pockengine.frontends.torch import check_torch, import_torch
from pockengine.ir.graph import Const, Graph, State
from pockengine.ir.interpret import interpret
from pockengine.ir.rewrite import with_batch
from pockengine.ir.types import BATCH
from pockengine.job import Job
from pockengine.target import Target


class Net(nn.Module):
    """A module of one function."""

    def __init__(self, function: Callable[..., object], **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.function = function

    def forward(self, *args: Tensor, **kwargs: Tensor) -> object:
        parts = SimpleNamespace(**dict(self.named_children()))
        return self.function(parts, *args, **kwargs)


def evaluate(graph: Graph, batch: int, *inputs: Tensor) -> list[np.ndarray]:
    arrays = {v.op.name: x.numpy() for v, x in zip(graph.inputs, inputs, strict=True)}
    return list(interpret(with_batch(graph, batch), arrays).outputs.values())


def ops_of(graph: Graph) -> list[str]:
    return [type(v.op).__name__ for v in graph.values()]


# ---- names ---------------------------------------------------------------------------------------


def test_names_are_those_of_the_state_dict() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    graph = import_torch(model, torch.zeros(2, 3, 4, 4))
    assert set(graph.params) == {name for name, _ in model.named_parameters()}
    assert set(graph.leaves(State)) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert set(graph.updates) == {"1.num_batches_tracked"}
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(graph.data[name], tensor.numpy())


def test_weights_are_copies() -> None:
    model = nn.Linear(3, 2)
    graph = import_torch(model, torch.zeros(2, 3))
    before = graph.data["weight"].copy()
    with torch.no_grad():
        model.weight.zero_()
    np.testing.assert_array_equal(graph.data["weight"], before)


def test_in_evaluation_running_statistics_do_not_change() -> None:
    graph = import_torch(nn.BatchNorm1d(3).eval(), torch.zeros(2, 3))
    assert not graph.updates
    assert set(graph.leaves(State)) == {"running_mean", "running_var"}
    assert "num_batches_tracked" in graph.data  # so that a state_dict can be given back whole


def test_a_tied_weight_is_one_parameter_with_two_names() -> None:
    embed, head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
    head.weight = embed.weight
    model = Net(lambda m, ids: m.head(m.embed(ids)), embed=embed, head=head)
    graph = import_torch(model, torch.zeros(2, 3, dtype=torch.int64))
    assert list(graph.params) == ["embed.weight"]
    assert graph.aliases == {"head.weight": "embed.weight"}


def test_values_carry_module_and_source_line() -> None:
    model = Net(lambda m, x: torch.relu(m.fc(x)), fc=nn.Linear(3, 2))
    graph = import_torch(model, torch.zeros(2, 3))
    sources = {type(v.op).__name__: v.source for v in graph.values()}
    assert sources["MatMul"].startswith("fc ")
    assert "test_torch.py:" in sources["Relu"]


def test_outputs_are_named_by_field() -> None:
    pair = Net(lambda m, x: (x + 1, [x * 2]))
    assert list(import_torch(pair, torch.zeros(2, 3)).outputs) == ["output0", "output1.0"]
    named = Net(lambda m, x: {"logits": x + 1, "loss": x.mean()})
    assert list(import_torch(named, torch.zeros(2, 3)).outputs) == ["logits", "loss"]


def test_keyword_inputs_keep_their_names() -> None:
    model = Net(lambda m, **k: k["a"] + k["b"])
    graph = import_torch(model, {"b": torch.zeros(2, 3), "a": torch.ones(2, 3)})
    assert {v.op.name for v in graph.inputs} == {"a", "b"}


# ---- the batch -----------------------------------------------------------------------------------


def test_one_import_serves_every_batch_size() -> None:
    model = Net(
        lambda m, x: m.fc(x.reshape(-1, 3)).reshape(x.shape[0], -1).mean(0), fc=nn.Linear(3, 2)
    )
    graph = import_torch(model, torch.zeros(2, 4, 3))
    for batch in (1, 5):
        x = torch.randn(batch, 4, 3)
        np.testing.assert_allclose(
            evaluate(graph, batch, x)[0], model(x).detach().numpy(), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda m, x: x.sum(0) / x.shape[0], "computes with the batch size as a number"),
        (lambda m, x: x[: x.shape[0] // 2] * 2, "cuts the batch at a place"),
        (lambda m, x: x.var(0), "unbiased variance over the batch"),
    ],
)
def test_what_holds_for_one_batch_is_imported_at_that_batch(
    function: Callable[..., Tensor], words: str
) -> None:
    model = Net(function)
    x = torch.randn(4, 3)
    with pytest.warns(UserWarning, match=words):
        graph = import_torch(model, x)
    assert graph.inputs[0].shape == (4, 3)
    np.testing.assert_allclose(evaluate(graph, 4, x)[0], model(x).numpy(), rtol=1e-5)


def test_a_layer_as_wide_as_the_symbol_for_the_batch() -> None:
    model = nn.Linear(3, BATCH)
    with pytest.warns(UserWarning, match=f"multiple of {BATCH}"):
        graph = import_torch(model, torch.zeros(2, 3))
    assert graph.outputs["output0"].shape == (2, BATCH)


# ---- what comes in -------------------------------------------------------------------------------


def test_constants_are_folded() -> None:
    table = torch.arange(12.0).reshape(4, 3)
    model = Net(lambda m, x: x + table[torch.tensor([2, 0, 0])].sum(0) * torch.ones(3).cumsum(0))
    graph = import_torch(model, torch.zeros(2, 3))
    assert sorted(ops_of(graph)) == ["Add", "Const", "Input"]
    assert len(graph.leaves(Const)) == 1


def test_an_exported_program_keeps_its_names() -> None:
    program = torch.export.export(nn.Sequential(nn.Linear(3, 2)), (torch.zeros(2, 3),))
    with pytest.warns(UserWarning, match="examples' own batch size only"):
        graph = import_torch(program, (torch.zeros(2, 3),))
    assert set(graph.params) == {"0.weight", "0.bias"}


def test_an_exported_program_with_a_dynamic_batch_serves_every_batch() -> None:
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(nn.Linear(3, 2), (torch.zeros(2, 3),), dynamic_shapes=shapes)
    graph = import_torch(program, (torch.zeros(2, 3),))
    assert graph.outputs["output0"].shape == (BATCH, 2)


def test_the_models_own_loss_is_an_output() -> None:
    weight = torch.tensor([1.0, 2.0, 0.5])
    loss = nn.CrossEntropyLoss(weight, ignore_index=1, label_smoothing=0.1)
    model = Net(lambda m, x, y: {"loss": m.loss(m.fc(x), y)}, fc=nn.Linear(4, 3), loss=loss)
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])
    graph = import_torch(model, (x, y))
    wanted = model(x, y)["loss"].item()
    np.testing.assert_allclose(evaluate(graph, 6, x, y)[0], wanted, rtol=1e-5)


def test_stochastic_depth_is_a_dropout() -> None:
    def drop_path(m: SimpleNamespace, x: Tensor) -> Tensor:
        return x.div(0.75) * (0.75 + torch.rand(x.shape[0], 1)).floor_()

    graph = import_torch(Net(drop_path), torch.zeros(2, 3))
    assert "Dropout" in ops_of(graph) and "RandomUniform" not in ops_of(graph)


def stopped(graph: Graph) -> int:
    return ops_of(graph).count("StopGradient")


def test_a_detached_value_stops_the_gradient_of_weights_only() -> None:
    model = Net(lambda m, x: m.fc(x).detach() + x.detach() + m.fc(x), fc=nn.Linear(3, 3))
    assert stopped(import_torch(model, torch.zeros(2, 3))) == 1


def test_without_gradients_nothing_passes() -> None:
    def forward(m: SimpleNamespace, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = m.fc(x).exp()
        return m.fc(x) * scale

    assert stopped(import_torch(Net(forward, fc=nn.Linear(3, 3)), torch.zeros(2, 3))) == 1


def test_the_padding_row_of_an_embedding_is_not_trained() -> None:
    model = nn.Embedding(5, 3, padding_idx=2)
    graph = import_torch(model, torch.zeros(2, 4, dtype=torch.int64))
    assert stopped(graph) == 1
    ids = torch.tensor([[2, 1, 0, 2]])
    np.testing.assert_array_equal(evaluate(graph, 1, ids)[0], model(ids).detach().numpy())


# ---- what is refused -----------------------------------------------------------------------------


def test_all_unsupported_operators_are_reported_at_once() -> None:
    def forward(m: SimpleNamespace, x: Tensor) -> Tensor:
        y = torch.sort(x)[0] + torch.fft.rfft(x).real.sum()
        return torch.sort(y)[0]

    found = check_torch(Net(forward), torch.zeros(2, 3))
    assert [f.op for f in found].count("aten.sort.default") == 2
    assert any("fft" in f.op for f in found)
    assert all("test_torch.py:" in f.source for f in found)
    with pytest.raises(UnsupportedError, match=r"2 x aten\.sort\.default: no such operator"):
        import_torch(Net(forward), torch.zeros(2, 3))


def test_a_supported_model_has_nothing_to_report() -> None:
    assert check_torch(nn.Linear(3, 2), torch.zeros(2, 3)) == []


VOLUME, IMAGE, LINE = (torch.zeros(2, 3, *[8] * dims) for dims in (3, 2, 1))


@pytest.mark.parametrize(
    ("layer", "example", "target"),
    [
        (nn.Conv3d(3, 4, 3), VOLUME, "aten.conv3d.default"),
        (nn.ConvTranspose3d(3, 4, 3), VOLUME, "aten.conv_transpose3d.input"),
        (nn.MaxPool3d(2), VOLUME, "aten.max_pool3d.default"),
        (nn.AdaptiveAvgPool3d(2), VOLUME, "aten.adaptive_avg_pool3d.default"),
        (nn.LocalResponseNorm(3), IMAGE, "aten.avg_pool3d.default"),
        (nn.BatchNorm3d(3), VOLUME, None),
        (nn.Upsample(scale_factor=2), VOLUME, None),
        (nn.LocalResponseNorm(3), LINE, None),
    ],
)
def test_a_check_lists_what_c_has_no_kernel_for(
    layer: nn.Module, example: Tensor, target: str | None
) -> None:
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(layer(example)[0].numel(), 2))
    graph, found = import_torch(model, example), check_torch(model, example)
    job = Job.of(graph, "cross_entropy", "sgd", None, 2, Target.named("avx2"))
    if target is None:
        assert not found
        plan_job(job)
        return
    assert [(f.op, f.source[:2]) for f in found] == [(target, "0 ")]
    assert found[0].reason == "the C back end takes 1 or 2 spatial dims, not 3"
    with pytest.raises(UnsupportedError, match="over 1 or 2"):
        plan_job(job)


def test_batch_norms_without_a_momentum_are_refused_in_training() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=None), nn.BatchNorm1d(3, momentum=None))
    assert [(f.op, f.node) for f in check_torch(model, torch.zeros(2, 3))] == [
        ("BatchNorm1d", "0"),
        ("BatchNorm1d", "1"),
    ]
    message = r"2 x BatchNorm1d: momentum=None in training; set a momentum such as 0\.1"
    with pytest.raises(UnsupportedError, match=message):
        import_torch(model, torch.zeros(2, 3))
    assert import_torch(model.eval(), torch.zeros(2, 3)).outputs


def test_half_precision_is_refused_in_words() -> None:
    with pytest.raises(ImportModelError, match=r"'weight' is of torch.float16; .*model.float\(\)"):
        import_torch(nn.Linear(3, 2).half(), torch.zeros(2, 3))


def test_a_model_that_cannot_be_traced_is_refused_in_words() -> None:
    def forward(m: SimpleNamespace, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x

    with pytest.raises(ImportModelError, match="cannot be traced by torch"):
        import_torch(Net(forward), torch.zeros(2, 3))
