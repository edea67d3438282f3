"""Stores frozen weights as matrix products read them: in panels, see panels.py.

    1. a @ w                 ->  a @ FromPanels(p)       p holds the panels of w
    2. a @ wT                ->  a @ FromPanels(p)       p holds the panels of wT: a linear layer
    3. g @ wT beside 1, g @ w beside 2  ->  g @ FromPanels(p)T     the same copy, in the backward

A weight changes its layout where no entry point updates it and all read it in these ways only. It
runs on all entry points together, which share the weights, and after autodiff.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from pockengine.ir.graph import Const, Graph, Leaf, Param, leaf
from pockengine.ir.memo import ARRAYS, Memo
from pockengine.ir.op import Array, Value
from pockengine.ir.rewrite import substitute
from pockengine.ir.types import Shape
from pockengine.ops.matmul import MatMul
from pockengine.ops.panels import FromPanels, takes_panels
from pockengine.ops.shape import Transpose
from pockengine.panels import panels_shape, to_panels
from pockengine.passes.layout import Layouts

WASTE = 2  # panels may take so many times the bytes of the weight: narrow ones have many zeros
TURNED = (1, 0)


def prepack(
    graphs: Mapping[str, Graph], layouts: Layouts, width: int, memo: Memo | None = None
) -> tuple[dict[str, Graph], Layouts]:
    """The graphs with weights in panels of `width` columns, and the layouts before the packing."""
    memo = memo or Memo()
    made = {name: weight for name, weight in _weights(graphs).items() if weight.pays(width)}
    data = {
        name: memo.of(
            "panels", weight.array, partial(weight.panels, width), weight.turned, limit=ARRAYS
        )
        for name, weight in made.items()
    }
    turned = {name: TURNED for name, weight in made.items() if weight.turned}

    def which(graph: Graph) -> frozenset[tuple[str, bool]]:
        return frozenset((name, name in turned) for name in made if name in graph.data)

    packed = {
        name: memo.of("packed", graph, partial(_packed, graph, made, data), which(graph))
        for name, graph in graphs.items()
    }
    return packed, layouts | {name: _after(layouts.get(name), TURNED) for name in turned}


def _after(first: Shape | None, then: Shape) -> Shape:
    return tuple(first[axis] for axis in then) if first else then


@dataclass
class _Weight:
    """A frozen leaf that products read, and how many read it as it is and transposed."""

    leaf: Value
    array: Array
    plain: int = 0
    transposed: int = 0

    @property
    def turned(self) -> bool:
        """Whether its transpose is packed: of two ways to read it the more common one is free."""
        return self.leaf.type.rank == 2 and self.transposed > self.plain

    @property
    def shape(self) -> Shape:
        return self.leaf.shape[::-1] if self.turned else self.leaf.shape

    def pays(self, width: int) -> bool:
        count, _, _ = panels_shape(self.shape, width)
        return 0 < count * width <= WASTE * self.shape[-1]

    def panels(self, width: int) -> Array:
        return to_panels(self.array.T if self.turned else self.array, width)


def _weights(graphs: Mapping[str, Graph]) -> dict[str, _Weight]:
    """The frozen leaves that only products read."""
    found: dict[str, _Weight] = {}
    refused = {name for graph in graphs.values() for name in graph.updates}
    for graph in graphs.values():
        users = graph.users()
        roots = {*graph.outputs.values(), *graph.updates.values()}
        for name, value in (graph.leaves(Param) | graph.leaves(Const)).items():
            weight = found.setdefault(name, _Weight(value, graph.data[name]))
            if value.dtype not in ("f32", "bf16") or not _count(weight, value, users, roots):
                refused.add(name)
    return {name: weight for name, weight in found.items() if name not in refused}


def _count(
    weight: _Weight, value: Value, users: Mapping[Value, list[Value]], roots: set[Value]
) -> bool:
    """Counts the products that read `value`, the weight itself or the matrix of its columns.

    False where something else reads it.
    """
    if value in roots or value.type.rank < 2:
        return False
    for user in users[value]:
        if user.op.alias and user.shape == _matrix(value.shape):
            if not _count(weight, user, users, roots):
                return False
        elif takes_panels(user, value):
            assert isinstance(user.op, MatMul)
            weight.transposed += user.op.transpose_b
            weight.plain += not user.op.transpose_b
        else:
            return False
    return True


def _matrix(shape: Shape) -> Shape:
    _, rows, _ = panels_shape(shape, 1)
    return rows, shape[-1]


def _packed(graph: Graph, weights: Mapping[str, _Weight], data: Mapping[str, Array]) -> Graph:
    replacements: dict[Value, Value] = {}
    users = graph.users()
    for name, value in graph.leaves().items():
        if name in weights:
            assert isinstance(value.op, Leaf)
            source = next(user.source for user in users[value])
            packed = leaf(type(value.op), name, data[name])
            whole = FromPanels(weights[name].shape)(packed, source=source)
            replacements[value] = Transpose(TURNED)(whole) if weights[name].turned else whole
    used = {name: array for name, array in data.items() if name in graph.data}
    return substitute(graph.with_data(**used), replacements, _straight)


def _straight(value: Value) -> Value:
    """a @ Transpose(FromPanels(p))T  ->  a @ FromPanels(p), and the other way round"""
    if not isinstance(value.op, MatMul):
        return value
    a, b = value.inputs
    if not (isinstance(b.op, Transpose) and isinstance(b.inputs[0].op, FromPanels)):
        return value
    op = MatMul(value.op.transpose_a, not value.op.transpose_b)
    return op(a, b.inputs[0], source=value.source)
