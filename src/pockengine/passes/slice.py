"""Pushes slices up, towards what they are slices of, so that nothing is computed to be thrown away.

    before   take_k(transpose(x) @ g)          the product for all channels, cut to k of them
    after    transpose(take_k(x)) @ g          the product for k channels, which alone are kept

The rule is the operators' own (`slice_axes`, `on_sliced`). A slice stops at a value that has
another reader or is a result: that value is needed whole, and the slice is what is kept of it. So
an activation of the forward pass is never computed twice, and its saved copy has the chosen
channels only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pockengine.ir.graph import Graph
from pockengine.ir.op import Value
from pockengine.ir.rewrite import rebuild, substitute
from pockengine.ops.build import take
from pockengine.ops.index import Take
from pockengine.ops.shape import Slice


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
        graph = substitute(graph, push.done)
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
        types = [x.type for x in value.inputs]
        # a cut is not pushed through another: two along different axes would change places for ever
        movable = value in self.private and _cut_of(value) is None
        axes = value.op.slice_axes(cut.axis, *types) if movable else None
        if axes is None:
            return cut.of(self.done[value], source)
        self.moved += 1
        inputs = [
            self.done[x] if axis is None else self.cut(x, Cut(axis, cut.indices), source)
            for x, axis in zip(value.inputs, axes, strict=True)
        ]
        return value.op.on_sliced(cut.axis, len(cut.indices), *types)(*inputs, source=value.source)


def _cut_of(value: Value) -> Cut | None:
    if isinstance(value.op, Take):
        return Cut(value.op.axis, value.op.indices)
    if isinstance(value.op, Slice):
        return Cut(value.op.axis, range(value.op.start, value.op.stop, value.op.step))
    return None
