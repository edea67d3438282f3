"""Schemes that proved themselves on a family of models, by place instead of by name.

    {"format": "pockengine.preset", "name": "bert", "about": "BERT-base and its kin: ...",
     "biases": 6,
     "weights": [{"block": -1, "weight": 0, "kind": "matrix", "share": 0.5},
                 {"block": -2, "weight": 4, "kind": "matrix", "share": 1.0}],
     "evidence": {...}}

This one trains the biases of the last 6 blocks, and half of the first weight of the last block.
Blocks are counted from the end, and the weights of a block in order of use, so a preset fits models
of the family with other names, widths and numbers of classes. The kind tells a model of many
another family, but not one transformer from another. The head is trained whole by every preset.
The library is the JSON files beside this one.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from pockengine import structure
from pockengine.errors import SchemeError
from pockengine.ir.graph import Graph
from pockengine.ops.conv import Conv, ConvInputGrad
from pockengine.structure import Block, Use

FORMAT = "pockengine.preset"
_FIELDS = {"name": str, "about": str, "biases": int, "weights": list, "evidence": dict}
_PLACE = {"block": int, "weight": int, "kind": str, "share": float}
_INNERMOST, _BREAK = re.compile(r"[\[{][^\[\]{}]+[\]}]"), re.compile(r"\n *")


@dataclass(frozen=True)
class Place:
    """A share of one weight: `block` counts back from -1, `weight` on from 0; `kind` is one of
    table, depthwise, pointwise, convolution and matrix."""

    block: int
    weight: int
    kind: str
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.block >= 0 or self.weight < 0 or not 0 < self.share <= 1:
            raise SchemeError(
                "a place has a block below 0, a weight from 0 on and a share over 0 and at most "
                f"1, got {self}"
            )
        object.__setattr__(self, "share", float(self.share))


@dataclass(frozen=True)
class Preset:
    """Trains the head, the biases of the last `biases` blocks, and the weights at some places."""

    name: str
    about: str
    biases: int
    weights: tuple[Place, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def shares(self, graph: Graph) -> dict[str, float]:
        """The share of each parameter that is trained, by the model's own names.

        Raises SchemeError for a model with too few blocks, or too few weights in one.
        """
        blocks, head = structure.blocks(graph), structure.head(graph)
        needed = max([self.biases, *(-place.block for place in self.weights)])
        if needed > len(blocks):
            raise SchemeError(
                f"the preset {self.name!r} is for models of at least {needed} blocks, this one has "
                f"{len(blocks)}"
            )
        last = blocks[len(blocks) - self.biases :]
        found = {use.name: 1.0 for use in [*head, *_biases(last)]}
        for place in self.weights:
            found[self._weight(blocks[place.block], place, head)] = place.share
        return found

    def _weight(self, block: Block, place: Place, head: list[Use]) -> str:
        weights = _weights(block, head)
        if place.weight < len(weights) and _kind(use := weights[place.weight]) == place.kind:
            return use.name
        came = ", ".join(f"{use.name} ({_kind(use)})" for use in weights) or "none outside the head"
        raise SchemeError(
            f"the preset {self.name!r} expects weight {place.weight} (from 0) of block "
            f"{place.block} to be a {place.kind}; this model's {block.name!r} has {came}"
        )

    def to_json(self) -> str:
        """The preset as JSON, what is nested no further on one line; `from_json` is the inverse."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1)
        return _INNERMOST.sub(lambda found: _BREAK.sub(" ", found[0]), text) + "\n"

    @staticmethod
    def from_json(text: str) -> "Preset":
        """Reads what `to_json` wrote. Raises SchemeError for anything else."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SchemeError(f"the preset is not JSON: {error}") from error
        if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
            raise SchemeError(f'expected a JSON object with "format": "{FORMAT}"')
        given = _checked(document, _FIELDS, "the preset")
        if given["biases"] < 0:
            raise SchemeError(
                f'the preset\'s "biases" is a number of blocks, got {given["biases"]}'
            )
        weights = tuple(_place(place) for place in given.pop("weights"))
        if len({(p.block, p.weight) for p in weights}) < len(weights):
            raise SchemeError("the preset names one weight twice")
        return Preset(weights=weights, **given)


def preset_of(graph: Graph, shares: Mapping[str, Any], name: str, about: str = "") -> Preset:
    """The places of a scheme's `shares`: what `Preset.shares` turns into the scheme again.

    Raises SchemeError for a scheme that has no such places: with channels by number, or with
    anything beside the head, the biases of whole last blocks, and weights.
    """
    blocks, head = structure.blocks(graph), structure.head(graph)
    if numbered := [n for n, share in shares.items() if not isinstance(share, int | float)]:
        raise SchemeError(
            f"the scheme names the channels of {numbered[0]!r} by number, which means nothing in "
            "another model; a preset needs a ratio"
        )
    own = [{use.name for use in _biases([block])} - {use.name for use in head} for block in blocks]
    biases = max((len(own) - i for i, names in enumerate(own) if names & shares.keys()), default=0)
    weights = tuple(
        Place(i - len(blocks), j, _kind(use), shares[use.name])
        for i, block in enumerate(blocks)
        for j, use in enumerate(_weights(block, head))
        if use.name in shares
    )
    found = Preset(name, about, biases, weights)
    if different := sorted(found.shares(graph).items() ^ shares.items()):
        names = ", ".join(dict.fromkeys(n for n, _ in different[:5]))
        raise SchemeError(
            "a preset trains the whole head, the biases of whole last blocks, and weights; the "
            f"scheme differs in {names}"
        )
    return found


# The library


def _names() -> tuple[str, ...]:
    found = (path.name for path in files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in found if name.endswith(".json")))


NAMES = _names()


@cache
def load(name: str) -> Preset:
    """The preset with this name. Raises SchemeError where there is none."""
    if name not in NAMES:
        raise SchemeError(f"no preset is named {name!r}; there are {', '.join(NAMES)}")
    return Preset.from_json(files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8"))


def _biases(blocks: list[Block]) -> Iterator[Use]:
    return (use for block in blocks for use in block.all if use.role == "bias")


def _weights(block: Block, head: list[Use]) -> list[Use]:
    return [use for use in block.all if use.weighted and use not in head]


def _kind(use: Use) -> str:
    """What a weight is, whatever its size."""
    if use.role == "embedding":
        return "table"
    op = use.user.op
    if not isinstance(op, Conv | ConvInputGrad):
        return "matrix"
    if use.pointwise:
        return "pointwise"
    alone = isinstance(op, Conv) and op.groups > 1 and use.user.inputs[1].shape[1] == 1
    return "depthwise" if alone else "convolution"


# Reading


def _place(given: object) -> Place:
    if not isinstance(given, dict):
        raise SchemeError(f'the preset\'s "weights" are objects, got {given!r}')
    _checked(given, _PLACE, "a place")
    return Place(**given)


def _checked(given: Mapping[str, Any], kinds: Mapping[str, type], what: str) -> dict[str, Any]:
    """The fields of an object. Raises SchemeError for a missing, unknown or wrong one."""
    if given.keys() != kinds.keys():
        expected, came = ", ".join(kinds), ", ".join(given) or "none"
        raise SchemeError(f"{what} has the fields {expected}; got {came}")
    for name, kind in kinds.items():
        if type(given[name]) not in (kind, int if kind is float else kind):
            raise SchemeError(f'{what}\'s "{name}" is no {kind.__name__}: {given[name]!r}')
    return dict(given)
