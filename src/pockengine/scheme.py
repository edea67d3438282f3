"""Which parameters are trained, and which share of each.

    {"classifier.weight": 1.0,            the whole tensor
     "features.17.conv.0.0.weight": 0.5,  half of its input channels, those of the largest norm
     "features.16.conv.0.0.weight": (3, 7, 20)}   these input channels

Everything that is not named is frozen, and costs nothing.
"""

import difflib
import fnmatch
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from pockengine import presets, structure
from pockengine.errors import SchemeError
from pockengine.ir.graph import Graph
from pockengine.ir.op import Array, Value
from pockengine.structure import Block, Use

Share = float | tuple[int, ...]  # a ratio in (0, 1], or input-channel indices


_FORMAT, _VERSION = "pockengine.scheme", 1


@dataclass(frozen=True)
class Channels:
    """The part of a parameter that is trained: some indices along one axis, ascending."""

    axis: int
    indices: tuple[int, ...]


@dataclass(frozen=True)
class UpdateScheme:
    """The share of each trained parameter, by the source model's own names. `a | b` trains both.

    `model`, where it is known, is the hash of the structure that the scheme was found for; it then
    fits that model alone, with any weights, head and size of inputs.
    """

    shares: Mapping[str, Share]
    model: str = ""

    def __post_init__(self) -> None:
        checked = {name: _checked(name, share) for name, share in self.shares.items()}
        object.__setattr__(self, "shares", checked)

    # From a graph

    @staticmethod
    def full(graph: Graph) -> "UpdateScheme":
        """Every floating-point parameter."""
        return _whole(name for name, param in graph.params.items() if param.type.is_float)

    @staticmethod
    def head_only(graph: Graph) -> "UpdateScheme":
        """The last weight on the way to each output, with its bias and scale."""
        return _of_uses(structure.head(graph))

    @staticmethod
    def last_blocks(graph: Graph, last: int) -> "UpdateScheme":
        """Everything in the last blocks, the head included."""
        return _of_uses(use for block in _last(graph, last) for use in block.all)

    @staticmethod
    def biases(graph: Graph, last: int | None = None) -> "UpdateScheme":
        """Biases, those of normalisations included, of the last blocks (all when None)."""
        return _of_uses(_in_last(graph, last, lambda use: use.role == "bias"))

    @staticmethod
    def norm_affine(graph: Graph, last: int | None = None) -> "UpdateScheme":
        """Scales and biases of normalisations in the last blocks (all when None)."""
        return _of_uses(_in_last(graph, last, lambda use: use.norm))

    @staticmethod
    def select(graph: Graph, shares: Mapping[str, bool | float | Iterable[int]]) -> "UpdateScheme":
        """Parameters by name or glob. A later entry overrides an earlier one.

        Raises SchemeError for a glob that names nothing, or a share that a parameter cannot have.
        """
        found: dict[str, Share] = {}
        for pattern, share in shares.items():
            names = fnmatch.filter(graph.params, pattern)
            if not names:
                raise SchemeError(_names_nothing(pattern, graph.params))
            found |= {name: _checked(name, share) for name in names}
        scheme = UpdateScheme(found)
        scheme.resolve(graph)
        return scheme

    @staticmethod
    def preset(graph: Graph, preset: str | presets.Preset) -> "UpdateScheme":
        """A scheme that proved itself on a family of models: one of `presets.NAMES`,
        or a preset of your own.

        Raises SchemeError for an unknown name, or a model with too few blocks or weights for it.
        """
        found = presets.load(preset) if isinstance(preset, str) else preset
        return UpdateScheme(found.shares(graph))

    def __or__(self, other: "UpdateScheme") -> "UpdateScheme":
        """Trains what either trains. Raises SchemeError for a ratio met by indices."""
        both = self.shares.keys() & other.shares.keys()
        merged = {n: _union(n, self.shares[n], other.shares[n]) for n in self.shares if n in both}
        return UpdateScheme({**self.shares, **other.shares, **merged}, self.model or other.model)

    def found_for(self, graph: Graph) -> "UpdateScheme":
        """The scheme with the structure of `graph` as the model that it fits."""
        return UpdateScheme(self.shares, structure.structure_hash(graph))

    # For a graph

    def resolve(self, graph: Graph) -> dict[str, Channels | None]:
        """The channels trained of each parameter, None for all of them, in the graph's order.

        A ratio takes the input channels of the largest L2 norm, the earlier one of equals. Raises
        SchemeError for an unknown name, a share that a parameter cannot have, a scheme that trains
        nothing, or one that was found for another model.
        """
        self._check_model(graph)
        if not self.shares:
            raise SchemeError("the scheme trains nothing; name at least one parameter")
        params = graph.params
        for name in self.shares:
            if name not in params:
                raise SchemeError(_names_nothing(name, params))
            if not params[name].type.is_float:
                raise SchemeError(f"{name!r} is {params[name].type}, only floats can be trained")
        found = structure.uses(graph)
        return {
            name: _channels(graph, params[name], found[name], self.shares[name])
            for name in params
            if name in self.shares
        }

    def _check_model(self, graph: Graph) -> None:
        if self.model and (came := structure.structure_hash(graph)) != self.model:
            raise SchemeError(
                f"the scheme was found for a model of structure {self.model}, this one's is "
                f"{came}: its layers differ. Search a scheme for this model; or, to apply the "
                "names as they are, use UpdateScheme(scheme.shares)"
            )

    def describe(self, graph: Graph) -> str:
        """The trainable set as a table: share, numbers trained, percentage of the whole model."""
        params, resolved = graph.params, self.resolve(graph)
        total = sum(param.type.size for param in params.values())
        width = max(map(len, resolved))
        lines, trained = [], 0
        for name, channels in resolved.items():
            type_ = params[name].type
            chosen = len(channels.indices) if channels else 0
            count = type_.size // type_.shape[channels.axis] * chosen if channels else type_.size
            trained += count
            share = f"{chosen}/{type_.shape[channels.axis]} channels" if channels else "all"
            lines.append(f"{name:{width}}  {share!s:>18}  {count:>12,}  {_percent(count, total)}")
        lines.append(f"{'trained':{width}}  {'':>18}  {trained:>12,}  {_percent(trained, total)}")
        lines.append(f"{'of':{width}}  {'':>18}  {total:>12,}")
        return "\n".join(lines)

    # As text

    def to_json(self) -> str:
        """The scheme as JSON; `from_json` is the inverse."""
        document: dict[str, object] = {"format": _FORMAT, "version": _VERSION}
        if self.model:
            document["model"] = self.model
        return json.dumps({**document, "parameters": dict(self.shares)}, indent=1)

    @staticmethod
    def from_json(text: str) -> "UpdateScheme":
        """Reads what `to_json` wrote. Raises SchemeError for anything else."""
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise SchemeError(f"the scheme is not JSON: {error}") from error
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise SchemeError(f'expected a JSON object with "format": "{_FORMAT}"')
        if document.get("version") != _VERSION:
            came = document.get("version")
            raise SchemeError(
                f"this program reads scheme version {_VERSION}, the file has {came!r}"
            )
        if not isinstance(document.get("parameters"), dict):
            raise SchemeError('expected "parameters" to map each parameter name to its share')
        model = document.get("model", "")
        if not isinstance(model, str):
            raise SchemeError(f'expected "model" to be the hash of a structure, got {model!r}')
        return UpdateScheme(document["parameters"], model)


