"""Models that compile in a moment, for tests of everything around a program."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

import pockengine as pe
from pockengine.ir.graph import Graph
from pockengine.ir.op import Array
from pockengine.runtime.program import Program

CLASSES = 5
WORDS = 30


class ConvNet(nn.Module):
    """Images [N, 3, 12, 12]; has batch norm, a depthwise convolution, and an unused module."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.unused = nn.Linear(2, 3)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.depthwise(x)).mean((2, 3)))


class Tagger(nn.Module):
    """Tokens [N, 6] and their weights [N, 6]; the table is tied to the output."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, 8)
        self.places = nn.Embedding(6, 8)
        self.register_buffer("position_ids", torch.arange(6)[None])
        self.mix = nn.Linear(8, 8)
        self.out = nn.Linear(8, WORDS, bias=False)
        self.out.weight = self.table.weight

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.table(ids) + self.places(self.position_ids)
        x = torch.tanh(self.mix(x)) * mask[:, :, None]
        return self.out(x.sum(1))


class Judge(nn.Module):
    """Computes its own loss from inputs [N, 4] and targets [N]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x: Tensor, wanted: Tensor) -> Tensor:
        return ((self.layer(x)[:, 0] - wanted) ** 2).mean()


class Noisy(nn.Module):
    """Has dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 256)
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(256, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(torch.relu(self.first(x))))


def seeded(make: Callable[[], nn.Module], *, training: bool = False) -> nn.Module:
    torch.manual_seed(7)
    return make().train(training)


def images(count: int, seed: int = 0) -> tuple[Array, Array]:
    """Images and their labels."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 3, 12, 12)).astype(np.float32)
    return x, rng.integers(0, CLASSES, count)


def sentences(count: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Tokens, weights of tokens, and labels."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, WORDS, (count, 6))
    return ids, rng.random((count, 6)).astype(np.float32), rng.integers(0, WORDS, count)


def image_graph(model: nn.Module) -> Graph:
    return pe.import_torch(model, torch.zeros(2, 3, 12, 12))


def tagger_graph(model: nn.Module) -> Graph:
    return pe.import_torch(model, (torch.zeros(2, 6, dtype=torch.int64), torch.zeros(2, 6)))


def image_program(model: nn.Module, *, batch: int = 4, **settings: object) -> Program:
    settings = {"optimizer": pe.SGD(momentum=0.9), "target": pe.Target.host(threads=1)} | settings
    return pe.compile(image_graph(model), batch=batch, **settings)  # type: ignore[arg-type]
