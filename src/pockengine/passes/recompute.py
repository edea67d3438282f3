"""Computes again in the backward pass what is cheap to compute and large to keep.

    p = Softmax(q @ kT)     the backward pass reads p, q and k      p is kept
    ->
    p = Softmax(q @ kT)     for the forward pass, freed there
    p'= Softmax(q @ kT)     for the backward pass, next to its readers

Such are the probabilities of attention, as many as the square of a sequence's length, and what a
norm makes of its operand. It costs a few percent of a step, so it is for programs that compute
their batch in parts: whoever asks for those wants less memory. It runs on graphs that are ready to
be fused, since passes/prune.py would make one value of the two.
"""

from pockengine.ir.graph import Graph, Leaf, topological
from pockengine.ir.op import Value
from pockengine.ir.rewrite import rebuild, substitute
from pockengine.ir.schedule import storage
from pockengine.ops.bits import PackBits, UnpackBits
from pockengine.ops.index import Take
from pockengine.ops.matmul import MatMul
from pockengine.ops.norm import Normalize
from pockengine.ops.precision import ToBF16
from pockengine.ops.shape import Slice
from pockengine.ops.softmax import Softmax

LEAST = 2**18  # bytes that are worth it
WORK = 80  # operations for each byte that is not kept, at most: heads of up to 128 channels
ROWS = (Softmax, Normalize)
EXCERPTS = (PackBits, ToBF16, Take, Slice)  # made in the forward pass; their operand is not kept


def recompute(graph: Graph) -> Graph:
    """The graph in which the backward pass has its own copies of what is cheap to compute."""
    again = _Copies(graph).found()
    done = {v: v for v in topological([*graph.inputs, *graph.outputs.values()])}

    def read(value: Value) -> Value:
        if value.op.alias and value in done:
            return rebuild(value, [read(v) for v in value.inputs])
        return again.get(value, done[value])

    for value in graph.values():
        if value not in done:
            done[value] = rebuild(value, [read(v) for v in value.inputs])
    return substitute(graph, done)


class _Copies:
    """What the backward pass keeps of the forward one, and copies of some of it."""

    def __init__(self, graph: Graph) -> None:
        users = graph.users()
        self.forward = dict.fromkeys(topological([*graph.inputs, *graph.outputs.values()]))
        later = [u for u in users if u not in self.forward and not isinstance(u.op, EXCERPTS)]
        self.kept = {storage(v) for user in later for v in user.inputs if v in self.forward}
        self.unpacked = {v.inputs[0].inputs[0]: v for v in users if isinstance(v.op, UnpackBits)}

    def found(self) -> dict[Value, Value]:
        """For each kept value that is cheap to compute from what is kept otherwise, its copy."""
        again: dict[Value, Value] = {}
        for value in self.forward:
            if value in self.kept and value.type.nbytes >= LEAST and is_cheap(value):
                copy = self.copied(value)
                made = topological([copy], self.forward) if copy else []
                work = sum(v.flops for v in made) / value.type.nbytes
                if copy and work <= WORK and any(isinstance(v.op, ROWS) for v in made):
                    again[value] = copy
        return again

    def copied(self, value: Value) -> Value | None:
        """The value computed anew from kept ones; None where they do not suffice."""
        operands = [self.operand(v) for v in value.inputs]
        if any(v is None for v in operands):
            return None
        return value.op(*(v for v in operands if v is not None), source=value.source)

    def operand(self, value: Value) -> Value | None:
        if value in self.unpacked:
            return self.unpacked[value]
        if storage(value) in self.kept or isinstance(value.op, Leaf) or not value.inputs:
            return value
        return self.copied(value) if is_cheap(value) or value.op.alias else None


def is_cheap(value: Value) -> bool:
    """Whether computing it may take little more than a pass over it."""
    return value.op.elementwise or isinstance(value.op, (MatMul, *ROWS))
