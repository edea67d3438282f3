"""The pipeline as a whole: what it makes of a job, and what training with it changes."""

import subprocess
import sys
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from small_models import (
    ConvNet,
    Judge,
    Tagger,
    image_graph,
    image_program,
    images,
    seeded,
    sentences,
    tagger_graph,
)
from torch import nn

import pockengine as pe
from pockengine.compiler import build_graphs, plan_job
from pockengine.errors import InputError, SchemeError
from pockengine.ir.graph import Graph
from pockengine.ir.op import Array
from pockengine.ir.schedule import Schedule
from pockengine.job import Job
from pockengine.runtime.program import Program

ONE = pe.Target.host(threads=1)


def job(graph: Graph, **settings: object) -> Job:
    fields = {
        "loss": "cross_entropy",
        "optimizer": "sgd",
        "scheme": None,
        "batch": 4,
        "target": ONE,
    }
    return Job.of(graph, **(fields | settings))  # type: ignore[arg-type]


def changed(program: Program, steps: int = 1) -> tuple[dict[str, Array], ...]:
    """The tensors before and after some steps."""
    with pe.Session(program) as session:
        before = session.state_dict()
        for step in range(steps):
            session.step(*images(4, step), 0.1)
        return before, session.state_dict()


# ---- the stages ----------------------------------------------------------------------------------


def test_an_observer_sees_every_stage_of_every_entry_point() -> None:
    seen: list[tuple[str, str]] = []
    planned = plan_job(
        job(image_graph(seeded(ConvNet)), accumulate=2),
        lambda entry, stage, _: seen.append((entry, stage)),
    )
    forward = ["wanted", "mode", "fold", "layout", "lower", "forward"]
    assert [stage for entry, stage in seen if entry == "predict"] == forward
    backward = ["autodiff", "slice", "simplify", "gains", "masks"]
    assert [stage for entry, stage in seen if entry == "train"] == forward + backward
    assert set(planned.plan.entries) == {"train", "accumulate", "evaluate", "predict"}


def test_only_training_has_a_backward() -> None:
    graphs, _ = build_graphs(job(image_graph(seeded(ConvNet))), lambda *_: None)
    assert set(graphs) == {"train", "evaluate", "predict"}
    assert not graphs["evaluate"].updates and not graphs["predict"].updates
    assert [v.op.name for v in graphs["predict"].inputs] == ["x"]  # type: ignore[attr-defined]
    assert set(graphs["evaluate"].outputs) == {"loss", "weight", "correct", "count"}


def test_what_is_frozen_has_no_gradient() -> None:
    """Training the head alone computes what lies before it once, and nothing of its gradient."""
    graph = image_graph(seeded(ConvNet))
    counts = []
    for scheme in (pe.UpdateScheme.full(graph), pe.UpdateScheme.head_only(graph)):
        graphs = build_graphs(job(graph, scheme=scheme), lambda *_: None)[0]
        assert set(graphs["train"].updates) == set(scheme.shares)
        counts.append({name: convolutions(made) for name, made in graphs.items()})
    full, head = counts
    assert full["train"] > full["predict"] == 2 and "features" not in full
    assert head == {"features": 2, "train": 0, "evaluate": 0, "predict": 0}


def convolutions(graph: Graph) -> int:
    return sum("Conv" in type(v.op).__name__ for v in graph.values())


def test_defaults_are_everything_and_this_machine() -> None:
    graph = image_graph(seeded(ConvNet))
    made = Job.of(graph, "cross_entropy", "sgd", None, 8, None)
    assert made.scheme == pe.UpdateScheme.full(graph)
    assert made.target == pe.Target.host().without_bf16_dots()
    assert pe.compile(graph).signature.batch == 8


def test_only_rounded_products_need_a_cpu_with_bf16() -> None:
    graph, machine = image_graph(seeded(ConvNet)), pe.Target.named("avx512-bf16")
    cpus = {
        name: job(graph, target=machine, precision=name).target.cpu
        for name in ("f32", "bf16", "bf16_products")
    }
    assert cpus["f32"] == cpus["bf16"] == pe.Target.named("avx512").cpu == "x86_64_v4"
    assert cpus["bf16_products"] == machine.cpu


def test_only_the_plan_that_fits_is_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, batches = image_graph(seeded(ConvNet)), []

    def tune(schedules: Iterable[Schedule], _: pe.Target) -> dict[str, str]:
        batches.append({v.shape[0] for s in schedules for v in s.graph.inputs if v.shape})
        return {}

    monkeypatch.setattr("pockengine.backends.c.tune", tune)
    sizes = {n: plan_job(job(graph, micro_batch=n)).plan.arena_bytes for n in (4, 2, 1)}
    least = min(sizes, key=lambda n: sizes[n])
    target = pe.Target.host(threads=1, memory_budget=sizes[least])
    made = plan_job(job(graph, target=target, tune=True))
    assert least < 4 and made.job.samples == least and made.plan.arena_bytes == sizes[least]
    assert batches == [{least}]


