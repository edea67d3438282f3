"""Presets: applied by place to the families' members, found again in schemes, read and refused."""

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
from benchmarks.tasks.vision_networks import EfficientNetLite0
from zoo import _TEXT, _TEXT_HEAD, ZOO, Entry, hugging_face, images, tokens

import pockengine as pe
from pockengine import presets, structure
from pockengine.analysis.candidates import candidates, start_scheme
from pockengine.errors import SchemeError
from pockengine.ir.graph import Graph
from pockengine.presets import Place, Preset, preset_of
from pockengine.scheme import UpdateScheme

OTHERS = {
    "deep_bert": Entry(
        hugging_face("Bert", _TEXT_HEAD, **{**_TEXT, "num_hidden_layers": 6}), tokens(types=True)
    ),
    "lite0": Entry(lambda: EfficientNetLite0(5), images(32), frozen=True),
}
MEMBERS = {
    "bert": "deep_bert",
    "bottleneck": "resnet50",
    "distilbert": "bert",
    "efficientnet_lite": "lite0",
    "inverted_bottleneck": "efficientnet",
    "minilm": "deep_bert",
    "resnet_basic": "resnet18",
    "vit": "deit",
}


@cache
def graph_of(name: str) -> Graph:
    entry = OTHERS.get(name) or ZOO[name]
    return pe.import_torch(entry.model(), entry.batch(2, 0)[0])


def weights_of(graph: Graph, scheme: UpdateScheme) -> list[str]:
    """The weights that a scheme trains outside the head."""
    return [c.name for c in candidates(graph) if c.name in scheme.shares]


# By place


@pytest.mark.parametrize("name", ["hf_mobilenetv2", "efficientnet"])
def test_inverted_bottlenecks_expand(name: str) -> None:
    graph = graph_of(name)
    scheme = UpdateScheme.preset(graph, "inverted_bottleneck")
    found = weights_of(graph, scheme)
    assert len(found) == 7 and all("expan" in weight for weight in found)
    assert scheme.shares.keys() >= UpdateScheme.biases(graph, 7).shares.keys()
    assert scheme.shares.keys() >= UpdateScheme.head_only(graph).shares.keys()


def test_bottlenecks_reduce() -> None:
    graph = graph_of("resnet50")
    found = weights_of(graph, UpdateScheme.preset(graph, "bottleneck"))
    assert found == [f"blocks.{i}.reduce.0.weight" for i in range(8)]


@pytest.mark.parametrize(
    "name, ending",
    [
        ("bert", "output.dense.weight"),
        ("distilbert", "lin2.weight"),
        ("roberta", "output.dense.weight"),
        ("vit", "mlp.fc2.weight"),
    ],
)
def test_transformers_of_other_names(name: str, ending: str) -> None:
    graph = graph_of(name)
    scheme = UpdateScheme.preset(graph, "distilbert")
    found = weights_of(graph, scheme)
    layers = [structure.blocks(graph)[i].uses for i in (-2, -1)]
    expected = [[use.name for use in uses if use.role == "weight"] for uses in layers]
    assert found == expected[0][:5] + expected[1][:5]
    assert all(uses[5].endswith(ending) for uses in expected)


@pytest.mark.parametrize("name", presets.NAMES)
def test_the_library_knows_a_member_of_each_family(name: str) -> None:
    """What a preset trains has its places again."""
    graph, preset = graph_of(MEMBERS[name]), presets.load(name)
    again = preset_of(graph, UpdateScheme.preset(graph, name).shares, name)
    assert (again.biases, set(again.weights)) == (preset.biases, set(preset.weights))


def test_too_few_blocks() -> None:
    words = "the preset 'bert' is for models of at least 6 blocks, this one has 3"
    with pytest.raises(SchemeError, match=words):
        UpdateScheme.preset(graph_of("bert"), "bert")


def test_too_few_weights() -> None:
    preset = Preset("own", "", 0, (Place(-1, 2, "convolution"),))
    words = re.escape(
        "the preset 'own' expects weight 2 (from 0) of block -1 to be a convolution; this model's "
        "'blocks.7' has blocks.7.conv1.0.weight (convolution), blocks.7.conv2.0.weight (convolu"
    )
    with pytest.raises(SchemeError, match=words):
        UpdateScheme.preset(graph_of("resnet18"), preset)


def test_another_family() -> None:
    words = "weight 0 .from 0. of block -1 to be a pointwise; .* has blocks.7.conv1.0.weight .conv"
    with pytest.raises(SchemeError, match=words):
        UpdateScheme.preset(graph_of("resnet18"), "bottleneck")
    with pytest.raises(SchemeError, match=r"block -1 to be a matrix; .* none outside the head"):
        UpdateScheme.preset(graph_of("mlp"), Preset("own", "", 0, (Place(-1, 0, "matrix"),)))


