"""Schemes: what each constructor finds in a model's structure, JSON, and refusals in words."""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

import pockengine as pe
from pockengine import structure
from pockengine.errors import SchemeError
from pockengine.ir.graph import Graph, Input, Param, leaf
from pockengine.ir.op import Value
from pockengine.ir.types import TensorType
from pockengine.ops.build import add, gather, matmul, mul, reduce_mean, relu, reshape, transpose
from pockengine.ops.conv import Conv, ConvInputGrad
from pockengine.ops.norm import layer_norm
from pockengine.scheme import Channels, UpdateScheme


class Builder:
    """Makes layers the way that front ends do, with random weights under the given names."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.data: dict[str, np.ndarray] = {}

    def param(self, name: str, *shape: int) -> Value:
        self.data[name] = self.rng.standard_normal(shape).astype(np.float32)
        return leaf(Param, name, self.data[name])

    def conv(self, x: Value, name: str, out: int, kernel: int = 1, groups: int = 1) -> Value:
        w = self.param(f"{name}.weight", out, x.shape[1] // groups, kernel, kernel)
        pad = (kernel // 2,) * 2
        y = Conv((1, 1), (pad, pad), (1, 1), groups, False)(x, w)
        return add(y, reshape(self.param(f"{name}.bias", out), (out, 1, 1)))

    def linear(self, x: Value, name: str, out: int) -> Value:
        w = self.param(f"{name}.weight", out, x.shape[-1])
        return add(matmul(x, w, transpose_b=True), self.param(f"{name}.bias", out))

    def norm(self, x: Value, name: str) -> Value:
        gamma, beta = (self.param(f"{name}.{s}", x.shape[-1]) for s in ("weight", "bias"))
        return layer_norm(x, 1, gamma, beta)

    def graph(self, x: Value, y: Value) -> Graph:
        return Graph((x,), {"logits": y}, {}, self.data)


def mobile(depth: int = 4) -> Graph:
    """Stem, inverted bottlenecks with skips, last convolution, pooling, classifier."""
    b = Builder()
    x = leaf(Input, "x", TensorType("f32", (2, 3, 4, 4)))
    h = relu(b.conv(x, "features.0.0", 4, 3))
    for i in range(1, depth + 1):
        y = relu(b.conv(h, f"features.{i}.conv.0.0", 8))
        y = relu(b.conv(y, f"features.{i}.conv.1.0", 8, 3, groups=8))
        h = add(h, b.conv(y, f"features.{i}.conv.2", 4))
    h = relu(b.conv(h, f"features.{depth + 1}.0", 6))
    return b.graph(x, b.linear(reduce_mean(h, (2, 3)), "classifier.1", 5))


def bert(depth: int = 3) -> Graph:
    """Embedding, post-norm encoder layers, pooler, classifier."""
    b = Builder()
    ids = leaf(Input, "ids", TensorType("i64", (2, 3)))
    h = gather(b.param("bert.embeddings.word.weight", 11, 4), ids, axis=0)
    h = add(h, b.param("bert.embeddings.position", 3, 4))
    h = b.norm(h, "bert.embeddings.norm")
    for i in range(depth):
        at = f"bert.encoder.layer.{i}"
        q, k, v = (b.linear(h, f"{at}.attention.{s}", 4) for s in ("query", "key", "value"))
        a = matmul(matmul(q, k, transpose_b=True), v)
        h = b.norm(add(h, b.linear(a, f"{at}.attention.output", 4)), f"{at}.attention.norm")
        f = b.linear(relu(b.linear(h, f"{at}.up", 8)), f"{at}.down", 4)
        h = b.norm(add(h, f), f"{at}.norm")
    h = relu(b.linear(reduce_mean(h, (1,)), "bert.pooler.dense", 4))
    return b.graph(ids, b.linear(h, "classifier", 2))


def names(scheme: UpdateScheme) -> list[str]:
    assert set(scheme.shares.values()) == {1.0}
    return sorted(scheme.shares)


def under(graph: Graph, *prefixes: str, ending: str = "") -> list[str]:
    return sorted(n for n in graph.params if n.startswith(prefixes) and n.endswith(ending))


# Structure


def test_blocks_are_the_numbered_modules() -> None:
    assert [b.name for b in structure.blocks(mobile())] == [f"features.{i}" for i in range(6)]
    found = [b.name for b in structure.blocks(bert())]
    assert found[-3:] == [f"bert.encoder.layer.{i}" for i in range(3)]


def test_stages_are_opened_and_squeeze_excite_modules_are_not() -> None:
    b = Builder()
    x = leaf(Input, "x", TensorType("f32", (2, 3)))
    h = b.linear(x, "stem", 4)
    for stage in range(2):
        for i in range(2):
            at = f"stage{stage}.{i}.block"
            h = b.linear(b.linear(h, f"{at}.0", 4), f"{at}.1.fc1", 4)
            h = b.linear(b.linear(h, f"{at}.1.fc2", 4), f"{at}.2", 4)
    found = structure.blocks(b.graph(x, b.linear(h, "fc", 2)))
    assert [block.name for block in found] == [
        "stem",
        *(f"stage{stage}.{i}" for stage in range(2) for i in range(2)),
    ]
    assert [use.name for use in found[-1].tail] == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("pattern", ["fc{}", "onnx::MatMul_{}", "weights{}"])
def test_without_repeated_modules_each_weight_is_a_block(pattern: str) -> None:
    b = Builder()
    x = h = leaf(Input, "x", TensorType("f32", (2, 3)))
    for i in range(3):
        w, bias = b.param(pattern.format(i), 3, 3), b.param(pattern.format(i) + "_b", 3)
        h = relu(add(matmul(h, w), bias))
    blocks = structure.blocks(b.graph(x, h))
    assert [[u.name for u in block.all] for block in blocks] == [
        [pattern.format(i), pattern.format(i) + "_b"] for i in range(3)
    ]


def test_nameless_weights_are_grouped_by_where_their_operators_came_from() -> None:
    b = Builder()
    x = h = leaf(Input, "x", TensorType("f32", (2, 3)))
    for i in range(3):
        for j in range(2):
            w = b.param(f"onnx::MatMul_{2 * i + j}", 3, 3)
            source = f"/layers/layers.{i}/fc{j}/MatMul"
            h = relu(type(matmul(h, w).op)(False, False)(h, w, source=source))
    found = structure.blocks(b.graph(x, h))
    assert [block.name for block in found] == [f"layers.{i}" for i in range(3)]


def test_roles_and_input_channel_axes() -> None:
    b = Builder()
    x = leaf(Input, "x", TensorType("f32", (2, 4, 5, 5)))
    same, one = ((1, 1), (1, 1)), (1, 1)
    h = Conv(one, same, one, 1, False)(x, b.param("conv", 6, 4, 3, 3))
    h = Conv(one, same, one, 6, False)(h, b.param("depthwise", 6, 1, 3, 3))
    h = Conv(one, same, one, 2, False)(h, b.param("grouped", 8, 3, 3, 3))
    h = ConvInputGrad(one, same, one, 1, False, size=(5, 5))(h, b.param("transposed", 8, 2, 3, 3))
    h = mul(reduce_mean(h, (2, 3)), b.param("layer_scale", 2))
    h = matmul(h, b.param("plain", 2, 7))
    h = matmul(h, b.param("turned", 3, 7), transpose_b=True)
    h = matmul(h, transpose(b.param("viewed", 4, 3), (1, 0)))
    h = add(h, b.param("position", 2, 4))
    h = b.norm(h, "norm")
    found = structure.uses(b.graph(x, h))
    axes = {name: (use.role, use.axis) for name, use in found.items()}
    assert axes == {
        "conv": ("weight", 1),
        "depthwise": ("weight", 0),
        "grouped": ("weight", 1),
        "transposed": ("weight", 0),
        "layer_scale": ("scale", None),
        "plain": ("weight", 0),
        "turned": ("weight", 1),
        "viewed": ("weight", 1),
        "position": ("other", None),
        "norm.weight": ("scale", None),
        "norm.bias": ("bias", None),
    }
    assert [name for name, use in found.items() if use.norm] == ["norm.weight", "norm.bias"]


# Constructors


def test_full_is_everything() -> None:
    graph = mobile()
    assert names(UpdateScheme.full(graph)) == sorted(graph.params)


def test_head_only() -> None:
    expected = ["classifier.1.bias", "classifier.1.weight"]
    assert names(UpdateScheme.head_only(mobile())) == expected
    assert names(UpdateScheme.head_only(bert())) == ["classifier.bias", "classifier.weight"]


def test_the_head_of_a_model_that_ends_in_a_norm() -> None:
    b = Builder()
    x = leaf(Input, "x", TensorType("f32", (2, 3)))
    h = add(b.linear(x, "a", 3), x)
    graph = b.graph(x, b.norm(add(b.linear(h, "b", 3), h), "norm"))
    assert names(UpdateScheme.head_only(graph)) == [
        "b.bias",
        "b.weight",
        "norm.bias",
        "norm.weight",
    ]


def test_last_blocks_hold_what_follows_them() -> None:
    graph = mobile()
    expected = under(graph, "features.4.", "features.5.", "classifier")
    assert names(UpdateScheme.last_blocks(graph, 2)) == expected
    graph = bert()
    expected = under(graph, "bert.encoder.layer.2.", "bert.pooler", "classifier")
    assert names(UpdateScheme.last_blocks(graph, 1)) == expected


def test_biases() -> None:
    graph = mobile()
    assert names(UpdateScheme.biases(graph)) == under(graph, "", ending=".bias")
    expected = under(graph, "features.4.", "features.5.", "classifier", ending=".bias")
    assert names(UpdateScheme.biases(graph, last=2)) == expected
    graph = bert()
    expected = under(graph, "bert.encoder.layer.2.", "bert.pooler", "classifier", ending="bias")
    assert names(UpdateScheme.biases(graph, last=1)) == expected


def test_norm_affine() -> None:
    graph = bert()
    expected = sorted(n for n in graph.params if ".norm." in n)
    assert names(UpdateScheme.norm_affine(graph)) == expected
    expected = [n for n in expected if "layer.2" in n]
    assert names(UpdateScheme.norm_affine(graph, last=1)) == expected


def test_inverted_bottleneck_preset() -> None:
    graph = mobile(depth=8)
    blocks = [f"features.{i}." for i in range(3, 10)]
    expected = {f"features.{i}.conv.0.0.weight" for i in range(3, 9)} | {"features.9.0.weight"}
    expected |= {"classifier.1.weight", *under(graph, *blocks, "classifier", ending=".bias")}
    assert names(UpdateScheme.preset(graph, "inverted_bottleneck")) == sorted(expected)


def test_distilbert_preset() -> None:
    graph = bert(depth=4)
    weights = [
        f"bert.encoder.layer.{i}.{w}.weight"
        for i in (2, 3)
        for w in ("attention.query", "attention.key", "attention.value", "attention.output", "up")
    ]
    blocks = [f"bert.encoder.layer.{i}." for i in (1, 2, 3)]
    biases = under(graph, *blocks, "bert.pooler", "classifier", ending=".bias")
    expected = sorted([*weights, *biases, "classifier.weight"])
    assert names(UpdateScheme.preset(graph, "distilbert")) == expected


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(
        SchemeError, match=r"no preset is named 'vgg'; there are .*bert, bottleneck"
    ):
        UpdateScheme.preset(mobile(), "vgg")


def test_select_by_glob() -> None:
    graph = mobile()
    shares = {"features.*.conv.0.0.weight": 0.5, "features.4.conv.0.0.weight": True}
    found = UpdateScheme.select(graph, shares | {"classifier.1.weight": [3, 1]}).shares
    assert found == {
        "features.1.conv.0.0.weight": 0.5,
        "features.2.conv.0.0.weight": 0.5,
        "features.3.conv.0.0.weight": 0.5,
        "features.4.conv.0.0.weight": 1.0,
        "classifier.1.weight": (1, 3),
    }


# Union


def test_union() -> None:
    a = UpdateScheme({"w": 0.5, "v": (0, 2), "u": (1,)})
    b = UpdateScheme({"w": 0.25, "v": (1, 2), "u": True, "t": True})
    assert (a | b).shares == {"w": 0.5, "v": (0, 1, 2), "u": 1.0, "t": 1.0}
    with pytest.raises(SchemeError, match="gives 'w' a ratio and the other channels"):
        _ = a | UpdateScheme({"w": (0,)})


# Resolving


def fc() -> Graph:
    b = Builder()
    x = leaf(Input, "x", TensorType("f32", (2, 4)))
    graph = b.graph(x, b.linear(x, "fc", 3))
    graph.data["fc.weight"][:] = np.array([3.0, 5.0, 5.0, 1.0])
    return graph


@pytest.mark.parametrize(
    ("ratio", "indices"), [(0.25, (1,)), (0.5, (1, 2)), (0.75, (0, 1, 2)), (0.01, (1,))]
)
def test_a_ratio_takes_the_largest_and_the_earlier_of_equals(ratio: float, indices: tuple) -> None:
    found = UpdateScheme({"fc.weight": ratio}).resolve(fc())
    assert found == {"fc.weight": Channels(1, indices)}


def test_all_channels_are_the_whole_tensor() -> None:
    assert UpdateScheme({"fc.weight": range(4)}).resolve(fc()) == {"fc.weight": None}
    assert UpdateScheme({"fc.weight": 0.99}).resolve(fc()) == {"fc.weight": None}


def test_the_order_is_the_graph_s() -> None:
    scheme = UpdateScheme({"fc.bias": True, "fc.weight": True})
    assert list(scheme.resolve(fc())) == list(fc().params)


def test_describe() -> None:
    text = UpdateScheme({"fc.weight": 0.5, "fc.bias": True}).describe(fc())
    rows = [re.split(r"\s{2,}", line) for line in text.splitlines()]
    assert rows == [
        ["fc.weight", "2/4 channels", "6", "40.00 %"],
        ["fc.bias", "all", "3", "20.00 %"],
        ["trained", "9", "60.00 %"],
        ["of", "15"],
    ]


# JSON


def test_json_round_trip() -> None:
    scheme = UpdateScheme({"a": True, "b": 0.5, "c": (0, 3)})
    text = scheme.to_json()
    assert UpdateScheme.from_json(text) == scheme
    assert json.loads(text)["parameters"] == {"a": 1.0, "b": 0.5, "c": [0, 3]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the scheme is not JSON"),
        ("[]", 'expected a JSON object with "format": "pockengine.scheme"'),
        ('{"format": "other"}', "expected a JSON object"),
        ('{"format": "pockengine.scheme", "version": 9}', "reads scheme version 1, the file has 9"),
        (
            '{"format": "pockengine.scheme", "version": 1, "parameters": []}',
            'expected "parameters" to map each parameter name to its share',
        ),
        (
            '{"format": "pockengine.scheme", "version": 1, "parameters": {"a": "half"}}',
            "the share of 'a' must be True, a ratio or a list of channel indices, got 'half'",
        ),
    ],
)
def test_damaged_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        UpdateScheme.from_json(text)


# Refusals


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (0.0, "the ratio of 'w' must be over 0 and at most 1, got 0.0"),
        (1.5, "must be over 0 and at most 1, got 1.5"),
        (float("nan"), "must be over 0 and at most 1, got nan"),
        (False, "the share of 'w' must be True, a ratio or a list of channel indices, got False"),
        ((), "the channels of 'w' must be a list of integers"),
        ((0, 1.5), "the channels of 'w' must be a list of integers"),
        ((1, 1), r"the channels of 'w' name one channel twice: \(1, 1\)"),
    ],
)
def test_impossible_shares_are_refused(share: object, message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        UpdateScheme({"w": share})


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({}, "the scheme trains nothing; name at least one parameter"),
        ({"fc.wieght": True}, "'fc.wieght' names no parameter .* close ones are fc.weight"),
        ({"fc.bias": 0.5}, r"'fc.bias' \(bias, f32\[3\]\) has no input channels; use True"),
        ({"fc.weight": (0, 4)}, r"'fc.weight' has input channels 0 to 3, got \(0, 4\)"),
        ({"fc.weight": (-1,)}, "has input channels 0 to 3"),
    ],
)
def test_what_the_model_does_not_have_is_refused(shares: dict, message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        UpdateScheme(shares).resolve(fc())


def test_a_glob_that_names_nothing_is_refused() -> None:
    with pytest.raises(SchemeError, match=r"'layer4\.\*' names no parameter of the model; close"):
        UpdateScheme.select(fc(), {"layer4.*": True})


def test_a_share_of_an_embedding_is_refused() -> None:
    message = "a table whose rows are looked up, not multiplied; train it whole or not at all"
    with pytest.raises(SchemeError, match=message):
        UpdateScheme.select(bert(), {"bert.embeddings.word.weight": 0.5})


@pytest.mark.parametrize("last", [0, 7])
def test_more_blocks_than_there_are_is_refused(last: int) -> None:
    message = f"the model has 6 blocks, the scheme asks for the last {last}"
    with pytest.raises(SchemeError, match=message):
        UpdateScheme.last_blocks(mobile(), last)


def test_a_found_scheme_fits_its_model_with_another_head_and_no_other_model() -> None:
    def network(classes: int, width: int = 8) -> Graph:
        body = [nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 8, 3), nn.ReLU()]
        model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
        return pe.import_torch(model, (torch.randn(2, 3, 12, 12),))

    graph = network(4)
    scheme = UpdateScheme.select(graph, {"2.weight": 0.5}).found_for(graph)
    again = UpdateScheme.from_json(scheme.to_json())
    assert again == scheme and again.model
    assert again.resolve(network(9)).keys() == {"2.weight"}
    with pytest.raises(SchemeError, match=r"found for a model of structure \w{16}, this one's is"):
        again.resolve(network(4, width=9))
    with pytest.raises(SchemeError, match=r'expected "model" to be the hash of a structure, got 3'):
        UpdateScheme.from_json(scheme.to_json().replace(f'"{scheme.model}"', "3"))
