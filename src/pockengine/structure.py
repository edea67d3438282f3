"""What the parameters of an imported model are for, found from how the graph uses them.

    role      weight, embedding (a looked-up table), bias (added), scale (multiplied) or other
    axis      the axis of a weight along which its input channels lie
    block     the repeated unit of the model that it belongs to, and the unit's number

Names serve only to group: a block is a module with alike siblings (`layer4.0`, `layer4.1`), and a
model without such modules, or whose weights have no names, has one block for each weight.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pockengine.ir.graph import Graph, Param, topological
from pockengine.ir.op import Op, Value
from pockengine.ops.conv import Conv, ConvInputGrad
from pockengine.ops.elementwise import Add, Cast, Mul, Sub
from pockengine.ops.index import Gather
from pockengine.ops.matmul import MatMul
from pockengine.ops.norm import BatchNorm, Normalize, RmsNormalize
from pockengine.ops.shape import BroadcastTo, Reshape, Transpose

Role = Literal["weight", "embedding", "bias", "scale", "other"]
Path = tuple[str, ...]

_RANK: tuple[Role, ...] = ("weight", "embedding", "bias", "scale", "other")
_MOVES = (Reshape, Transpose, BroadcastTo, Cast)
_NUMBERED = re.compile(r"(.*?)\d+[a-z]?")
_ALIKE = 0.5  # share of inner weights that two siblings must have in common to be called repeated


@dataclass(frozen=True)
class Use:
    """How the graph uses one parameter. Of several uses the first role in the list above counts."""

    name: str
    role: Role
    user: Value  # the value that reads the parameter, or a transposed or reshaped view of it
    position: int  # of `user` in the order of computation
    axis: int | None = None  # input-channel axis of a weight, in the parameter's own layout
    norm: bool = False  # scale or bias of a normalisation

    @property
    def weighted(self) -> bool:
        return self.role in ("weight", "embedding")

    @property
    def pointwise(self) -> bool:
        """Whether it is the weight of a 1x1 convolution."""
        shape = self.user.inputs[1].shape if isinstance(self.user.op, Conv) else ()
        return self.role == "weight" and bool(shape) and shape[2:] == (1,) * len(shape[2:])


@dataclass(frozen=True)
class Block:
    """The uses that belong to one unit of the model, in order; `tail` comes after the last unit."""

    name: str
    uses: tuple[Use, ...]
    tail: tuple[Use, ...] = ()

    @property
    def all(self) -> tuple[Use, ...]:
        return self.uses + self.tail


# Uses


def uses(graph: Graph) -> dict[str, Use]:
    """How each parameter of an imported (channels-first) graph is used, in order of first use."""
    users = graph.users()
    position = {value: i for i, value in enumerate(users)}
    normal = _normalised(list(users))
    found: list[Use] = []
    for param in graph.params.values():
        axes = tuple(range(len(param.shape)))
        for user, i, seen in _readers(param, axes, users):
            found.append(_use(param, user, i, seen, position[user], normal))
    found.sort(key=lambda use: (_RANK.index(use.role), use.position))
    best: dict[str, Use] = {}
    for use in found:
        best.setdefault(use.name, use)
    return dict(sorted(best.items(), key=lambda item: item[1].position))


Axes = tuple[int | None, ...]  # for each axis of a view, the axis of the parameter that it is


def _readers(
    value: Value, axes: Axes, users: Mapping[Value, Sequence[Value]]
) -> Iterator[tuple[Value, int, Axes]]:
    """Each value that computes with `value`, through views of it, and as which input."""
    stack = [(value, axes)]
    while stack:
        view, seen = stack.pop()
        for user in dict.fromkeys(users[view]):
            if isinstance(user.op, _MOVES):
                stack.append((user, _through(user, seen)))
            else:
                yield user, user.inputs.index(view), seen


def _through(view: Value, axes: Axes) -> Axes:
    """The parameter's axes after one more view."""
    if isinstance(view.op, Transpose):
        return tuple(axes[axis] for axis in view.op.perm)
    if isinstance(view.op, Cast):
        return axes
    old, new = view.inputs[0].shape, view.shape
    if isinstance(view.op, BroadcastTo):
        lead: Axes = (None,) * (len(new) - len(old))
        return lead + axes
    known = {(before, size): axes[i] for i, (before, size) in enumerate(_prefixes(old))}
    return tuple(known.get(prefix) for prefix in _prefixes(new))


