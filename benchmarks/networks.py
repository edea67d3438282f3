"""Models of full size that the benchmarks share, in PyTorch. Weights are random."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

from pockengine.demo.task import SPARSE
from pockengine.ir.graph import Graph
from pockengine.ir.op import Array
from pockengine.scheme import UpdateScheme

CLASSES = 1000
TOKENS, VOCABULARY = 128, 30522


@dataclass(frozen=True)
class Model:
    """A model, its inputs at a batch size (by name), and the scheme that trains it sparsely."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], dict[str, torch.Tensor]]
    sparse: Callable[[Graph], UpdateScheme]
    classes: int

    def labels(self, batch: int) -> torch.Tensor:
        return torch.randint(0, self.classes, (batch,))

    def scheme(self, graph: Graph, name: str) -> UpdateScheme:
        """The scheme called "full" or "sparse"."""
        return UpdateScheme.full(graph) if name == "full" else self.sparse(graph)


def arrays(tensors: dict[str, torch.Tensor]) -> dict[str, Array]:
    return {name: np.ascontiguousarray(x.numpy()) for name, x in tensors.items()}


def logits(module: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    found = module(**inputs)
    return found if isinstance(found, torch.Tensor) else found.logits


def calibrated(module: nn.Module, inputs: dict[str, torch.Tensor]) -> nn.Module:
    """Sets every batch norm's statistics to those of `inputs`.

    Random weights shrink or blow up what goes through them; as in a trained network, a frozen norm
    has to keep it in a range where numbers are neither denormal nor infinite.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        logits(module.train(), inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return module


def _preset(name: str) -> Callable[[Graph], UpdateScheme]:
    return lambda graph: UpdateScheme.preset(graph, name)


def _images(size: int) -> Callable[[int], dict[str, torch.Tensor]]:
    return lambda batch: {"pixel_values": torch.randn(batch, 3, size, size)}


def _tokens(batch: int) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.randint(0, VOCABULARY, (batch, TOKENS)),
        "attention_mask": torch.ones(batch, TOKENS, dtype=torch.int64),
    }


def mobilenet_v2(width: float = 1.0) -> nn.Module:
    config = MobileNetV2Config(
        num_labels=CLASSES, tf_padding=False, classifier_dropout_prob=0.0, depth_multiplier=width
    )
    return MobileNetV2ForImageClassification(config)


def resnet50() -> nn.Module:
    return ResNetForImageClassification(ResNetConfig(num_labels=CLASSES))


def minilm() -> nn.Module:
    """BERT of the size of MiniLM-L6, without dropout."""
    config = BertConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config)


class WristBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, padding=kernel // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv(x))


class Wrist(nn.Module):
    """The demo's base network (pockengine/demo/base_network.onnx): its norms are folded."""

    BLOCKS = ((6, 32, 7, 2), (32, 64, 5, 1), (64, 64, 5, 2), (64, 96, 3, 1), (96, 128, 3, 1))

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(WristBlock(*row) for row in self.BLOCKS))
        self.head = nn.Linear(128, 7)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(samples).mean(2))


MODELS = {
    "mobilenetv2": Model(mobilenet_v2, _images(224), _preset("inverted_bottleneck"), CLASSES),
    "mobilenetv2-0.35": Model(
        functools.partial(mobilenet_v2, 0.35),
        _images(128),
        _preset("inverted_bottleneck"),
        CLASSES,
    ),
    "resnet50": Model(resnet50, _images(224), _preset("bottleneck"), CLASSES),
    "bert": Model(minilm, _tokens, _preset("distilbert"), 2),
    "wrist": Model(
        Wrist,
        lambda batch: {"samples": torch.randn(batch, 6, 128)},
        lambda graph: UpdateScheme.select(graph, SPARSE),
        7,
    ),
}