def test_a_batch_that_the_model_does_not_have() -> None:
    with pytest.warns(UserWarning, match="imported for the examples' own batch size only"):
        graph = pe.import_torch(FixedBatch(), torch.zeros(4, 3))
    with pytest.raises(
        InputError, match="exported for a batch of 4, not 3; compile for batch=4, or"
    ):
        pe.compile(graph, batch=3, target=ONE)
    assert pe.compile(graph, batch=4, target=ONE).signature.batch == 4


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + torch.ones(4, 1)


def test_a_model_without_a_loss_to_take() -> None:
    with pytest.raises(InputError, match="must give one scalar as its loss, it gives"):
        image_program(seeded(ConvNet), loss="output")
    graph = pe.import_torch(seeded(Judge), (torch.zeros(2, 4), torch.zeros(2)))
    with pytest.raises(InputError, match="cross entropy along axis 1 needs floating-point logits"):
        pe.compile(graph, batch=4, target=ONE)


def test_an_optimizer_group_that_names_nothing() -> None:
    optimizer = pe.SGD(groups=(pe.Group("nose.*", 0.1),))
    with pytest.raises(SchemeError, match=r"the optimizer's group 'nose\..' names nothing"):
        image_program(seeded(ConvNet), optimizer=optimizer)


# ---- what training changes -----------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_a_sparse_update_is_the_slice_of_the_full_one(training: bool) -> None:
    model = seeded(ConvNet, training=training)
    graph = image_graph(model)
    shares = {"stem.weight": (0, 2), "head.weight": 0.5, "depthwise.bias": True}
    scheme = pe.UpdateScheme.select(graph, shares)
    before, sparse = changed(image_program(model, scheme=scheme))
    _, full = changed(image_program(model))
    for name, channels in scheme.resolve(graph).items():
        axis, chosen = (channels.axis, channels.indices) if channels else (0, range(8))
        rest = np.setdiff1d(np.arange(before[name].shape[axis]), list(chosen))
        got, wanted = (np.take(state[name], list(chosen), axis) for state in (sparse, full))
        np.testing.assert_allclose(got, wanted, 1e-5, 1e-7)
        assert not np.array_equal(got, np.take(before[name], list(chosen), axis))
        kept = [np.take(state[name], rest, axis) for state in (before, sparse)]
        assert np.array_equal(*kept)
    statistics = {n for n in before if "running" in n or "tracked" in n} if training else set()
    for name in set(before) - set(shares) - statistics:
        assert np.array_equal(sparse[name], before[name]), name


@pytest.mark.parametrize("accumulate", [1, 2])
def test_native_code_computes_what_the_oracle_does(accumulate: int) -> None:
    """In every entry point, with a clipped gradient and two groups."""
    settings = {
        "optimizer": pe.AdamW(weight_decay=0.1, groups=(pe.Group("*.bias", lr_scale=2.0),)),
        "clip": pe.ClipNorm(0.5),
        "accumulate": accumulate,
    }
    model = seeded(ConvNet, training=True)
    oracle = pe.Target.host(backend="numpy")
    with (
        pe.Session(image_program(model, **settings)) as native,
        pe.Session(image_program(model, **settings, target=oracle)) as reference,
    ):
        for step in range(4):
            x, y = images(4 - step % 2, step)
            assert native.step(x, y, 0.01) == pytest.approx(reference.step(x, y, 0.01), 1e-4)
        x, y = images(7)
        assert native.evaluate(x, y) == pytest.approx(reference.evaluate(x, y), 1e-4)
        np.testing.assert_allclose(native.predict(x), reference.predict(x), 1e-3, 1e-4)
        wanted = reference.state_dict()
        for name, array in native.state_dict().items():
            np.testing.assert_allclose(array, wanted[name], 1e-3, 1e-4, err_msg=name)


def test_a_tied_tensor_gets_both_gradients() -> None:
    model = seeded(Tagger)
    ids, mask, y = sentences(4)
    model.zero_grad()
    scores = model(torch.from_numpy(ids), torch.from_numpy(mask))
    nn.functional.cross_entropy(scores, torch.from_numpy(y)).backward()
    program = pe.compile(tagger_graph(model), batch=4, target=ONE)
    with pe.Session(program) as session:
        before = session.state_dict()["out.weight"]
        session.step((ids, mask), y, 1.0)
        gradient = before - session.state_dict()["out.weight"]
    assert model.table.weight.grad is not None
    np.testing.assert_allclose(gradient, model.table.weight.grad.numpy(), 1e-4, 1e-6)


# ---- the package ---------------------------------------------------------------------------------


def test_the_runtime_loads_nothing_but_numpy() -> None:
    code = (
        "import sys; import pockengine as pe; pe.Session\n"
        "own = {m for m in sys.modules if m.startswith('pockengine.')}\n"
        "outside = {'torch', 'onnx', 'ziglang', 'rich', 'typer'} & set(sys.modules)\n"
        "parts = {m.split('.')[1] for m in own}\n"
        "print(sorted(parts), sorted(outside))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['dtypes', 'errors', 'files', 'panels', 'runtime', 'target'] []"


def test_a_name_that_the_package_lacks() -> None:
    with pytest.raises(AttributeError, match="pockengine has no 'Sesion'; it has Adam, AdamW"):
        _ = pe.Sesion  # type: ignore[attr-defined]
    assert "Session" in dir(pe) and all(getattr(pe, name) for name in pe.__all__)