def _whole(names: Iterable[str]) -> UpdateScheme:
    return UpdateScheme(dict.fromkeys(names, 1.0))


def _of_uses(chosen: Iterable[Use]) -> UpdateScheme:
    return _whole(use.name for use in chosen)


def _last(graph: Graph, count: int) -> list[Block]:
    """The last `count` blocks. Raises SchemeError when there are fewer."""
    blocks = structure.blocks(graph)
    if not 1 <= count <= len(blocks):
        raise SchemeError(
            f"the model has {len(blocks)} blocks, the scheme asks for the last {count}"
        )
    return blocks[-count:]


def _in_last(graph: Graph, last: int | None, wanted: Callable[[Use], bool]) -> list[Use]:
    chosen = structure.blocks(graph) if last is None else _last(graph, last)
    return [use for block in chosen for use in block.all if wanted(use)]


# Shares


def _checked(name: str, share: object) -> Share:
    """A share as it is stored. Raises SchemeError for anything but a ratio in (0, 1] or indices."""
    if share is True:
        return 1.0
    if isinstance(share, int | float) and not isinstance(share, bool):
        if not 0 < share <= 1:
            raise SchemeError(f"the ratio of {name!r} must be over 0 and at most 1, got {share}")
        return float(share)
    if not isinstance(share, Iterable) or isinstance(share, str):
        expected = "True, a ratio or a list of channel indices"
        raise SchemeError(f"the share of {name!r} must be {expected}, got {share!r}")
    return _checked_indices(name, tuple(share))


def _checked_indices(name: str, indices: tuple[object, ...]) -> tuple[int, ...]:
    found = tuple(i for i in indices if isinstance(i, int | np.integer) and not isinstance(i, bool))
    if not found or len(found) != len(indices):
        raise SchemeError(f"the channels of {name!r} must be a list of integers, got {indices}")
    if len(set(found)) != len(found):
        raise SchemeError(f"the channels of {name!r} name one channel twice: {indices}")
    return tuple(sorted(map(int, found)))


def _union(name: str, a: Share, b: Share) -> Share:
    if 1.0 in (a, b):
        return 1.0
    if isinstance(a, tuple) and isinstance(b, tuple):
        return tuple(sorted({*a, *b}))
    if isinstance(a, float) and isinstance(b, float):
        return max(a, b)
    raise SchemeError(f"one scheme gives {name!r} a ratio and the other channels; use one kind")


def _channels(graph: Graph, param: Value, use: Use, share: Share) -> Channels | None:
    """The channels of one share. Raises SchemeError when the parameter has no input channels."""
    if share == 1.0:
        return None
    if use.role == "embedding":
        why = "a table whose rows are looked up, not multiplied"
        raise SchemeError(f"{use.name!r} is {why}; train it whole or not at all")
    if use.axis is None:
        raise SchemeError(
            f"{use.name!r} ({use.role}, {param.type}) has no input channels; use True"
        )
    count = param.shape[use.axis]
    if isinstance(share, tuple):
        if not 0 <= min(share) <= max(share) < count:
            raise SchemeError(f"{use.name!r} has input channels 0 to {count - 1}, got {share}")
        return Channels(use.axis, share) if len(share) < count else None
    return _largest(graph.data[use.name], use.axis, share)


def _largest(weight: Array, axis: int, ratio: float) -> Channels | None:
    """A ratio of the channels, at least one, those of the largest L2 norm."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    norms = np.sqrt(np.square(weight.astype(np.float64)).sum(others))
    chosen = np.argsort(-norms, kind="stable")[: max(1, math.floor(ratio * norms.size + 0.5))]
    if chosen.size == norms.size:
        return None
    return Channels(axis, tuple(sorted(chosen.tolist())))


def _names_nothing(pattern: str, params: Iterable[str]) -> str:
    names = list(params)
    close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4) or names[:3]
    return f"{pattern!r} names no parameter of the model; close ones are {', '.join(close)}"


def _percent(count: int, total: int) -> str:
    return f"{100 * count / total:6.2f} %"
