"""Small models with one odd thing each, three steps beside PyTorch's, and what is refused."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pockengine as pe

BATCH = 4


class Model(nn.Module):
    """A layer before and a layer after what is tried."""

    def __init__(self, middle: Callable[[Tensor], Tensor], width: int = 6) -> None:
        super().__init__()
        self.before, self.middle = nn.Linear(6, 6, bias=False), middle
        self.after = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.middle(self.before(x)))


class Twice(nn.Module):
    """One batch norm, used for two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
        self.after = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.encode(x) - self.encode(2 * x + 1))


def compare(model: nn.Module, x: Tensor, count: int = BATCH) -> None:
    """Three steps on the first `count` samples of x; losses and weights agree."""
    graph = pe.import_torch(model, x)
    labels = torch.arange(count) % 3
    program = pe.compile(graph, optimizer=pe.SGD(momentum=0.9), batch=BATCH)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with pe.Session(program) as session:
        for _ in range(3):
            loss = F.cross_entropy(model(x[:count]), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            got = session.step(x[:count].numpy(), labels.numpy(), lr=0.1)
            np.testing.assert_allclose(got, loss.item(), rtol=1e-4)
        state = session.state_dict()
    for name, wanted in model.state_dict().items():
        np.testing.assert_allclose(state[name], wanted.numpy(), rtol=1e-3, atol=1e-5)


def sample(*shape: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(BATCH, *shape)


@pytest.mark.parametrize("count", [BATCH, 3])
def test_a_row_that_only_fills_up_may_be_undefined(count: int) -> None:
    compare(Model(lambda h: h / h.norm(dim=1, keepdim=True)), sample(6), count)
    compare(
        Model(lambda h: (h - h.mean(1, keepdim=True)) / h.std(1, keepdim=True)), sample(6), count
    )


def test_the_norm_of_a_zero_row_has_gradient_zero() -> None:
    x = sample(6)
    x[1] = 0
    compare(Model(lambda h: h.norm(dim=1, keepdim=True) + h), x)


def test_a_batch_norm_used_twice() -> None:
    compare(Twice().train(), sample(6))


def test_elementwise_work_that_is_also_read_from_another_place() -> None:
    compare(Model(lambda h: torch.exp(torch.sigmoid(h).flip(1)) * 2 + torch.sigmoid(h)), sample(6))


def test_a_model_that_mixes_samples_takes_full_batches_only() -> None:
    model = Model(lambda h: h - h.mean(0, keepdim=True))
    compare(model, sample(6))
    program = pe.compile(pe.import_torch(model, sample(6)), batch=BATCH)
    with pe.Session(program) as session:
        x = sample(6).numpy()
        with pytest.raises(pe.PockError, match="mixes the samples of a batch"):
            session.step(x[:3], np.zeros(3, np.int64))
        with pytest.raises(pe.PockError, match="expected 4 samples, got 2"):
            session.predict(np.concatenate([x, x[:2]]))


def test_gradients_scaled_by_frequency_are_refused() -> None:
    model = nn.Sequential(
        nn.Embedding(9, 6, scale_grad_by_freq=True), nn.Flatten(), nn.Linear(12, 3)
    )
    with pytest.raises(pe.PockError, match="frequency of an index"):
        pe.import_torch(model, torch.zeros(BATCH, 2, dtype=torch.int64))


@pytest.mark.parametrize("lr", ["a", None, float("nan"), -1.0, [0.1, 0.2]])
def test_a_learning_rate_that_is_none(lr: object) -> None:
    program = pe.compile(pe.import_torch(Model(torch.relu), sample(6)), batch=BATCH)
    with pe.Session(program) as session, pytest.raises(pe.PockError, match="the learning rate"):
        session.step(sample(6).numpy(), np.zeros(BATCH, np.int64), lr=lr)
