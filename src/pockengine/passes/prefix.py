"""Splits off what training never changes: the frozen prefix, computed sample by sample.

    x -> conv1 -> conv2 -> conv3 -> loss           conv3 is trained

    prefix    x -> conv1 -> conv2 -> features:0    an entry point of its own, for a few samples
    suffix    features:0 -> conv3 -> loss          what all other entry points are made of

A value belongs to the prefix when it is computed from inputs and frozen leaves alone, when each of
its rows depends on the same rows of its operands (`Op.slice_axes` along the batch, so that a few
samples at a time give the same numbers), and when training and inference agree on it. What the
suffix reads of it becomes a Feature, except for what no product lies above: masks, casts and
broadcasts of inputs are computed again where they are read.

It runs on an imported graph, in which every dimension that holds the batch is a multiple of BATCH.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import replace

from pockengine.ir.graph import Feature, Graph, Input, Leaf, leaf, topological
from pockengine.ir.op import Axes, Value, moves_data
from pockengine.ir.rewrite import substitute, with_batch
from pockengine.ir.types import Shape, holds_batch
from pockengine.ops.conv import Conv, ConvInputGrad
from pockengine.ops.matmul import MatMul
from pockengine.ops.norm import BatchNorm
from pockengine.ops.random import Dropout
from pockengine.ops.shape import Reshape, Transpose
from pockengine.passes.fold import frozen_values
from pockengine.passes.prune import drop_data

PRODUCTS = (Conv, ConvInputGrad, MatMul)
LEAST_SHARE = 0.1  # of the forward pass's work: a smaller prefix costs more than it brings
WORKING_SET = 4 << 20  # bytes: what the operands and the result of a product may take together


def frozen_prefix(graph: Graph, changing: Set[str]) -> Graph | None:
    """The prefix, its outputs named as features; None where nothing is worth keeping."""
    kept = _frontier(graph, _per_sample(graph, changing))
    needed = topological(kept)
    if not kept or _work(needed) < LEAST_SHARE * _work(graph.values()):
        return None
    taken = graph.leaves()
    names = (n for i in range(len(kept) + len(taken)) if (n := f"features:{i}") not in taken)
    inputs = tuple(v for v in graph.inputs if v in needed)
    return drop_data(Graph(inputs, dict(zip(names, kept, strict=False)), data=graph.data))


def hand_over(prefix: Graph) -> tuple[Graph, dict[str, Shape]]:
    """Leaves transpositions at the outputs to the reader: features keep the layout they have.

    Returns the prefix without them, and their permutations by feature.
    """
    perms = {
        name: v.op.perm
        for name, v in prefix.outputs.items()
        if isinstance(v.op, Transpose) and v.op.perm[0] == 0
    }
    outputs = {n: v.inputs[0] if n in perms else v for n, v in prefix.outputs.items()}
    return replace(prefix, outputs=outputs), perms


def without_prefix(graph: Graph, prefix: Graph, perms: Mapping[str, Shape]) -> Graph:
    """The graph that reads features where `graph` computes the prefix's outputs."""
    features = {name: _feature(name, v, perms.get(name)) for name, v in prefix.outputs.items()}
    suffix = substitute(graph, {v: features[name] for name, v in prefix.outputs.items()})
    read = {*topological([*suffix.outputs.values(), *suffix.updates.values()])}
    inputs = [v for v in graph.inputs if v in read or v not in prefix.inputs]
    leaves = [topological([v])[0] for v in features.values()]
    return replace(suffix, inputs=(*inputs, *leaves))


def micro_batch(prefix: Graph, batch: int) -> int:
    """How many samples to compute at a time: the most, of the divisors of a batch, that stay in
    the cache.
    """
    single = with_batch(prefix, 1)
    products = [v for v in single.values() if isinstance(v.op, PRODUCTS)]
    most = max(v.type.nbytes + v.inputs[0].type.nbytes for v in products)
    fitting = [m for m in range(1, batch + 1) if batch % m == 0 and m * most <= WORKING_SET]
    return max(fitting, default=1)


def _feature(name: str, value: Value, perm: Shape | None) -> Value:
    """The value as the suffix sees it, from a leaf in the layout in which it is kept."""
    if perm is None:
        return leaf(Feature, name, value.type)
    shape = tuple(value.shape[perm.index(axis)] for axis in range(len(perm)))
    return Transpose(perm)(leaf(Feature, name, value.type.with_shape(*shape)))


# ---- what belongs to the prefix ------------------------------------------------------------------


def _per_sample(graph: Graph, changing: Set[str]) -> set[Value]:
    """The values of which each row is decided by the same sample, whatever training does."""
    fixed = {v for v in frozen_values(graph, changing) if not holds_batch(*v.shape)}
    found: set[Value] = set()
    for value in graph.values():
        axes = _rows(value) if _leads(value.shape) else None
        if axes is not None and all(
            x in fixed or (axis == 0 and x in found)
            for x, axis in zip(value.inputs, axes, strict=True)
        ):
            found.add(value)
    return found


def _rows(value: Value) -> Axes:
    """For each operand the axis of which a row of the value reads the same row; see Op.slice_axes.

    None where rows read others, or where training and inference differ.
    """
    op, others = value.op, (None,) * (len(value.inputs) - 1)
    if isinstance(op, Leaf):
        return () if isinstance(op, Input) else None
    if isinstance(op, BatchNorm):
        return None if op.training else (0, *others)
    if isinstance(op, Dropout):
        return (0, *others) if op.p == 0 else None
    if isinstance(op, Reshape):
        return (0,) if _leads(value.inputs[0].shape) else None  # a sample may be several rows
    return op.slice_axes(0, *(x.type for x in value.inputs))


def _leads(shape: Shape) -> bool:
    """Whether the batch is in the first axis and in no other."""
    return [axis for axis, dim in enumerate(shape) if holds_batch(dim)] == [0]


# ---- what is kept of it --------------------------------------------------------------------------


def _frontier(graph: Graph, prefix: Set[Value]) -> list[Value]:
    """What of the prefix the rest reads and a product was needed for; light work is left to it."""
    heavy = _heavy(graph, prefix)
    readers = [v for v in graph.values() if v not in prefix]
    read = {x for v in readers for x in v.inputs}
    kept = (read | {*graph.outputs.values(), *graph.updates.values()}) & heavy
    for value in reversed(graph.values()):
        if value in kept and (value.op.elementwise or moves_data(value.op) or value.op.alias):
            operands = {x for x in value.inputs if x in heavy}
            if sum(x.type.nbytes for x in operands - kept) < value.type.nbytes:
                kept = (kept - {value}) | operands
    return [v for v in graph.values() if v in kept]


def _work(values: Iterable[Value]) -> int:
    """The floating-point operations of the products among values."""
    products = (v for v in values if isinstance(v.op, PRODUCTS))
    return sum(v.flops for v in products)


def _heavy(graph: Graph, prefix: Set[Value]) -> set[Value]:
    """The values of the prefix with a product above them."""
    found: set[Value] = set()
    for value in graph.values():
        if value in prefix and (
            isinstance(value.op, PRODUCTS) or any(x in found for x in value.inputs)
        ):
            found.add(value)
    return found
