"""The frozen prefix: what belongs to it, what is kept of it, and that both halves are the whole."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pockengine as pe
from pockengine.ir.graph import Feature, Graph, Input, leaf
from pockengine.ir.interpret import interpret
from pockengine.ir.op import Array, Value
from pockengine.ir.rewrite import substitute, with_batch
from pockengine.ops.shape import Transpose
from pockengine.passes.mode import inference_mode
from pockengine.passes.prefix import (
    WORKING_SET,
    frozen_prefix,
    hand_over,
    micro_batch,
    without_prefix,
)


class Trunk(nn.Module):
    """Two frozen convolutions and what a test does with them; the head is trained."""

    def __init__(self, between: Callable[[Tensor, Tensor], Tensor], width: int = 4) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(width, 5)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.one(x))
        return self.head(self.between(a, self.two(a)))


def trunk(between: Callable[[Tensor, Tensor], Tensor], width: int = 4) -> Graph:
    torch.manual_seed(0)
    return pe.import_torch(Trunk(between, width).eval(), torch.zeros(2, 3, 6, 6))


HEAD = {"head.weight", "head.bias"}


def kept(graph: Graph, changing: set[str] = HEAD) -> list[str]:
    """The types of what is kept, as text."""
    prefix = frozen_prefix(graph, changing)
    return [] if prefix is None else [str(v.type) for v in prefix.outputs.values()]


def names(values: tuple[Value, ...]) -> list[str]:
    return [v.op.name for v in values]  # type: ignore[attr-defined]


def test_the_last_frozen_value_is_kept() -> None:
    graph = trunk(lambda a, b: b.mean((2, 3)))
    assert kept(graph) == ["f32[N,4]"]
    prefix = frozen_prefix(graph, HEAD)
    assert prefix is not None and names(prefix.inputs) == ["x"]
    suffix = without_prefix(graph, prefix, {})
    assert names(suffix.inputs) == ["features:0"] and set(suffix.params) == HEAD
    assert isinstance(suffix.inputs[0].op, Feature)


@pytest.mark.parametrize(
    ("between", "width", "expected"),
    [
        # two values that are read: neither can be made of the other cheaply
        (lambda a, b: (a * b).mean((2, 3)), 4, ["f32[N,4]"]),
        # light work on what is kept, and what makes it larger, is left to the reader
        (lambda a, b: b.mean((2, 3)).repeat(1, 3), 12, ["f32[N,4]"]),
        (lambda a, b: torch.cat([b.mean((2, 3)), b.mean((2, 3)).exp()], 1), 8, ["f32[N,8]"]),
    ],
)
def test_what_is_kept(
    between: Callable[[Tensor, Tensor], Tensor], width: int, expected: list[str]
) -> None:
    assert kept(trunk(between, width)) == expected


@pytest.mark.parametrize(
    "between",
    [
        lambda a, b: (b - b.mean(0, keepdim=True)).mean((2, 3)),
        lambda a, b: (b + b.flip(0)).mean((2, 3)),
        lambda a, b: (b * torch.softmax(a, 0)).mean((2, 3)),
        lambda a, b: (b + b[:1]).mean((2, 3)),
        lambda a, b: b.mean((2, 3)) + torch.arange(len(b))[:, None],
        lambda a, b: torch.cumsum(b, 0).mean((2, 3)),
        lambda a, b: nn.functional.dropout(b, 0.5, True).mean((2, 3)),
        lambda a, b: (b.mean((2, 3)) @ b.mean((2, 3)).T).sum(1, keepdim=True) + b.mean((2, 3)),
    ],
)
def test_what_mixes_samples_or_is_random_stays_behind(
    between: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """The convolutions are kept at most; what the lambda does to them is the suffix's."""
    prefix = frozen_prefix(trunk(between), HEAD)
    assert prefix is not None
    mixing = {"Flip", "Softmax", "CumSum", "Dropout", "Iota", "Slice", "Take"}
    assert not mixing & {type(v.op).__name__ for v in prefix.values()}
    for batch in (2, 4):
        assert_same(trunk(between), prefix, batch)


