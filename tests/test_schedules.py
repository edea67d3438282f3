"""Schedules against torch's, step by step."""

import pytest
import torch

from pockengine.errors import InputError
from pockengine.schedules import Constant, Cosine, Linear, Schedule, Step, WarmUp


def torchs(make, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


LR = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("ours", "make"),
    [
        (Cosine(0.1, steps=20), lambda o: LR.CosineAnnealingLR(o, 20)),
        (Cosine(0.1, steps=20, end=0.02), lambda o: LR.CosineAnnealingLR(o, 20, eta_min=0.02)),
        (Linear(0.1, steps=8), lambda o: LR.LinearLR(o, 1.0, 0.0, total_iters=8)),
        (Step(0.1, every=3), lambda o: LR.StepLR(o, 3)),
        (Step(0.1, every=4, factor=0.5), lambda o: LR.StepLR(o, 4, gamma=0.5)),
        (Constant(0.1), lambda o: LR.ConstantLR(o, factor=1.0)),
    ],
)
def test_equals_torch(ours: Schedule, make) -> None:
    assert [ours(step) for step in range(20)] == pytest.approx(torchs(make, 20))


def test_ends_stay() -> None:
    assert Cosine(0.1, steps=5, end=0.01)(50) == pytest.approx(0.01)
    assert Linear(0.1, steps=5, end=0.01)(50) == pytest.approx(0.01)


def test_warm_up_rises_to_the_first_rate() -> None:
    schedule = WarmUp(Linear(1.0, steps=4), steps=4)
    rates = [schedule(step) for step in range(9)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0])


def test_a_length_of_zero_is_refused() -> None:
    with pytest.raises(InputError, match="a schedule's steps must be at least 1, got 0"):
        Cosine(0.1, steps=0)
    with pytest.raises(InputError, match="a schedule's every must be at least 1, got 0"):
        Step(0.1, every=0)
