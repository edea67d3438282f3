"""Programs with a frozen prefix do what programs without one do."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from comparison import arrays
from small_models import CLASSES, ConvNet, Tagger, image_graph, images, seeded, tagger_graph
from torch import Tensor, nn
from zoo import ZOO, models

import pockengine as pe
from pockengine import compiler
from pockengine.errors import InputError
from pockengine.ir.graph import Graph
from pockengine.ir.op import Array
from pockengine.runtime.program import Program

Make = Callable[[], Program]


def late(graph: Graph, share: float = 0.6) -> pe.UpdateScheme:
    """Trains the tensors at the end of the model."""
    names = list(graph.params)
    return pe.UpdateScheme.select(graph, {name: 1.0 for name in names[int(share * len(names)) :]})


def both(monkeypatch: pytest.MonkeyPatch, make: Make, samples: int | None) -> tuple[Program, ...]:
    """The program with its prefix, `samples` at a time, and the program without one."""
    with monkeypatch.context() as patch:
        if samples:
            patch.setattr(compiler, "micro_batch", lambda *_: samples)
        split = make()
        patch.setattr(compiler, "frozen_prefix", lambda *_: None)
        return split, make()


def assert_close(got: dict[str, Array], wanted: dict[str, Array]) -> None:
    assert got.keys() == wanted.keys()
    for name, array in got.items():
        np.testing.assert_allclose(array, wanted[name], 2e-4, 1e-5, err_msg=name)


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize(
    "name", models(["mobilenetv2", "resnet18", "bert", "unet", "vit", "convnext", "gpt2"])
)
def test_both_halves_are_the_whole(
    name: str, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = ZOO[name]
    graph = pe.import_torch(entry.model().eval(), entry.batch(2, 0)[0])
    target = pe.Target.host(threads=2)
    split, whole = both(
        monkeypatch, lambda: pe.compile(graph, scheme=late(graph), batch=4, target=target), samples
    )
    assert split.signature.prefix is not None and split.signature.prefix.samples == samples
    x, y = entry.batch(4, 0)
    given = arrays(graph, x)
    with pe.Session(split) as one, pe.Session(whole) as other:
        before = one.state_dict()
        for count in (4, 3, 1):  # with batches that are not full
            cut = {n: a[:count] for n, a in given.items()}
            found = [s.step(cut, y.numpy()[:count], entry.lr) for s in (one, other)]
            assert found[0] == pytest.approx(found[1], 1e-4)
        assert_close(one.state_dict(), other.state_dict())
        np.testing.assert_allclose(one.predict(given), other.predict(given), 1e-3, 1e-4)
        assert one.evaluate(given, y.numpy())["loss"] == pytest.approx(
            other.evaluate(given, y.numpy())["loss"], 1e-4
        )
        frozen = set(graph.params) - set(late(graph).shares)
        after = one.state_dict()
        assert all(after[n].tobytes() == before[n].tobytes() for n in frozen)


class Branches(nn.Module):
    """Two frozen branches of two inputs; the second input is read behind them, too."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Conv1d(2, 4, 3)
        self.mix, self.head = nn.Linear(24, 16), nn.Linear(16, CLASSES)

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        left, right = torch.relu(self.left(a)), torch.relu(self.right(b)).flatten(1)
        joined = torch.tanh(self.mix(torch.cat([left, right], 1))) * c
        return self.head(joined + b.mean((1, 2))[:, None])


def branches(count: int) -> tuple[Array, ...]:
    rng = np.random.default_rng(count)
    shapes = (count, 6), (count, 2, 6), (count, 1)
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)


def branches_program() -> Program:
    graph = pe.import_torch(seeded(Branches), tuple(map(torch.from_numpy, branches(2))))
    scheme = pe.UpdateScheme.select(graph, {"mix.weight": 1.0, "head.*": 1.0})
    return pe.compile(graph, scheme=scheme, batch=4, target=pe.Target.host(threads=1))