def test_a_norm_of_batch_statistics_stays_behind() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5))
    changing = {"3.weight", "3.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
    still = pe.import_torch(model.eval(), torch.zeros(2, 3, 6, 6))
    assert kept(still, {"3.weight", "3.bias"}) == ["f32[N,64]"]
    moving = pe.import_torch(model.train(), torch.zeros(2, 3, 6, 6))
    assert kept(moving, changing) == ["f32[N,4,4,4]"]


def test_no_prefix_where_nothing_heavy_is_frozen() -> None:
    graph = trunk(lambda a, b: b.mean((2, 3)))
    assert frozen_prefix(graph, set(graph.params)) is None
    assert frozen_prefix(graph, {"one.weight"}) is None
    words = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 5))
    tokens = pe.import_torch(words, torch.zeros(2, 3, dtype=torch.int64))
    assert frozen_prefix(tokens, {"2.weight", "2.bias"}) is None


def test_a_small_prefix_is_not_worth_it() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 512), nn.Linear(512, 5))
    graph = pe.import_torch(model, torch.zeros(2, 8))
    assert frozen_prefix(graph, {"1.weight"}) is None
    assert frozen_prefix(graph, {"2.weight"}) is not None


def test_a_feature_does_not_take_a_name_that_is_taken() -> None:
    graph = trunk(lambda a, b: b.mean((2, 3)))
    (x,) = graph.inputs
    renamed = substitute(graph, {x: leaf(Input, "features:0", x.type)})
    prefix = frozen_prefix(renamed, HEAD)
    assert prefix is not None and list(prefix.outputs) == ["features:1"]


def test_features_keep_their_layout() -> None:
    """What channels-last convolutions made is kept so, and the suffix sees it as before."""
    graph = trunk(lambda a, b: b.flatten(1), 144)
    prefix = frozen_prefix(graph, {"two.weight", *HEAD})
    assert prefix is not None
    last, first = Transpose((0, 2, 3, 1)), Transpose((0, 3, 1, 2))
    moved = {n: first(last(v)) for n, v in prefix.outputs.items()}
    plain, perms = hand_over(Graph(prefix.inputs, moved, data=prefix.data))
    assert perms == {"features:0": (0, 3, 1, 2)}
    assert plain.outputs["features:0"].shape[1:] == (6, 6, 4)
    suffix = without_prefix(graph, prefix, perms)
    assert suffix.inputs[0].type == plain.outputs["features:0"].type
    few, rest = with_batch(plain, 3), with_batch(suffix, 3)
    x = np.random.default_rng(0).standard_normal((3, 3, 6, 6)).astype(np.float32)
    features = interpret(few, {"x": x}).outputs
    whole = interpret(with_batch(graph, 3), {"x": x}).outputs
    for name, array in interpret(rest, features).outputs.items():
        np.testing.assert_allclose(array, whole[name], 1e-5, 1e-6)


def test_micro_batches_divide_the_batch_and_fit_the_cache() -> None:
    small = frozen_prefix(trunk(lambda a, b: b.mean((2, 3))), HEAD)
    assert small is not None and micro_batch(small, 12) == 12
    torch.manual_seed(0)
    model = Trunk(lambda a, b: b.mean((2, 3))).eval()
    side = int((WORKING_SET / 3 / 8 / 4) ** 0.5)  # three samples of both operands fit
    large = frozen_prefix(pe.import_torch(model, torch.zeros(2, 3, side, side)), HEAD)
    assert large is not None
    assert [micro_batch(large, n) for n in (1, 2, 4, 6, 7, 9)] == [1, 2, 2, 3, 1, 3]
    huge = frozen_prefix(pe.import_torch(model, torch.zeros(2, 3, 2 * side, 2 * side)), HEAD)
    assert huge is not None and micro_batch(huge, 8) == 1


def assert_same(graph: Graph, prefix: Graph, batch: int) -> None:
    """The halves, the first one sample at a time, compute what the whole does."""
    x = np.random.default_rng(batch).standard_normal((batch, 3, 6, 6)).astype(np.float32)
    single = with_batch(prefix, 1)
    rows = [interpret(single, {"x": x[i : i + 1]}).outputs for i in range(batch)]
    features: dict[str, Array] = {n: np.concatenate([r[n] for r in rows]) for n in rows[0]}
    suffix = inference_mode(with_batch(without_prefix(graph, prefix, {}), batch))
    given = features | ({"x": x} if "x" in names(suffix.inputs) else {})
    wanted = interpret(inference_mode(with_batch(graph, batch)), {"x": x}).outputs
    for name, array in interpret(suffix, given).outputs.items():
        np.testing.assert_allclose(array, wanted[name], 1e-4, 1e-5)
