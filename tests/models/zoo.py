"""Small, randomly initialised versions of architectures that people fine-tune.

Each keeps the structure of the original (every operator, every kind of block) at widths and image
sizes that take a second or two. Dropout is off, so that PyTorch's training is comparable.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from _pytest.mark import ParameterSet
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 5


@dataclass(frozen=True)
class Entry:
    """How to make a model, and how to make a batch of its inputs."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...] | dict[str, Tensor]]
    frozen: bool = False  # batch norms keep their statistics
    lr: float = 0.01

    def model(self) -> nn.Module:
        """The same weights every time, ready to train."""
        torch.manual_seed(0)
        return self.make().train(not self.frozen)

    def batch(self, size: int, seed: int) -> tuple[tuple[Tensor, ...] | dict[str, Tensor], Tensor]:
        """Random inputs and labels."""
        torch.manual_seed(seed)
        return self.inputs(size), torch.randint(0, CLASSES, (size,))


# ---- inputs --------------------------------------------------------------------------------------


def images(size: int, channels: int = 3) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda batch: (torch.randn(batch, channels, size, size),)


def pixels(size: int) -> Callable[[int], dict[str, Tensor]]:
    return lambda batch: {"pixel_values": torch.randn(batch, 3, size, size)}


def tokens(
    length: int = 12, types: bool = False, mask: bool = True
) -> Callable[[int], dict[str, Tensor]]:
    def inputs(batch: int) -> dict[str, Tensor]:
        made = {"input_ids": torch.randint(0, 60, (batch, length))}
        if mask:
            lengths = torch.randint(length // 2, length + 1, (batch, 1))
            made["attention_mask"] = (torch.arange(length) < lengths).long()
        if types:
            made["token_type_ids"] = torch.randint(0, 2, (batch, length))
        return made

    return inputs


# ---- own modules ---------------------------------------------------------------------------------


def conv_bn(i: int, o: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(o))


class BasicBlock(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_bn(i, o, 3, stride)
        self.conv2 = conv_bn(o, o)
        self.shortcut = conv_bn(i, o, 1, stride) if stride > 1 or i != o else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class Bottleneck(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.reduce = conv_bn(i, o // 4, 1)
        self.spatial = conv_bn(o // 4, o // 4, 3, stride)
        self.expand = conv_bn(o // 4, o, 1)
        nn.init.constant_(
            self.expand[1].weight, 0.2
        )  # as trained: else every rounding is magnified
        self.shortcut = conv_bn(i, o, 1, stride) if stride > 1 or i != o else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.spatial(F.relu(self.reduce(x))))
        return F.relu(self.expand(y) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, block: type[nn.Module], widths: list[int], depths: list[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, widths[0], 7, 2), nn.ReLU(True), nn.MaxPool2d(3, 2, 1))
        blocks, i = [], widths[0]
        for stage, (o, depth) in enumerate(zip(widths, depths, strict=True)):
            for k in range(depth):
                blocks.append(block(i, o, 2 if stage and not k else 1))
                i = o
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(i, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class InvertedResidual(nn.Module):
    def __init__(self, i: int, o: int, stride: int, expand: int) -> None:
        super().__init__()
        layers = [conv_bn(i, i * expand, 1), nn.ReLU6(True)] if expand > 1 else []
        layers += [conv_bn(i * expand, i * expand, 3, stride, i * expand), nn.ReLU6(True)]
        self.layers = nn.Sequential(*layers, conv_bn(i * expand, o, 1))
        self.residual = stride == 1 and i == o

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        plan = [
            (8, 8, 1, 1),
            (8, 12, 2, 6),
            (12, 12, 1, 6),
            (12, 16, 2, 6),
            (16, 16, 1, 6),
            (16, 24, 1, 6),
        ]
        blocks = [InvertedResidual(*p) for p in plan]
        self.features = nn.Sequential(
            conv_bn(3, 8, 3, 2), nn.ReLU6(), *blocks, conv_bn(24, 64, 1), nn.ReLU6()
        )
        self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(64, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.expand = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        s = F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))
        return x * F.hardsigmoid(self.expand(s))


class MobileNetV3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 3, 2), nn.Hardswish())
        self.block1 = nn.Sequential(conv_bn(8, 24, 1), nn.Hardswish(), conv_bn(24, 24, 5, 2, 24))
        self.squeeze = SqueezeExcite(24)
        self.project = conv_bn(24, 8, 1)
        self.block2 = nn.Sequential(
            conv_bn(8, 24, 1),
            nn.Hardswish(),
            conv_bn(24, 24, 5, 1, 24),
            SqueezeExcite(24),
            nn.Hardswish(),
            conv_bn(24, 8, 1),
        )
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 32),
            nn.Hardswish(inplace=True),
            nn.Linear(32, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(F.hardswish(self.squeeze(self.block1(self.stem(x)))))
        return self.head(x + self.block2(x))


class Fire(nn.Module):
    def __init__(self, i: int, squeeze: int, o: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(i, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, o, 1)
        self.expand3x3 = nn.Conv2d(squeeze, o, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 3, 2),
            nn.ReLU(True),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(12, 4, 8),
            Fire(16, 4, 8),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(16, 6, 12),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Conv2d(24, CLASSES, 1), nn.ReLU(True))

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.classifier(self.features(x)), (1, 1)).flatten(1)


class ShuffleUnit(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        half = channels if stride == 2 else channels // 2
        self.stride = stride
        self.left = nn.Sequential(
            conv_bn(half, half, 3, 2, half), conv_bn(half, half, 1), nn.ReLU()
        )
        self.right = nn.Sequential(
            conv_bn(half, half, 1),
            nn.ReLU(),
            conv_bn(half, half, 3, stride, half),
            conv_bn(half, half, 1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        a, b = (x, x) if self.stride == 2 else x.chunk(2, 1)
        y = torch.cat([self.left(a) if self.stride == 2 else a, self.right(b)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.units = nn.Sequential(ShuffleUnit(8, 2), ShuffleUnit(16, 1), ShuffleUnit(16, 2))
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.units(self.stem(x)).mean((2, 3)))


class DenseLayer(nn.Module):
    def __init__(self, i: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(i), nn.Conv2d(i, 2 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * growth)
        self.conv2 = nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.block1 = nn.Sequential(*(DenseLayer(8 + 4 * k, 4) for k in range(3)))
        self.transition = nn.Sequential(
            nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 10, 1), nn.AvgPool2d(2)
        )
        self.block2 = nn.Sequential(*(DenseLayer(10 + 4 * k, 4) for k in range(2)))
        self.norm, self.fc = nn.BatchNorm2d(18), nn.Linear(18, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.transition(self.block1(self.stem(x))))
        return self.fc(F.relu(self.norm(x)).mean((2, 3)))


class UNet(nn.Module):
    """Two ways up, a transposed convolution and a resize; the map is averaged to class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(conv_bn(3, 8), nn.ReLU())
        self.down2 = nn.Sequential(conv_bn(8, 16), nn.ReLU())
        self.middle = nn.Sequential(conv_bn(16, 16), nn.LeakyReLU(0.1))
        self.up2 = nn.ConvTranspose2d(16, 16, 2, stride=2)
        self.merge2 = nn.Sequential(conv_bn(32, 8), nn.ReLU())
        self.merge1 = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU())
        self.out = nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.middle(F.avg_pool2d(b, 2))
        y = self.merge2(torch.cat([b, self.up2(c)], 1))
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        return self.out(self.merge1(torch.cat([a, y], 1))).mean((2, 3))


class Cnn1d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(6, 16, 7, stride=2, padding=3),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(16, 24, 5, padding=4, dilation=2),
            nn.BatchNorm1d(24),
            nn.ELU(),
            nn.Conv1d(24, 24, 3, padding=1, groups=4),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(24, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm = nn.Linear(20, 32), nn.LayerNorm(32)
        self.fc2, self.fc3 = nn.Linear(32, 32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.fc1(x)))
        return self.fc3(torch.tanh(self.fc2(x)) + x)


class MlpMixer(nn.Module):
    def __init__(self, patches: int = 16, width: int = 24) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(patches, 32), nn.GELU(), nn.Linear(32, patches))
        self.channels = nn.Sequential(nn.Linear(width, 48), nn.GELU("tanh"), nn.Linear(48, width))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(x.mean(1))


class TorchTransformer(nn.Module):
    """torch.nn's own encoder, with a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(60, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        return self.head(self.encoder(self.embed(ids), mask=mask, is_causal=True)[:, -1])


class Inception(nn.Module):
    """Asymmetric kernels and padding, average pooling in a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8, 3, 2)
        self.tall = nn.Sequential(
            nn.Conv2d(8, 6, (1, 7), padding=(0, 3)), nn.Conv2d(6, 6, (7, 1), padding=(3, 0))
        )
        self.pool = nn.Conv2d(8, 6, 1)
        self.same = nn.Conv2d(8, 6, 4, padding="same", padding_mode="zeros")
        self.prelu, self.fc = nn.PReLU(18), nn.Linear(18, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        pooled = self.pool(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
        y = self.prelu(torch.cat([self.tall(x), pooled, self.same(x)], 1))
        return self.fc(F.adaptive_max_pool2d(y, 1).flatten(1))


class Pooled(nn.Module):
    """A text encoder without a head of its own."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask[..., None].to(states.dtype)
        return self.head((states * weight).sum(1) / weight.sum(1))


# ---- transformers --------------------------------------------------------------------------------

_DROPOUTS = ("drop", "layerdrop", "mask_time_prob")


def _nothing(value: Any) -> Any:
    """Zero in place of each rate."""
    if isinstance(value, list | tuple):
        return type(value)(_nothing(v) for v in value)
    return type(value)(0) if isinstance(value, int | float) else value


def hugging_face(
    name: str,
    kind: str = "ForImageClassification",
    **config: Any,
) -> Callable[[], nn.Module]:
    """A factory for a model of the library, of the given configuration, without dropout."""

    def make() -> nn.Module:
        made = getattr(transformers, f"{name}Config")(num_labels=CLASSES, **config)
        for field, value in vars(made).items():
            if any(part in field for part in _DROPOUTS):
                setattr(made, field, _nothing(value))
        model = getattr(transformers, name + kind)(made)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(module, nn.Conv2d):  # tiny weights before a batch norm move too far
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return model

    return make


_TEXT = dict(
    vocab_size=60,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=32,
)
_TEXT_HEAD = "ForSequenceClassification"

ZOO: dict[str, Entry] = {
    "mlp": Entry(Mlp, lambda batch: (torch.randn(batch, 20),)),
    "cnn1d": Entry(Cnn1d, lambda batch: (torch.randn(batch, 6, 64),)),
    "mobilenetv2": Entry(MobileNetV2, images(32), frozen=True),
    "resnet18": Entry(
        lambda: ResNet(BasicBlock, [8, 12, 16, 24], [2, 2, 2, 2]), images(48), lr=0.003
    ),
    "resnet50": Entry(
        lambda: ResNet(Bottleneck, [32, 48, 64, 96], [2, 2, 2, 2]), images(64), lr=0.003
    ),
    "squeezenet": Entry(SqueezeNet, images(40)),
    "shufflenet": Entry(ShuffleNet, images(48)),
    "densenet": Entry(DenseNet, images(16)),
    "unet": Entry(UNet, images(16)),
    "mobilenetv3": Entry(MobileNetV3, images(32)),
    "mlp_mixer": Entry(MlpMixer, images(16)),
    "inception": Entry(Inception, images(24)),
    "torch_transformer": Entry(TorchTransformer, lambda batch: (torch.randint(0, 60, (batch, 9)),)),
    "efficientnet": Entry(
        hugging_face(
            "EfficientNet",
            width_coefficient=0.25,
            depth_coefficient=0.5,
            image_size=32,
            hidden_dim=320,
        ),
        pixels(32),
    ),
    "regnet": Entry(
        hugging_face(
            "RegNet",
            embedding_size=8,
            hidden_sizes=[8, 16, 16, 24],
            depths=[1, 1, 2, 1],
            groups_width=4,
            layer_type="y",
        ),
        pixels(40),
    ),
    "convnext": Entry(
        hugging_face("ConvNext", hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 2, 1]), pixels(64)
    ),
    "vit": Entry(
        hugging_face(
            "ViT",
            image_size=16,
            patch_size=4,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
        ),
        pixels(16),
    ),
    "swin": Entry(
        hugging_face(
            "Swin",
            image_size=32,
            patch_size=2,
            embed_dim=8,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
        ),
        pixels(32),
    ),
    "bert": Entry(hugging_face("Bert", _TEXT_HEAD, **_TEXT), tokens(types=True)),
    "distilbert": Entry(
        hugging_face(
            "DistilBert",
            _TEXT_HEAD,
            vocab_size=60,
            dim=32,
            n_layers=2,
            n_heads=2,
            hidden_dim=48,
            max_position_embeddings=32,
        ),
        tokens(),
    ),
    # Not named in any list of ours: what a stranger may bring.
    "hf_mobilenetv2": Entry(
        hugging_face("MobileNetV2", depth_multiplier=0.25, image_size=32, min_depth=8),
        pixels(32),
        frozen=True,  # one position an image is left at the end: too few for statistics
    ),
    "hf_mobilenetv1": Entry(
        hugging_face("MobileNetV1", depth_multiplier=0.25, image_size=32, min_depth=8),
        pixels(32),
        frozen=True,  # one position an image is left at the end: too few for statistics
    ),
    "hf_resnet": Entry(
        hugging_face(
            "ResNet", embedding_size=8, hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1]
        ),
        pixels(48),
        lr=0.003,
    ),
    "convnextv2": Entry(
        hugging_face("ConvNextV2", hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 2, 1]),
        pixels(64),
    ),
    "swinv2": Entry(
        hugging_face(
            "Swinv2",
            image_size=32,
            patch_size=2,
            embed_dim=8,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
        ),
        pixels(32),
    ),
    "mobilevit": Entry(
        hugging_face(
            "MobileViT",
            image_size=64,
            hidden_sizes=[16, 20, 24],
            num_attention_heads=2,
            neck_hidden_sizes=[8, 8, 12, 16, 20, 24, 32],
        ),
        pixels(64),
    ),
    "mobilevitv2": Entry(
        hugging_face(
            "MobileViTV2",
            image_size=64,
            width_multiplier=0.25,
            base_attn_unit_dims=[32, 48, 64],
            n_attn_blocks=[1, 1, 1],
        ),
        pixels(64),
        lr=0.006,
    ),
    "segformer": Entry(
        hugging_face(
            "Segformer",
            depths=[1, 1, 1, 1],
            hidden_sizes=[8, 16, 16, 24],
            num_attention_heads=[1, 2, 2, 3],
        ),
        pixels(64),
    ),
    "deit": Entry(
        hugging_face(
            "DeiT",
            image_size=16,
            patch_size=4,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
        ),
        pixels(16),
    ),
    "dinov2": Entry(
        hugging_face(
            "Dinov2",
            image_size=28,
            patch_size=7,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            mlp_ratio=2,
        ),
        pixels(28),
    ),
    "beit": Entry(
        hugging_face(
            "Beit",
            image_size=16,
            patch_size=4,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            use_relative_position_bias=True,
        ),
        pixels(16),
    ),
    "levit": Entry(
        hugging_face(
            "Levit",
            image_size=64,
            hidden_sizes=[16, 24, 32],
            num_attention_heads=[2, 3, 4],
            depths=[1, 1, 1],
            key_dim=[8, 8, 8],
        ),
        pixels(64),
    ),
    "cvt": Entry(
        hugging_face("Cvt", embed_dim=[8, 16, 24], num_heads=[1, 2, 3], depth=[1, 2, 3]),
        pixels(48),
    ),
    "bit": Entry(
        hugging_face(
            "Bit",
            embedding_size=8,
            hidden_sizes=[16, 16, 32, 32],
            depths=[1, 1, 1, 1],
            num_groups=4,
        ),
        pixels(48),
        lr=0.003,
    ),
    "poolformer": Entry(
        hugging_face("PoolFormer", hidden_sizes=[8, 16, 16, 24], depths=[1, 1, 1, 1]),
        pixels(64),
    ),
    "pvt": Entry(
        hugging_face(
            "Pvt",
            image_size=64,
            hidden_sizes=[8, 16, 16, 24],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 2, 2, 3],
        ),
        pixels(64),
    ),
    "swiftformer": Entry(
        hugging_face("SwiftFormer", image_size=64, depths=[1, 1, 1, 1], embed_dims=[8, 12, 16, 24]),
        pixels(64),
    ),
    "roberta": Entry(hugging_face("Roberta", _TEXT_HEAD, **_TEXT), tokens()),
    "albert": Entry(hugging_face("Albert", _TEXT_HEAD, embedding_size=16, **_TEXT), tokens()),
    "electra": Entry(
        hugging_face("Electra", _TEXT_HEAD, embedding_size=16, **_TEXT), tokens(), True
    ),
    "gpt2": Entry(
        hugging_face(
            "GPT2",
            _TEXT_HEAD,
            vocab_size=60,
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=32,
            pad_token_id=59,
        ),
        tokens(),
    ),
    "t5_encoder": Entry(
        lambda: Pooled(
            hugging_face(
                "T5",
                "EncoderModel",
                vocab_size=60,
                d_model=32,
                d_kv=16,
                d_ff=48,
                num_layers=2,
                num_heads=2,
            )(),
            32,
        ),
        tokens(),
    ),
    "wav2vec2": Entry(
        hugging_face(
            "Wav2Vec2",
            _TEXT_HEAD,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=48,
            conv_dim=[16, 16, 16],
            conv_stride=[5, 4, 2],
            conv_kernel=[10, 8, 4],
            num_feat_extract_layers=3,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
        ),
        lambda batch: {"input_values": torch.randn(batch, 1600)},
    ),
    "llama": Entry(
        hugging_face("Llama", _TEXT_HEAD, num_key_value_heads=1, pad_token_id=59, **_TEXT),
        tokens(),
    ),
}

QUICK = ("mlp", "cnn1d", "mobilenetv2", "unet", "vit", "bert")


def models(names: Iterable[str]) -> list[ParameterSet]:
    """The names as test parameters; all but the quick ones are left out of `make check`."""
    slow = pytest.mark.slow
    return [pytest.param(name, marks=() if name in QUICK else slow) for name in names]
