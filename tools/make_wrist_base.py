"""Trains the wrist demo's base network and exports it: needs PyTorch, onnx and onnxscript.

    python tools/make_wrist_base.py            # writes base_network.onnx and base_network.json
    python tools/make_wrist_base.py --table    # every person held out in turn, as Markdown

The network is a plain 1-D CNN trained on nine of the ten people. The person left out is the one
the demo adapts to. That is person 2, chosen because the base network serves this person worst of
all ten: the case personalisation is for, and not the typical one. docs/demo.md shows all ten.
"""

import argparse
import copy
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pockengine.demo.wrist import ADAPT_SHARE, EPOCHS, HOP, LEARNING_RATE, SCHEMES, WINDOW
from pockengine.data.watch import Recordings, load_recordings
from pockengine.data.windows import (
    Floats,
    Labels,
    cut_windows,
    shuffled_batches,
    split_in_time,
    standardise,
)

HELD_OUT = 2
CHANNELS = ((6, 32, 7, 2), (32, 64, 5, 1), (64, 64, 5, 2), (64, 96, 3, 1), (96, 128, 3, 1))
EXERCISES = 7
DEMO = Path(__file__).parents[1] / "src" / "pockengine" / "demo"


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.norm: nn.Module = nn.BatchNorm1d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.norm(self.conv(x)))


class WristNetwork(nn.Module):
    """(batch, 6, 128) standardised samples -> (batch, 7) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(*row) for row in CHANNELS))
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.head = nn.Linear(CHANNELS[-1][1], EXERCISES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.blocks(x)).flatten(1))


@dataclass(frozen=True)
class Person:
    """Windows of the held-out person: those to adapt on, and those to be judged by."""

    adapt_x: Floats
    adapt_y: Labels
    test_x: Floats
    test_y: Labels


def constants(recordings: Recordings, held_out: int) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each channel over everybody else."""
    others = [
        s for s, p in zip(recordings.series, recordings.person, strict=True) if p != held_out
    ]
    everything = np.concatenate(others)
    return everything.mean(0, dtype=np.float64).astype(np.float32), everything.std(
        0, dtype=np.float64
    ).astype(np.float32)


def windows_of(
    series: list[Floats], exercises: list[int], scale: tuple[Floats, Floats]
) -> tuple[Floats, Labels]:
    cut = [cut_windows(standardise(s, *scale), WINDOW, HOP) for s in series]
    labels = [np.full(len(c), e) for c, e in zip(cut, exercises, strict=True)]
    return np.concatenate(cut), np.concatenate(labels)


def others_windows(
    recordings: Recordings, held_out: int, scale: tuple[Floats, Floats]
) -> tuple[Floats, Labels]:
    chosen = np.flatnonzero(recordings.person != held_out)
    return windows_of(
        [recordings.series[i] for i in chosen],
        [int(recordings.exercise[i]) for i in chosen],
        scale,
    )


def person_windows(
    recordings: Recordings, person: int, scale: tuple[Floats, Floats]
) -> Person:
    chosen = np.flatnonzero(recordings.person == person)
    parts = [split_in_time(recordings.series[i], ADAPT_SHARE) for i in chosen]
    labels = [int(recordings.exercise[i]) for i in chosen]
    adapt = windows_of([first for first, _ in parts], labels, scale)
    test = windows_of([rest for _, rest in parts], labels, scale)
    return Person(*adapt, *test)


def train_base(x: Floats, y: Labels, epochs: int) -> WristNetwork:
    """Batch norm is trained, then folded into the convolutions; the result is in eval mode."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = WristNetwork().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = epochs * -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for batch_x, batch_y in shuffled_batches(x, y, 64, rng):
            logits = network(torch.from_numpy(batch_x))
            loss = functional.cross_entropy(logits, torch.from_numpy(batch_y), label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return folded(network)


def folded(network: WristNetwork) -> WristNetwork:
    network.eval()
    for block in network.blocks:
        block.conv = fuse_conv_bn_eval(block.conv, block.norm)
        block.norm = nn.Identity()
    return network


def export(network: WristNetwork, path: Path) -> None:
    """Writes the network as ONNX, its batch symbolic, without notes about the machine it came from."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.onnx.export(
        network,
        (torch.zeros(2, len(CHANNELS) + 1, WINDOW),),
        dynamo=True,
        opset_version=18,
        input_names=["samples"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
    )
    model = program.model_proto
    for holder in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del holder.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