def test_inputs_of_either_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are given in the model's order, wherever they are read."""
    split, whole = both(monkeypatch, branches_program, 2)
    assert split.signature.inputs == ("a", "b", "c")
    assert [t.name for t in split.entry("features").inputs] == ["a", "b"]
    names = [t.name for t in split.entry("train").inputs]
    assert names[:3] == ["b", "c", "features:0"] and "a" not in names
    y = np.array([0, 1, 2])
    with pe.Session(split) as one, pe.Session(whole) as other:
        for session in (one, other):
            session.step(branches(3), y, 0.1)
        assert_close(one.state_dict(), other.state_dict())
        np.testing.assert_allclose(one.predict(branches(9)), other.predict(branches(9)), 1e-5, 1e-6)
        a, b, c = branches(3)
        with pytest.raises(InputError, match=r"'a' expects shape \[samples, 6\], got \[3, 5\]"):
            one.step((a[:, :5], b, c), y)
        with pytest.raises(InputError, match="different numbers of samples: 'a' 2, 'b' 3"):
            one.step((a[:2], b, c), y)
        with pytest.raises(InputError, match="the model takes the inputs a, b, c; got 2 arrays"):
            one.step((a, b), y)


def test_accumulated_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> Program:
        graph = image_graph(seeded(ConvNet))
        scheme = pe.UpdateScheme.head_only(graph)
        one = pe.Target.host(threads=1)
        return pe.compile(graph, scheme=scheme, batch=4, accumulate=2, target=one)

    sessions = [pe.Session(program) for program in both(monkeypatch, make, 1)]
    for session in sessions:
        session.step(*images(4, 1), 0.1)
        session.step(*images(3, 2), 0.1)
    assert_close(*(session.state_dict() for session in sessions))


def test_the_same_by_the_oracle() -> None:
    """In the very bytes of the plan, by the operators' references."""
    graph = image_graph(seeded(ConvNet))
    scheme, found = pe.UpdateScheme.head_only(graph), []
    for backend in ("c", "numpy"):
        target = pe.Target.host(backend=backend, threads=1)
        with pe.Session(pe.compile(graph, scheme=scheme, batch=4, target=target)) as session:
            session.step(*images(3), 0.1)
            found.append(session.state_dict())
    assert_close(*found)


def test_a_word_out_of_range_in_the_prefix() -> None:
    graph = tagger_graph(seeded(Tagger))
    program = pe.compile(
        graph,
        scheme=pe.UpdateScheme.select(graph, {"mix.bias": 1.0}),
        batch=4,
        target=pe.Target.host(threads=1),
    )
    assert program.signature.prefix is not None
    mask, y = np.ones((4, 6), np.float32), np.arange(4)
    with pe.Session(program) as session:
        before = session.state_dict()
        with pytest.raises(InputError, match="an index is out of the range of what it looks up"):
            session.step((np.full((4, 6), 99), mask), y)
        after = session.state_dict()
        assert all(after[n].tobytes() == before[n].tobytes() for n in before)


def test_a_file_keeps_the_prefix(tmp_path: Path) -> None:
    program = branches_program()
    program.save(tmp_path / "split.pock")
    y = np.array([0, 1, 2, 3])
    with pe.Session(program) as one, pe.Session.load(tmp_path / "split.pock") as other:
        assert other.signature == program.signature
        assert one.step(branches(4), y) == other.step(branches(4), y)
        one.save(tmp_path / "later.pock")
        with pe.Session.load(tmp_path / "later.pock") as later:
            assert later.evaluate(branches(7), np.zeros(7, int)) == one.evaluate(
                branches(7), np.zeros(7, int)
            )


def test_the_memory_of_a_prefix_does_not_grow_with_the_batch() -> None:
    graph = pe.import_torch(seeded(ConvNet), torch.zeros(2, 3, 12, 12))
    scheme = pe.UpdateScheme.head_only(graph)
    ends = []
    for batch in (8, 64):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compiler, "micro_batch", lambda *_: 2)
            target = pe.Target.host(threads=1)
            plan = pe.compile(graph, scheme=scheme, batch=batch, target=target).plan
        ends.append(plan.entries["features"].end - plan.persistent_bytes)
        kinds = {slot.kind for slot in plan.persistent.values()}
        assert "feature" in kinds
        assert all(v.op.name != "x" for v in plan.entries["train"].schedule.graph.inputs)
    assert ends[0] == ends[1]