def _prefixes(shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """For each axis the number of elements before it, and its size."""
    before = 1
    for size in shape:
        yield before, size
        before *= size


def _use(param: Value, user: Value, i: int, axes: Axes, position: int, normal: set[Value]) -> Use:
    assert isinstance(param.op, Param)
    name, others = param.op.name, user.inputs[:i] + user.inputs[i + 1 :]
    axis = _channel_axis(user.op, i, user.inputs[i].shape)
    if axis is not None:
        return Use(name, "weight", user, position, axes[axis])
    if isinstance(user.op, Gather) and i == 0:
        return Use(name, "embedding", user, position)
    if isinstance(user.op, BatchNorm) and i in (1, 2):
        return Use(name, "scale" if i == 1 else "bias", user, position, norm=True)
    per_channel = param.type.size == max(param.shape, default=1)
    if isinstance(user.op, Add | Sub | Mul) and per_channel:
        norm = any(v in normal for v in others)
        return Use(name, "scale" if isinstance(user.op, Mul) else "bias", user, position, norm=norm)
    return Use(name, "other", user, position)


def _channel_axis(op: Op, i: int, shape: Sequence[int]) -> int | None:
    """The input-channel axis of input `i` of an operator that multiplies by a weight, or None."""
    rank = len(shape)
    if isinstance(op, Conv) and i == 1:
        depthwise = op.groups > 1 and shape[1] == 1
        return 0 if depthwise else 1
    if isinstance(op, ConvInputGrad) and i == 1:
        return 0
    if isinstance(op, MatMul):
        last = op.transpose_b if i == 1 else not op.transpose_a
        return rank - 1 if last else rank - 2
    return None


def _normalised(values: Sequence[Value]) -> set[Value]:
    """What is a normalisation's result, or that moved, scaled or shifted by a parameter."""
    found: set[Value] = set()
    for value in values:
        follows = isinstance(value.op, _MOVES) and value.inputs[0] in found
        affine = isinstance(value.op, Add | Mul) and any(v in found for v in value.inputs)
        by_param = affine and any(_is_view_of_param(v) for v in value.inputs)
        if isinstance(value.op, Normalize | RmsNormalize) or follows or by_param:
            found.add(value)
    return found


def _is_view_of_param(value: Value) -> bool:
    while isinstance(value.op, _MOVES):
        value = value.inputs[0]
    return isinstance(value.op, Param)


# Head


def head(graph: Graph) -> list[Use]:
    """The last weight on the way to each output, and the parameters that act on its result."""
    found = uses(graph)
    by_user: dict[Value, list[Use]] = {}
    for use in found.values():
        by_user.setdefault(use.user, []).append(use)
    names: set[str] = set()
    for output in graph.outputs.values():
        order = topological([output])
        last = next(
            (v for v in reversed(order) if any(u.weighted for u in by_user.get(v, ()))), None
        )
        if last is not None:
            after = _dependents(last, order)
            names |= {u.name for v in order if v in after for u in by_user.get(v, ())}
    return [use for use in found.values() if use.name in names]


def _dependents(root: Value, order: Sequence[Value]) -> set[Value]:
    found = {root}
    for value in order:
        if any(v in found for v in value.inputs):
            found.add(value)
    return found


def structure_hash(graph: Graph) -> str:
    """16 hexadecimal digits for the shape of a model but its head: equal for the same model with
    other weights, another number of classes, or another size of its inputs.
    """
    heads = {use.name for use in head(graph)}
    found = [use for use in uses(graph).values() if use.name not in heads]
    lines = [f"{u.name} {u.role} {u.axis} {graph.params[u.name].shape}" for u in found]
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


# Blocks


def blocks(graph: Graph) -> list[Block]:
    """The repeated units of the model in order. What follows the last one is its `tail`."""
    found = uses(graph)
    paths = {use.name: _path(use) for use in found.values() if use.weighted}
    units = _units(sorted(set(paths.values())))
    unit_of = {name: _unit_of(path, units) for name, path in paths.items()}
    anchors = _anchors(graph, found)
    for use in found.values():
        if not use.weighted:
            unit_of[use.name] = _unit_by_name(use, units) or unit_of.get(anchors[use.name], ())
    groups: dict[Path, list[Use]] = {}
    for use in found.values():
        groups.setdefault(unit_of[use.name], []).append(use)
    return _with_tail(groups, units)


def _with_tail(groups: Mapping[Path, list[Use]], units: Mapping[Path, bool]) -> list[Block]:
    """One block for each group; those after the last numbered one are its tail."""
    ordered = list(groups.items())
    numbered = [i for i, (unit, _) in enumerate(ordered) if units.get(unit)]
    end = (numbered[-1] + 1) if numbered else len(ordered)
    named = [Block(_name(unit, units), tuple(members)) for unit, members in ordered[:end]]
    tail = tuple(use for _, members in ordered[end:] for use in members)
    if named and tail:
        named[-1] = Block(named[-1].name, named[-1].uses, tail)
    return named


def _name(unit: Path, units: Mapping[Path, bool]) -> str:
    """A unit's module path; of a weight that is a unit by itself, its module's."""
    return ".".join(unit if unit in units else unit[:-1] or unit)


def _path(use: Use) -> Path:
    """The module path of a weight: from its own name, or from where its user came from."""
    if "." in use.name and "::" not in use.name:
        return tuple(use.name.split("."))
    parts: list[str] = []
    previous = ""
    for part in use.user.source.strip("/").split("/"):
        nested = previous and part.startswith(previous + ".")
        parts += (part[len(previous) + 1 :] if nested else part).split(".")
        previous = part
    return tuple(parts) if use.user.source else (use.name,)


def _units(paths: Sequence[Path]) -> dict[Path, bool]:
    """The prefixes that are blocks, and whether each is one of a numbered sequence."""
    repeated = _repeated(paths)
    found: dict[Path, bool] = {}
    stack: list[Path] = [()]
    while stack:
        prefix = stack.pop()
        inside = [p for p in paths if p[: len(prefix)] == prefix]
        held = sum(any(_below(p, r) for r in repeated if _inside(r, prefix)) for p in inside)
        if 2 * held > len(inside):
            children = {p[: len(prefix) + 1] for p in inside}
            numbered = {c for c in children if _siblings(c, children)}
            found.update({c: c in numbered for c in children})
            found.pop(prefix, None)
            stack += children
    return found


def _repeated(paths: Sequence[Path]) -> list[Path]:
    """Modules of a numbered sequence with several weights and a sibling much like them."""
    inner: dict[Path, set[Path]] = {}
    for path in paths:
        for depth in range(1, len(path)):
            inner.setdefault(path[:depth], set()).add(path[depth:])
    several = {module for module, weights in inner.items() if len(weights) > 1}
    return [
        module
        for module in several
        if any(_similar(inner[module], inner[s]) for s in _siblings(module, several))
    ]


def _siblings(module: Path, among: set[Path]) -> list[Path]:
    """The modules that differ from this one only in the number at the end of the last name."""
    match = _NUMBERED.fullmatch(module[-1])
    if not match:
        return []
    same = (m for m in among if m[:-1] == module[:-1] and m != module)
    return [m for m in same if (other := _NUMBERED.fullmatch(m[-1])) and other[1] == match[1]]


def _similar(a: set[Path], b: set[Path]) -> bool:
    return len(a & b) >= _ALIKE * len(a | b)


def _below(path: Path, prefix: Path) -> bool:
    return path[: len(prefix)] == prefix


def _inside(path: Path, prefix: Path) -> bool:
    return len(path) > len(prefix) and _below(path, prefix)


def _unit_of(path: Path, units: Mapping[Path, bool]) -> Path:
    """The unit that holds a weight; the weight by itself when there is none."""
    return next((path[:n] for n in range(len(path), 0, -1) if path[:n] in units), path)


def _unit_by_name(use: Use, units: Mapping[Path, bool]) -> Path | None:
    path = tuple(use.name.split("."))
    return next((path[:n] for n in range(len(path), 0, -1) if path[:n] in units), None)


def _anchors(graph: Graph, found: Mapping[str, Use]) -> dict[str, str]:
    """For each parameter the weight that was applied last before it, or else the first of all."""
    weights = {use.user: use for use in found.values() if use.weighted}
    first = min(weights.values(), key=lambda use: use.position, default=None)
    last: dict[Value, Use | None] = {}
    for value in graph.values():
        before = [use for v in value.inputs if (use := last[v]) is not None]
        nearest = max(before, key=lambda use: use.position, default=None)
        last[value] = weights.get(value, nearest)
    anchored = {name: last[use.user] or first for name, use in found.items()}
    return {name: use.name if use else "" for name, use in anchored.items()}
