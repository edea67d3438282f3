"""Finds out whether a model keeps the samples of a batch apart, so that one may be partly filled
or computed in parts.

Runs on an imported graph, in which every dimension that holds the batch is a multiple of BATCH.
Batch norms are no obstacle where rows lie sample by sample: passes/mode.py weighs their statistics.
"""

from math import prod
from typing import Any

from pockengine.ir.graph import Graph
from pockengine.ir.op import Value
from pockengine.ir.types import Shape, holds_batch
from pockengine.ops.matmul import MatMul
from pockengine.ops.norm import BatchNorm, Normalize
from pockengine.ops.shape import Reshape


def keeps_samples_apart(graph: Graph) -> bool:
    """Whether no operator mixes samples, and every input and output has the samples along axis 0.

    A graph without a symbolic batch says nothing of its samples: False.
    """
    ends = [*graph.inputs, *graph.outputs.values()]
    values = graph.values()
    return (
        all(_leads(v.shape) for v in ends)
        and not any(map(_mixes, values))
        and not (_has_batch_statistics(graph) and any(map(_scrambles, values)))
    )


def sums_over_samples(graph: Graph) -> bool:
    """Whether the gradient of a batch is the sum of the gradients of its parts."""
    return keeps_samples_apart(graph) and not _has_batch_statistics(graph)


def _has_batch_statistics(graph: Graph) -> bool:
    return any(isinstance(v.op, BatchNorm) and v.op.training for v in graph.values())


def _leads(shape: Shape) -> bool:
    return shape == () or holds_batch(shape[0])


def _mixes(value: Value) -> bool:
    op: Any = value.op
    if isinstance(op, (BatchNorm, Normalize)) or not value.inputs:
        return False
    x = value.inputs[0].shape
    if isinstance(op, MatMul):
        return holds_batch(x[-2] if op.transpose_a else x[-1])
    along = getattr(op, "axes", ()) or (getattr(op, "axis", None),)
    reads = [a for a in along if isinstance(a, int) and a < len(x)]
    return _reduces(op) and holds_batch(*(x[a] for a in reads))


def _reduces(op: Any) -> bool:
    """Whether the elements along the operator's axes have to do with each other."""
    return op.kernel in ("reduce", "argmax", "cumsum", "softmax", "log_softmax")


def _scrambles(value: Value) -> bool:
    """Whether it merges a batch with dims before it: [4, N, 6] -> [4N, 6]."""
    if not isinstance(value.op, Reshape):
        return False
    x, y = value.inputs[0].shape, value.shape
    at = [i for i, dim in enumerate(x) if holds_batch(dim)]
    to = [i for i, dim in enumerate(y) if holds_batch(dim)]
    return bool(at and to) and prod(x[: at[0]]) != prod(y[: to[0]])
