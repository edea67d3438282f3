"""Models of full size that the benchmarks share. Weights are random: time and memory do not ask."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

from pockengine.ir.graph import Graph
from pockengine.ir.op import Array
from pockengine.scheme import UpdateScheme

CLASSES = 1000


@dataclass(frozen=True)
class Model:
    """A model, its inputs at a batch size (by name), and the preset that trains it sparsely."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], dict[str, torch.Tensor]]
    preset: str
    classes: int

    def labels(self, batch: int) -> torch.Tensor:
        return torch.randint(0, self.classes, (batch,))

    def scheme(self, graph: Graph, name: str) -> UpdateScheme:
        """The scheme called "full" or "sparse"."""
        if name == "full":
            return UpdateScheme.full(graph)
        return UpdateScheme.preset(graph, self.preset)


def arrays(tensors: dict[str, torch.Tensor]) -> dict[str, Array]:
    return {name: np.ascontiguousarray(x.numpy()) for name, x in tensors.items()}


def _images(batch: int) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(batch, 3, 224, 224)}


def _tokens(batch: int) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.randint(0, 30522, (batch, 128)),
        "attention_mask": torch.ones(batch, 128, dtype=torch.int64),
    }


def mobilenet_v2(*, tf_padding: bool = False) -> nn.Module:
    """MobileNetV2 of width 1. `tf_padding` is TensorFlow's: an operator before the convolution."""
    config = MobileNetV2Config(
        num_labels=CLASSES, tf_padding=tf_padding, classifier_dropout_prob=0.0
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


MODELS = {
    "mobilenetv2": Model(mobilenet_v2, _images, "inverted_bottleneck", CLASSES),
    "resnet50": Model(resnet50, _images, "bottleneck", CLASSES),
    "bert": Model(minilm, _tokens, "bert", 2),
}
