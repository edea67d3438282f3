"""Pushes slices up, towards what they are slices of, so that nothing is computed to be thrown away.

    before   take_k(transpose(x) @ g)          the product for all channels, cut to k of them
    after    transpose(take_k(x)) @ g          the product for k channels, which alone are kept

    before   classify(encode(x)[:, 0])         the last layer of an encoder for all tokens
    after    classify(encode(x))               for the first one, all that the model looks at

The rule is the operators' own (`slice_axes`, `on_sliced`). A slice stops at a value that has
another reader or is a result: that value is needed whole, and the slice is what is kept of it. So
an activation of the forward pass is never computed twice, and its saved copy has the chosen
channels only. Readers that all take the same slice count as one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from pockengine.ir.graph import Graph
from pockengine.ir.op import Value
from pockengine.ir.rewrite import rebuild, substitute
from pockengine.ops.build import take
from pockengine.ops.index import Take
from pockengine.ops.shape import Reshape, Slice
from pockengine.passes.prune import share


@dataclass(frozen=True)
class Cut:
    """Some indices along one axis."""

    axis: int
    indices: Sequence[int]

    def of(self, value: Value, source: str) -> Value:
        """The cut of a value."""
        sliced = take(value, self.axis, self.indices)
        return sliced if sliced is value else replace(sliced, source=source)


def push_slices(graph: Graph) -> Graph:
    """The same graph with every Take and Slice as far up as it saves something."""
    push = _Push(graph)
    while push.moved:
        graph = share(substitute(graph, push.done))
        push = _Push(graph)
    return substitute(graph, push.done)


class _Push:
    """One walk over the graph: `done` maps each value to its new self, `moved` counts moves."""

    def __init__(self, graph: Graph) -> None:
        results = {*graph.outputs.values(), *graph.updates.values()}
        readers = graph.users()
        self.private = {v for v, r in readers.items() if len(r) == 1 and v not in results}
        self.done: dict[Value, Value] = {}
        self.moved = 0
        for value in readers:
            cut = _cut_of(value)
            self.done[value] = (
                self.cut(value.inputs[0], cut, value.source)
                if cut
                else rebuild(value, [self.done[v] for v in value.inputs])
            )

    def cut(self, value: Value, cut: Cut, source: str) -> Value:
        """`cut` of `value`, computed from cuts of its operands as far as that may be."""
        # a cut is not pushed through another: two along different axes would change places for ever
        movable = value in self.private and _cut_of(value) is None
        cuts = _cuts_of_operands(value, cut) if movable else None
        if cuts is None:
            return cut.of(self.done[value], source)
        self.moved += 1
        inputs = [
            self.cut(x, own, source) if own else self.done[x]
            for x, own in zip(value.inputs, cuts, strict=True)
        ]
        types = [x.type for x in value.inputs]
        return value.op.on_sliced(cut.axis, len(cut.indices), *types)(*inputs, source=value.source)


def _cut_of(value: Value) -> Cut | None:
    if isinstance(value.op, Take):
        return Cut(value.op.axis, value.op.indices)
    if isinstance(value.op, Slice):
        return Cut(value.op.axis, range(value.op.start, value.op.stop, value.op.step))
    return None


def _cuts_of_operands(value: Value, cut: Cut) -> list[Cut | None] | None:
    """What to cut of each operand (None: nothing) instead of `value`; None where it must stay."""
    axes = value.op.slice_axes(cut.axis, *(x.type for x in value.inputs))
    if axes is not None:
        return [None if axis is None else Cut(axis, cut.indices) for axis in axes]
    split = _cut_of_split_axis(value, cut) if isinstance(value.op, Reshape) else None
    return [split] if split else None


def _cut_of_split_axis(value: Value, cut: Cut) -> Cut | None:
    """reshape [.., A, ..] -> [.., a, b, c, ..] with a * b * c = A: a cut of b is a cut of A."""
    shape, before = value.shape, 1
    for axis, size in enumerate(value.inputs[0].shape):
        for i in range(cut.axis + 1):
            for j in range(cut.axis + 1, len(shape) + 1):
                if prod(shape[:i]) == before and prod(shape[i:j]) == size:
                    places = np.arange(size).reshape(shape[i:j])
                    chosen = places.take(list(cut.indices), cut.axis - i)
                    return Cut(axis, chosen.ravel().tolist())
        before *= size
    return None