# Places of a scheme


@pytest.mark.parametrize("name", ["efficientnet", "resnet18", "bert", "vit", "mlp"])
def test_a_scheme_is_found_again(name: str) -> None:
    graph = graph_of(name)
    found = candidates(graph)
    some = {c.name: c.ratios[i % len(c.ratios)] for i, c in enumerate(found) if i % 3}
    scheme = start_scheme(graph, 2) | UpdateScheme(some)
    preset = preset_of(graph, scheme.shares, "own")
    assert preset.biases == 2 and len(preset.weights) == len(some)
    assert UpdateScheme.preset(graph, Preset.from_json(preset.to_json())) == scheme


def test_channels_by_number_have_no_place() -> None:
    graph = graph_of("mlp")
    shares = {**UpdateScheme.head_only(graph).shares, "fc1.weight": (0, 3)}
    with pytest.raises(SchemeError, match=r"channels of 'fc1.weight' by number, .* needs a ratio"):
        preset_of(graph, shares, "own")


@pytest.mark.parametrize(
    "shares, differs",
    [
        (lambda g: UpdateScheme.full(g), "blocks.0.conv1.1.weight"),  # scales of norms
        (lambda g: UpdateScheme({"blocks.7.conv2.1.bias": True}), "blocks.7.conv1.1.bias"),
        (lambda g: UpdateScheme({"blocks.7.conv2.0.weight": True}), "fc.bias, fc.weight"),
    ],
)
def test_what_has_no_place(shares: Any, differs: str) -> None:
    graph = graph_of("resnet18")
    words = f"the scheme differs in .*{re.escape(differs)}"
    with pytest.raises(SchemeError, match=words):
        preset_of(graph, shares(graph).shares, "own")


# The library's files


@pytest.mark.parametrize("name", presets.NAMES)
def test_a_file_is_as_it_is_written(name: str) -> None:
    text = files(presets).joinpath(f"{name}.json").read_text(encoding="utf-8")
    found = Preset.from_json(text)
    assert found.to_json() == text
    assert found.name == name and found.about.endswith(".")


@pytest.mark.parametrize("name", presets.NAMES)
def test_evidence_is_there(name: str) -> None:
    evidence = presets.load(name).evidence
    measured = evidence.get("measured", {})
    for figures in measured.values():
        kinds = [figures[kind] for kind in ("head", "preset", "full")]
        assert all(len(kind["accuracy"]) == 3 for kind in kinds)
        assert kinds[1]["extra_bytes"] < kinds[2]["extra_bytes"]
    if "publication" not in evidence:
        assert evidence["found_on"] in measured and len(measured) == 2
        assert evidence["predicted_gain"] > 0 and evidence["analysis"]["model"]
        assert all(one["low"] <= one["mean"] <= one["high"] for one in evidence["contributions"])


PLACE = {"block": -1, "weight": 0, "kind": "matrix", "share": 0.5}
GOOD = {
    "format": "pockengine.preset",
    "name": "own",
    "about": "Mine.",
    "biases": 1,
    "weights": [PLACE],
    "evidence": {},
}


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "the preset is not JSON: "),
        ("[]", 'expected a JSON object with "format": "pockengine.preset"'),
        ('{"format": "pockengine.scheme"}', 'with "format": "pockengine.preset"'),
        ('{"format": "pockengine.preset"}', "the fields name, about, biases, .*; got none"),
        ({"more": 1}, "the preset has the fields name, .*, evidence; got name, .*, more"),
        ({"biases": "all"}, "the preset's \"biases\" is no int: 'all'"),
        ({"biases": True}, 'the preset\'s "biases" is no int: True'),
        ({"biases": -1}, 'the preset\'s "biases" is a number of blocks, got -1'),
        ({"weights": ["fc"]}, "the preset's \"weights\" are objects, got 'fc'"),
        ({"weights": [{"block": -1}]}, "a place has the fields block, .*, share; got block"),
        ({"weights": [{**PLACE, "block": 0}]}, "a place has a block below 0, .*block=0"),
        ({"weights": [{**PLACE, "share": 10**400}]}, "a place has a block below 0"),
        ({"weights": [{**PLACE, "share": 1.5}]}, "a share over 0 and at most 1, got .*share=1.5"),
        ({"weights": [PLACE, PLACE]}, "the preset names one weight twice"),
    ],
)
def test_bad_files_are_refused(text: Any, words: str) -> None:
    given = text if isinstance(text, str) else json.dumps(GOOD | text)
    with pytest.raises(SchemeError, match=words):
        Preset.from_json(given)


def test_whole_numbers_are_shares_too() -> None:
    text = json.dumps({**GOOD, "weights": [{**PLACE, "share": 1}]})
    assert Preset.from_json(text).weights == (Place(-1, 0, "matrix", 1.0),)
