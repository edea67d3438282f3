"""What a translation sees of one ONNX node: its inputs, its attributes, and the graph's leaves.

An input is a `Value` of the graph, or `Known`: numbers that the import itself knows. Computations
on shapes stay known from end to end and so vanish from the graph.

The batch is `BATCH` in every shape, so numbers computed from shapes may depend on it. `Known.probe`
holds the same numbers computed for another batch size; where the two differ, the number depends on
the batch, and it may only be used as a dimension that is a multiple of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from pockengine.errors import ImportModelError, UnsupportedError
from pockengine.ir.graph import Const, Leaf, Param, State, leaf
from pockengine.ir.op import Array, Value
from pockengine.ir.types import Shape, dim_at
from pockengine.ops.shape import Full

PROBE_BATCH = 1013


@dataclass(frozen=True, eq=False)
class Known:
    """Numbers known at import. With `weight` they become a Param where they are computed with."""

    array: Array
    name: str = ""
    probe: Array | None = None
    weight: bool = False


Item = Value | Known | None
Translation = Callable[["Node"], "Item | Sequence[Item]"]


def probe_shape(shape: Shape) -> Shape:
    """The shape that `shape` would be with the other batch size."""
    return tuple(dim_at(d, PROBE_BATCH) for d in shape)


@dataclass
class Leaves:
    """The leaves made so far, one for each tensor of the source model, and their data."""

    data: dict[str, Array] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    salts: int = 0

    def next_salt(self) -> int:
        """A number that tells one dropout's random numbers from another's."""
        self.salts += 1
        return self.salts

    def get(self, kind: type[Leaf], name: str, array: Array) -> Value:
        """The leaf of that name; a name already taken by another kind of leaf gets a suffix."""
        made = self.values.get(name)
        if made is not None and (type(made.op) is not kind or self.data[name] is not array):
            return self.get(kind, f"{name}.{kind.__name__.lower()}", array)
        if made is None:
            made = self.values[name] = leaf(kind, name, array)
            self.data[name] = array
        return made


@dataclass(frozen=True)
class Node:
    """One node to translate."""

    proto: onnx.NodeProto
    inputs: tuple[Item, ...]
    opset: int
    leaves: Leaves
    attributes: dict[str, Any]

    @property
    def op(self) -> str:
        return str(self.proto.op_type)

    def has(self, index: int) -> bool:
        """Whether the optional input `index` is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def attr(self, name: str, default: Any) -> Any:
        return self.attributes.get(name, default)

    def value(self, index: int) -> Value:
        """Input `index` as a value of the graph; known numbers become a leaf."""
        item = self.item(index)
        return item if isinstance(item, Value) else self.leaf(index, self._kind(item))

    def optional(self, index: int) -> Value | None:
        return self.value(index) if self.has(index) else None

    def values(self) -> tuple[Value, ...]:
        return tuple(self.value(i) for i in range(len(self.inputs)))

    def item(self, index: int) -> Value | Known:
        item = self.inputs[index] if index < len(self.inputs) else None
        if item is None:
            raise ImportModelError(f"input {index} is missing")
        return item

    def leaf(self, index: int, kind: type[Leaf]) -> Value:
        """Input `index`, known numbers, as a leaf of that kind."""
        item = self.item(index)
        if isinstance(item, Value):
            return item
        name = item.name or f"{self.proto.output[0]}.{index}"
        return self.leaves.get(kind, name, _without_batch(item))

    def state(self, index: int) -> Value:
        return self.leaf(index, State)

    def array(self, index: int, what: str) -> Array:
        """Input `index` as numbers known at import. Raises UnsupportedError when it is computed."""
        return _without_batch(self._known(index, what))

    def dims(self, index: int, what: str) -> tuple[int, ...]:
        """Input `index` as dimensions; they may be multiples of the batch."""
        known = self._known(index, what)
        if known.probe is None:
            return tuple(int(d) for d in known.array.ravel())
        pairs = zip(known.array.ravel(), known.probe.ravel(), strict=True)
        return tuple(_dimension(int(a), int(b)) for a, b in pairs)

    def is_known(self, index: int) -> bool:
        """Whether input `index` is numbers that never change; weights do."""
        item = self.item(index)
        return isinstance(item, Known) and not item.weight

    def scalar(self, index: int) -> float | None:
        """Input `index` when it is one known number, otherwise None."""
        item = self.item(index)
        if isinstance(item, Known) and item.array.size == 1 and not item.weight:
            return float(_without_batch(item).item())
        return None

    def _known(self, index: int, what: str) -> Known:
        item = self.item(index)
        if isinstance(item, Value):
            raise UnsupportedError(f"{what} must be constant, but the model computes it")
        return item

    def _kind(self, item: Known) -> type[Leaf]:
        return Param if item.weight else Const


def _without_batch(known: Known) -> Array:
    if known.probe is not None and not np.array_equal(known.array, known.probe, equal_nan=True):
        raise UnsupportedError(
            "the batch size is used as a number, not as a dimension; export the model with "
            "a fixed batch size, or compute without it"
        )
    return known.array


def _dimension(here: int, there: int) -> int:
    if there in (here, dim_at(here, PROBE_BATCH)):
        return here
    raise UnsupportedError(
        "a dimension depends on the batch size but is no multiple of it; export the model with "
        "a fixed batch size"
    )


def full_like(x: Value, number: float) -> Value:
    """A scalar of x's dtype that broadcasts against it."""
    exact: float | int | bool = number
    if x.dtype == "bool":
        exact = bool(number)
    elif not x.type.is_float:
        exact = int(number)
    return Full((), x.dtype, exact)()


def axis_of(axis: int, rank: int) -> int:
    """The non-negative axis. Raises ImportModelError when there is no such axis."""
    if not -rank <= axis < rank:
        raise ImportModelError(f"axis {axis} is outside a tensor of rank {rank}")
    return axis % rank


def axes_of(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    return tuple(sorted({axis_of(int(a), rank) for a in axes}))


def with_source(values: Sequence[Item], source: str) -> list[Item]:
    """`values` with `source` noted on every operator that this node brought: those without one."""
    done: dict[Value, Value] = {}

    def stamp(v: Value) -> Value:
        if v.source or isinstance(v.op, Leaf):
            return v
        if v not in done:
            done[v] = Value(v.op, tuple(map(stamp, v.inputs)), v.type, source)
        return done[v]

    return [stamp(v) if isinstance(v, Value) else v for v in values]
