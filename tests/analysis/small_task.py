"""A network of a few thousand numbers, and levels that it learns to tell apart, for analyses that
take seconds. `make` is what the command line takes as a model: `small_task:make`."""

import numpy as np
import torch
from torch import nn

import pockengine as pe
from pockengine.ir.graph import Graph

LENGTH, CLASSES = 16, 3


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.conv(x))


def network(blocks: int = 3, channels: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(2, channels, 3, padding=1),
        nn.ReLU(),
        nn.Sequential(*(Block(channels) for _ in range(blocks))),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(channels, CLASSES),
    ).eval()


def make() -> tuple[nn.Module, tuple[torch.Tensor]]:
    return network(), (torch.zeros(2, 2, LENGTH),)


def make_other() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """The same, but deeper."""
    return network(blocks=4), (torch.zeros(2, 2, LENGTH),)


def graph() -> Graph:
    return pe.import_torch(*make())


def samples(count: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """f32 (count, 2, 16), and which of three levels the two channels have, beneath noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    levels = np.array([[0.5, 0.0], [0.0, 0.5], [-0.3, -0.3]])[labels]
    noise = rng.normal(0, 1.5, (count, 2, LENGTH))
    return (noise + levels[:, :, None]).astype(np.float32), labels
