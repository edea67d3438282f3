"""Networks exported from PyTorch by both of its exporters, against ONNX Runtime at two batches."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_cases import assert_close, compare

from pockengine.frontends.onnx import import_onnx
from pockengine.frontends.onnx_export import write_back
from pockengine.ir.graph import Graph
from pockengine.ir.interpret import interpret
from pockengine.ir.rewrite import with_batch

torch = pytest.importorskip("torch", reason="exporting models needs PyTorch")
nn = torch.nn
transformers = pytest.importorskip("transformers", reason="the models come from transformers")

Case = tuple[Any, tuple[Any, ...]]  # a module and example inputs of batch 2


def mlp() -> Case:
    net = nn.Sequential(
        nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 4)
    )
    return net, (torch.randn(2, 12),)


def cnn_1d() -> Case:
    net = nn.Sequential(
        nn.Conv1d(6, 8, 5, padding=2),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(8, 8, 3, groups=2),
        nn.SiLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    return net, (torch.randn(2, 6, 32),)


class Shuffle(nn.Module):  # type: ignore[misc, name-defined]
    """Channel shuffle, concatenation, interpolation, slicing: what people write by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1)
        self.right = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.norm = nn.GroupNorm(2, 8)

    def forward(self, x: Any) -> Any:
        a = nn.functional.hardswish(self.left(x))
        a = nn.functional.pad(nn.functional.avg_pool2d(a, 2), (1, 0, 0, 1))
        a = nn.functional.interpolate(a, size=(8, 8), mode="bilinear")
        b = nn.functional.leaky_relu(self.right(nn.functional.max_pool2d(a, 2)), 0.1)
        y = self.norm(torch.cat([a, b], dim=1))
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        first, second = y.chunk(2, dim=1)
        return torch.einsum("nchw,nchw->nc", first, second.clamp(-1, 1))[:, 1:]


def shuffle() -> Case:
    return Shuffle(), (torch.randn(2, 3, 8, 8),)


def _image(kind: str, size: int = 32, **config: Any) -> Case:
    configuration = getattr(transformers, f"{kind}Config")(num_labels=5, **config)
    net = getattr(transformers, f"{kind}ForImageClassification")(configuration)
    return _Logits(net), (torch.randn(2, 3, size, size),)


class _Logits(nn.Module):  # type: ignore[misc, name-defined]
    """A model of transformers that returns its logits alone."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Any) -> Any:
        return self.net(*inputs).logits


def mobilenet_v2() -> Case:
    return _image("MobileNetV2", depth_multiplier=0.35, image_size=32, min_depth=8)


def resnet() -> Case:
    return _image("ResNet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2])


def vit() -> Case:
    return _image(
        "ViT",
        image_size=32,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )


def convnext() -> Case:
    return _image("ConvNext", hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 2, 1])


def bert() -> Case:
    configuration = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=3,
    )
    net = transformers.BertForSequenceClassification(configuration)
    return _Logits(net), (torch.randint(0, 50, (2, 9)), torch.ones(2, 9, dtype=torch.int64))


def squeezenet() -> Case:
    class Fire(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
            super().__init__()
            self.squeeze = nn.Conv2d(channels, squeezed, 1)
            self.one = nn.Conv2d(squeezed, expanded, 1)
            self.three = nn.Conv2d(squeezed, expanded, 3, padding=1)

        def forward(self, x: Any) -> Any:
            x = self.squeeze(x).relu()
            return torch.cat([self.one(x).relu(), self.three(x).relu()], 1)

    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(8, 4, 8),
        Fire(16, 4, 8),
        nn.Dropout(),
        nn.Conv2d(16, 5, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return net, (torch.randn(2, 3, 32, 32),)


MODELS: list[Callable[[], Case]] = [
    mlp,
    cnn_1d,
    shuffle,
    squeezenet,
    mobilenet_v2,
    resnet,
    convnext,
    vit,
    bert,
]


def export(case: Case, dynamo: bool, dynamic: bool = True) -> onnx.ModelProto:
    net, inputs = case
    names = [f"x{i}" for i in range(len(inputs))]
    options: dict[str, Any] = {}
    if dynamic and dynamo:
        batch = torch.export.Dim("batch")
        shapes = tuple({0: batch} for _ in inputs)
        options["dynamic_shapes"] = (shapes,) if isinstance(net, _Logits) else shapes
    elif dynamic:
        options["dynamic_axes"] = {name: {0: "batch"} for name in names}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net.eval(),
            inputs,
            None if dynamo else file,
            input_names=names,
            dynamo=dynamo,
            **options,
        )
    return program.model_proto if dynamo else onnx.load_from_string(file.getvalue())


@pytest.mark.parametrize("make", MODELS)
def test_model(make: Callable[[], Case]) -> None:
    check(make, dynamo=False)


@pytest.mark.parametrize("make", [mlp, bert])
def test_model_of_the_newer_exporter(make: Callable[[], Case]) -> None:
    check(make, dynamo=True)


@pytest.mark.slow
@pytest.mark.parametrize("make", [m for m in MODELS if m not in (mlp, bert)])
def test_more_models_of_the_newer_exporter(make: Callable[[], Case]) -> None:
    check(make, dynamo=True)


def check(make: Callable[[], Case], dynamo: bool) -> None:
    torch.manual_seed(0)
    case = make()
    graph = compare(export(case, dynamo), tolerance=1e-4)
    assert {v.shape[0] for v in graph.inputs} == {1009}
    assert graph.params


@pytest.mark.parametrize("make", [mlp, cnn_1d, squeezenet, resnet])
def test_a_fixed_batch_is_freed(make: Callable[[], Case]) -> None:
    case = make()
    graph = import_onnx(export(case, dynamo=False, dynamic=False))
    net, inputs = case
    x = torch.cat([inputs[0], inputs[0] + 1])
    (ours,) = interpret(with_batch(graph, 4), {"x0": x.numpy()}).outputs.values()
    assert_close(ours, net.eval()(x).detach().numpy(), 1e-4)


def test_parameters_keep_pytorch_names() -> None:
    net, _ = case = mlp()
    graph = import_onnx(export(case, dynamo=True))
    assert set(graph.params) == {name for name, _ in net.named_parameters()}


def test_tuned_weights_go_back_into_the_file(tmp_path: Path) -> None:
    model = export(mlp(), dynamo=True)
    graph = import_onnx(model)
    tuned = {name: graph.data[name] * np.float32(1.5) for name in graph.params}
    write_back(model, tuned, tmp_path / "tuned.onnx")
    retuned: Graph = compare(onnx.load(tmp_path / "tuned.onnx"), tolerance=1e-4)
    for name, array in tuned.items():
        np.testing.assert_array_equal(retuned.data[name], array)
