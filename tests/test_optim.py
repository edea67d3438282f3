"""Optimizers against torch.optim, clipping against torch's, and refusals in words."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pockengine.errors import InputError
from pockengine.ir.graph import Graph, Input, Param, State, leaf, zeros
from pockengine.ir.interpret import interpret
from pockengine.ir.types import TensorType
from pockengine.optim import (
    SGD,
    Adam,
    AdamW,
    ClipNorm,
    ClipValue,
    Group,
    Lion,
    Optimizer,
    as_optimizer,
)

VECTOR, SCALAR = TensorType("f32", (4, 3)), TensorType("f32", ())
RATES = [1e-1, 5e-2, 2e-2, 1e-2, 3e-2, 1e-2, 1e-3, 1e-2, 2e-2, 1e-2]


def one_tensor(optimizer: Optimizer, start: np.ndarray) -> Graph:
    """A graph whose updates are one step of `optimizer` on "p", given "g" and "lr"."""
    p, g, lr = leaf(Param, "p", VECTOR), leaf(Input, "g", VECTOR), leaf(Input, "lr", SCALAR)
    clocks = {c: leaf(State, c, SCALAR) for c in optimizer.clocks}
    slots = {s: leaf(State, s, VECTOR) for s in optimizer.slots}
    ticked = optimizer.tick(clocks)
    new, states = optimizer.update(p, g, slots, ticked, lr)
    data = {name: zeros(v.type) for name, v in (clocks | slots).items()}
    return Graph((g, lr), {}, {"p": new, **ticked, **states}, {"p": start, **data})


def ours(optimizer: Optimizer, start: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    graph = one_tensor(optimizer, start)
    data = dict(graph.data)
    for lr, g in zip(RATES, gradients, strict=True):
        data |= interpret(graph, {**data, "g": g, "lr": np.float32(lr)}).updates
    return data["p"]


def torchs(
    make: Callable[..., torch.optim.Optimizer], start: np.ndarray, gradients: list[np.ndarray]
) -> np.ndarray:
    p = torch.nn.Parameter(torch.tensor(start))
    optimizer = make([p], lr=0.1)
    for lr, g in zip(RATES, gradients, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        p.grad = torch.tensor(g)
        optimizer.step()
    return p.detach().numpy()


def sgd(**options: object) -> Callable[..., torch.optim.Optimizer]:
    return lambda params, lr: torch.optim.SGD(params, lr=lr, **options)


def adam(**options: object) -> Callable[..., torch.optim.Optimizer]:
    return lambda params, lr: torch.optim.Adam(params, lr=lr, **options)


def adamw(**options: object) -> Callable[..., torch.optim.Optimizer]:
    return lambda params, lr: torch.optim.AdamW(params, lr=lr, **options)


class TorchLion(torch.optim.Optimizer):
    """Lion as published (arXiv 2302.06675, algorithm 2); PyTorch has none."""

    def __init__(self, params: list[torch.nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr})
        self.m = [torch.zeros_like(p) for p in params]

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        group = self.param_groups[0]
        for p, m in zip(group["params"], self.m, strict=True):
            direction = torch.sign(0.9 * m + 0.1 * p.grad)
            p -= group["lr"] * (direction + 0.05 * p)
            m.copy_(0.99 * m + 0.01 * p.grad)


CASES = {
    "sgd": (SGD(), sgd()),
    "decay": (SGD(weight_decay=0.1), sgd(weight_decay=0.1)),
    "momentum": (SGD(momentum=0.9), sgd(momentum=0.9)),
    "nesterov": (
        SGD(momentum=0.9, nesterov=True, weight_decay=0.01),
        sgd(momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    "dampening": (SGD(momentum=0.8, dampening=0.3), sgd(momentum=0.8, dampening=0.3)),
    "adam": (Adam(), adam()),
    "adam with decay": (
        Adam(betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
        adam(betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    ),
    "adamw": (AdamW(), adamw()),
    "adamw with decay": (AdamW(weight_decay=0.2), adamw(weight_decay=0.2)),
    "lion": (Lion(weight_decay=0.05), TorchLion),
}


@pytest.mark.parametrize("case", CASES)
def test_ten_steps_equal_torch(case: str) -> None:
    optimizer, make = CASES[case]
    rng = np.random.default_rng(0)
    start = rng.standard_normal(VECTOR.shape).astype(np.float32)
    gradients = [rng.standard_normal(VECTOR.shape).astype(np.float32) for _ in RATES]
    expected = torchs(make, start, gradients)
    np.testing.assert_allclose(ours(optimizer, start, gradients), expected, rtol=2e-6, atol=2e-6)


def test_bias_correction_keeps_its_precision_over_many_steps() -> None:
    clock = {name: leaf(State, name, SCALAR) for name in Adam().clocks}
    graph = Graph((), {}, Adam().tick(clock), {name: zeros(SCALAR) for name in clock})
    data = dict(graph.data)
    for step in range(1, 2001):
        data = interpret(graph, data).updates
        if step in (1, 2, 10, 100, 2000):
            expected = [1 - 0.9**step, 1 - 0.999**step]
            np.testing.assert_allclose(list(data.values()), expected, rtol=2e-5)


def test_the_first_matching_group_counts() -> None:
    decay = AdamW(groups=(Group("*.bias", weight_decay=0.0, lr_scale=2.0), Group("fc.*")))
    own, scale = decay.for_param("fc.bias")
    assert (own.weight_decay, scale) == (0.0, 2.0)
    own, scale = decay.for_param("fc.weight")
    assert (own.weight_decay, scale) == (0.01, 1.0)
    assert decay.for_param("conv.weight") == (decay, 1.0)


def test_names_stand_for_defaults() -> None:
    assert as_optimizer("adamw") == AdamW()
    with pytest.raises(InputError, match="no optimizer is named 'rmsprop'; there are sgd, adam"):
        as_optimizer("rmsprop")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(momentum=1.0), r"SGD: momentum must be in \[0, 1\), got 1.0"),
        (lambda: SGD(nesterov=True), "nesterov must be used with momentum, undampened"),
        (lambda: SGD(weight_decay=-1), "weight_decay must be at least 0, got -1"),
        (lambda: SGD(momentum=0.9, dampening=2), r"dampening must be in \[0, 1\]"),
        (lambda: Adam(betas=(0.9, 1.0)), r"betas must be two in \[0, 1\), got \(0.9, 1.0\)"),
        (lambda: Adam(eps=0), "eps must be over 0"),
        (lambda: Lion(betas=(2, 0)), "Lion: betas"),
        (lambda: ClipNorm(0), "ClipNorm: limit must be over 0, got 0"),
        (lambda: ClipValue(-1), "ClipValue: limit must be over 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def clipped(clip: ClipNorm | ClipValue, *gradients: np.ndarray) -> list[np.ndarray]:
    leaves = {f"g{i}": leaf(Input, f"g{i}", g) for i, g in enumerate(gradients)}
    arrays = {f"g{i}": g for i, g in enumerate(gradients)}
    return list(interpret(Graph((), clip.apply(leaves)), arrays).outputs.values())


@pytest.mark.parametrize("limit", [0.5, 1e3])
def test_global_norm_equals_torch(limit: float) -> None:
    rng = np.random.default_rng(0)
    gradients = [rng.standard_normal(s).astype(np.float32) for s in [(4, 3), (3,), ()]]
    parameters = [torch.nn.Parameter(torch.zeros(g.shape)) for g in gradients]
    for parameter, g in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(g)
    torch.nn.utils.clip_grad_norm_(parameters, limit)
    for found, parameter in zip(clipped(ClipNorm(limit), *gradients), parameters, strict=True):
        np.testing.assert_allclose(found, parameter.grad, rtol=1e-6)


def test_norm_per_tensor_leaves_small_gradients_alone() -> None:
    small, large = np.full(4, 0.1, np.float32), np.full(4, 10.0, np.float32)
    found = clipped(ClipNorm(1.0, per_tensor=True), small, large)
    np.testing.assert_array_equal(found[0], small)
    np.testing.assert_allclose(np.linalg.norm(found[1]), 1.0, rtol=1e-6)


def test_clipping_by_value() -> None:
    found = clipped(ClipValue(1.0), np.array([-3.0, 0.5, 2.0], np.float32))[0]
    np.testing.assert_array_equal(found, [-1.0, 0.5, 1.0])


def test_gradients_of_zero_are_not_divided_by_zero() -> None:
    found = clipped(ClipNorm(1.0), np.zeros(3, np.float32))[0]
    np.testing.assert_array_equal(found, np.zeros(3))
