"""The graph. Its whole grammar:

    graph   = leaves, outputs {name: value}, updates {leaf name: value}, data {leaf name: array}
    value   = op(value, ...) : type              an immutable node, see ir/op.py
    leaf    = Input(name) | Feature(name) | Param(name) | State(name) | Gate(name) | Const(name)
    type    = dtype[dim, ...]                    dims are integers, see ir/types.py

An Input is given by the caller. A Feature is an Input that another entry point of the program
computes beforehand (passes/prefix.py). A Param is trained or frozen and keeps the source model's
name. A State lives between steps (optimizer moments, running statistics, the step counter). A Gate
is a State that no step changes, but its owner may between steps (which channels are trained). A
Const never changes and has no name that a user knows (a folded weight). `updates` maps a Param or
State to its value after the step. `data` holds the first contents of each Param, State and Const.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from pockengine.ir.op import Array, Op, Sample, Value
from pockengine.ir.types import NUMPY, TensorType, type_of


@dataclass(frozen=True)
class Leaf(Op):
    """A named tensor that no operator computes."""

    name: str
    type: TensorType

    def infer(self) -> TensorType:
        return self.type

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        return ()


@dataclass(frozen=True)
class Input(Leaf):
    """Given by the caller at every call."""


@dataclass(frozen=True)
class Feature(Input):
    """Computed beforehand by another entry point, and kept where no entry point writes."""


@dataclass(frozen=True)
class Param(Leaf):
    """A weight, under the source model's own name."""


@dataclass(frozen=True)
class State(Leaf):
    """Lives between steps and is no weight: optimizer moments, running statistics, counters."""


@dataclass(frozen=True)
class Gate(State):
    """Says which channels a step trains. The owner of the program changes it, no step does."""


@dataclass(frozen=True)
class Const(Leaf):
    """Never changes."""


@dataclass(frozen=True)
class Graph:
    """What to compute. See the module's grammar. Immutable; passes make new ones."""

    inputs: tuple[Value, ...]
    outputs: Mapping[str, Value]
    updates: Mapping[str, Value] = field(default_factory=dict)
    data: Mapping[str, Array] = field(default_factory=dict, repr=False)
    aliases: Mapping[str, str] = field(
        default_factory=dict
    )  # other names of a tied tensor -> its name
    keys: tuple[str, ...] = ()  # the source's own tensors, used or not; empty: Params and States

    def values(self) -> list[Value]:
        """Every value that an output or update needs, operands first; inputs always included."""
        return list(self._order)

    @cached_property
    def _order(self) -> tuple[Value, ...]:
        roots = [*self.inputs, *self.outputs.values(), *self.updates.values()]
        return tuple(topological(roots))

    def leaves(self, kind: type[Leaf] = Leaf) -> dict[str, Value]:
        """The leaves of one kind that are in use, by name."""
        return {v.op.name: v for v in self._leaves if isinstance(v.op, kind)}

    @cached_property
    def _leaves(self) -> tuple[Value, ...]:
        return tuple(v for v in self._order if isinstance(v.op, Leaf))

    @property
    def params(self) -> dict[str, Value]:
        return self.leaves(Param)

    def users(self) -> dict[Value, list[Value]]:
        """For each value the values that read it (outputs and updates are not in the lists)."""
        users: dict[Value, list[Value]] = {v: [] for v in self._order}
        for value in users:
            for operand in value.inputs:
                users[operand].append(value)
        return users

    def with_data(self, **arrays: Array) -> "Graph":
        return self.on_data({**self.data, **arrays})

    def on_data(self, data: Mapping[str, Array]) -> "Graph":
        """The same values, with `data` in the place of the graph's own."""
        made = replace(self, data=data)
        made.__dict__["_order"] = self._order
        return made

    def __str__(self) -> str:
        from_text = [f"{name}={v.type}" for name, v in self.outputs.items()]
        return f"Graph({len(self.values())} values -> {', '.join(from_text)})"


def topological(roots: Iterable[Value], known: Container[Value] = ()) -> list[Value]:
    """All values that `roots` need, each after its operands; deterministic, no recursion.

    Values in `known`, and what only they need, are left out.
    """
    order: dict[Value, None] = {}
    stack: list[Value] = []
    for root in roots:
        if root not in known:
            stack.append(root)
        while stack:
            value = stack[-1]
            if value in order:  # an operand twice, or of two values on the way
                stack.pop()
            elif pending := [v for v in value.inputs if v not in order and v not in known]:
                stack += reversed(pending)
            else:
                order[stack.pop()] = None
    return list(order)


def alike(a: Graph, b: Graph) -> bool:
    """Whether two graphs compute the same in the same order, from leaves of the same names."""
    return _numbered(a) == _numbered(b)


def _numbered(graph: Graph) -> list[object]:
    number = {value: i for i, value in enumerate(graph.values())}
    rows: list[object] = [(str(v.op), v.source, *(number[x] for x in v.inputs)) for v in number]
    roots = [(n, number[v]) for part in (graph.outputs, graph.updates) for n, v in part.items()]
    return [*rows, [number[v] for v in graph.inputs], len(graph.outputs), roots]


def persists(op: Op) -> bool:
    """Whether a leaf's bytes belong to it for as long as the program runs."""
    return isinstance(op, Leaf) and (isinstance(op, Feature) or not isinstance(op, Input))


def leaf(kind: type[Leaf], name: str, like: Array | TensorType) -> Value:
    """A leaf value with the type of `like`."""
    return kind(name, like if isinstance(like, TensorType) else type_of(like))()


def zeros(type_: TensorType) -> np.ndarray[Any, Any]:
    """An array of zeros of that type, the usual first content of a State."""
    return np.zeros(type_.shape, NUMPY[type_.dtype])
