"""bf16 for frozen weights and saved activations: what is narrowed, and what stays as it was."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pockengine as pe
from pockengine.compiler import build_graphs, plan_job
from pockengine.errors import InputError
from pockengine.ir.graph import Graph
from pockengine.job import Job, Precision
from pockengine.ops.precision import FromBF16, ToBF16, from_bf16, to_bf16
from pockengine.passes.narrow import narrow
from pockengine.plan.planner import Plan
from pockengine.plan.report import peak_by_kind, timeline
from pockengine.testing import check_graph

BATCH = 4


class Block(nn.Module):
    """Convolutions 1x1, depthwise and 3x3, an embedding's worth of linear weights, a residual."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        wide = 4 * channels
        self.first = nn.Conv2d(3, channels, 3, 2, 1)
        self.expand, self.deep = (
            nn.Conv2d(channels, wide, 1),
            nn.Conv2d(wide, wide, 3, 1, 1, groups=wide),
        )
        self.project, self.full = (
            nn.Conv2d(wide, channels, 1),
            nn.Conv2d(channels, channels, 3, 1, 1),
        )
        self.norm, self.head = nn.BatchNorm2d(channels), nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        y = nn.functional.relu6(self.deep(nn.functional.gelu(self.expand(x))))
        x = x + self.norm(self.project(y))
        return self.head(torch.relu(self.full(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Block().eval()


@pytest.fixture(scope="module")
def graph(model: nn.Module) -> Graph:
    return pe.import_torch(model, (torch.randn(2, 3, 32, 32),))


def schemes(graph: Graph) -> list[pe.UpdateScheme]:
    some = {"project.weight": 0.5, "full.weight": 1.0, "head.*": 1.0}
    return [pe.UpdateScheme.full(graph), pe.UpdateScheme.select(graph, some)]


def job(graph: Graph, scheme: pe.UpdateScheme, precision: Precision, backend: str = "c") -> Job:
    target = pe.Target.host(threads=2, backend=backend)
    return Job.of(graph, "cross_entropy", "sgd", scheme, BATCH, target, precision=precision)


def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((BATCH, 3, 32, 32)).astype(np.float32), rng.integers(0, 5, BATCH)


def steps(graph: Graph, scheme: pe.UpdateScheme, **settings: object) -> tuple[list[float], dict]:
    with pe.Session(pe.compile(graph, scheme=scheme, batch=BATCH, **settings)) as session:
        losses = [session.step(*batch(), lr=0.05) for _ in range(4)]
        return losses, session.state_dict()


def test_rounding() -> None:
    x = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 3.4e38, np.inf], np.float32)
    expected = [1.0, 1.0, 1 + 2**-6, -1.0, np.inf, np.inf]
    np.testing.assert_array_equal(from_bf16(to_bf16(x)), np.array(expected, np.float32))
    payload = np.array([0x7F800001], np.uint32).view(np.float32)
    assert np.isnan(from_bf16(to_bf16(payload)))
    tensor = torch.randn(1000)
    ours = from_bf16(to_bf16(tensor.numpy()))
    np.testing.assert_array_equal(ours, tensor.bfloat16().float().numpy())


def test_what_is_narrowed(graph: Graph) -> None:
    """Frozen weights of products; not the depthwise one, biases, nor what is trained."""
    scheme = schemes(graph)[1]
    graphs, _ = build_graphs(job(graph, scheme, "bf16"), lambda *_: None)
    narrowed = narrow(graphs, rounded_products=False)
    for made in narrowed.values():
        check_graph(made)
        leaves = {k: v.dtype for k, v in made.leaves().items()}
        assert "bf16" not in {leaves[k] for k in ("project.weight", "full.weight") if k in leaves}
    halves = {v.op.name: v.shape for v in narrowed["train"].leaves().values() if v.dtype == "bf16"}
    assert set(halves.values()) <= {(1, 1, 16, 64), (16, 64), (3, 3, 3, 16)}
    assert any(isinstance(v.op, ToBF16) for v in narrowed["train"].values())
    assert not any(isinstance(v.op, (ToBF16, FromBF16)) for v in narrowed["predict"].values())


@pytest.mark.parametrize("number", [0, 1])
def test_memory_shrinks(graph: Graph, number: int) -> None:
    scheme = schemes(graph)[number]
    plans = {p: plan_job(job(graph, scheme, p)).plan for p in ("f32", "bf16")}
    saved = {p: peak_by_kind(plan, "train")["saved"] for p, plan in plans.items()}
    assert saved["bf16"] <= 0.6 * saved["f32"]
    if number == 0:
        peaks = {p: _peak_beside_workspace(plan) for p, plan in plans.items()}
        assert peaks["bf16"] <= 0.8 * peaks["f32"]


def _peak_beside_workspace(plan: Plan) -> int:
    """Workspaces, which are large beside so small a model, do not depend on what is stored."""
    return max(sum(live.values()) - live["scratch"] for live in timeline(plan, "train"))


@pytest.mark.parametrize("precision", ["bf16", "bf16_products"])
@pytest.mark.parametrize("number", [0, 1])
def test_compiled_as_interpreted(graph: Graph, number: int, precision: Precision) -> None:
    scheme = schemes(graph)[number]
    native, oracle = (
        steps(graph, scheme, target=pe.Target.host(threads=2, backend=b), precision=precision)
        for b in ("c", "numpy")
    )
    np.testing.assert_allclose(native[0], oracle[0], rtol=2e-4)
    for name, array in native[1].items():
        np.testing.assert_allclose(array, oracle[1][name], rtol=1e-2, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("precision", ["bf16", "bf16_products"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_frozen_tensors_come_back(
    model: nn.Module, graph: Graph, precision: Precision, accumulate: int, tmp_path: Path
) -> None:
    """To the bit, from a program, and from a file; what is trained goes on from the file."""
    scheme = schemes(graph)[1]
    settings = {"precision": precision, "accumulate": accumulate}
    program = pe.compile(graph, scheme=scheme, batch=BATCH, **settings)
    session = pe.Session(program)
    session.step(*batch(), lr=0.05)
    session.step(*batch(), lr=0.05)
    session.save(tmp_path / "model.pock")
    again = pe.Session.load(tmp_path / "model.pock")
    assert again.signature.precision == precision
    for name, tensor in model.state_dict().items():
        for state in (session.state_dict(), again.state_dict()):
            if name in scheme.shares:
                assert not np.array_equal(state[name], tensor.numpy())
            else:
                np.testing.assert_array_equal(state[name], tensor.numpy(), name)
    for _ in range(2):
        assert session.step(*batch(), lr=0.05) == again.step(*batch(), lr=0.05)


def test_unknown_precision(graph: Graph) -> None:
    with pytest.raises(InputError, match="no precision is called 'f16'; there are f32, bf16, "):
        pe.compile(graph, precision="f16")  # type: ignore[arg-type]
