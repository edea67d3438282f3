"""Rewrites a graph into the forms that the C kernels take. Run before fusion, on any graph.

Softmax(axis=1)(x)                  ->  Transpose(Softmax(last axis)(Transpose(x)))
Sum(axes=(0, 2))(x)                 ->  Sum(0)(Sum(2)(x))
MatMul(a^T, b^T)                    ->  MatMul(a^T, Transpose(b))
Normalize(axes=(1, 3))(x)           ->  on Transpose(x), where these axes come last
Normalize(axes=(0, 1, 2))(x)        ->  (x - mean) * r, both by columns; fused with what follows
NormalizeGrad(axes=(0, 1, 2))(g, x) ->  two sums of columns, and then elementwise
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from pockengine.backends.c.row_calls import runs
from pockengine.ir.graph import Graph
from pockengine.ir.op import Value
from pockengine.ir.rewrite import rewrite
from pockengine.ir.types import Shape
from pockengine.ops.build import add, div, mul, reshape, rsqrt, sub, transpose
from pockengine.ops.elementwise import Mul
from pockengine.ops.loss import CrossEntropy, CrossEntropyGrad
from pockengine.ops.matmul import MatMul
from pockengine.ops.norm import (
    BatchMean,
    BatchVariance,
    Normalize,
    NormalizeGrad,
    RmsNormalize,
    RmsNormalizeGrad,
)
from pockengine.ops.reduce import Max, Mean, Min, Prod, Sum
from pockengine.ops.softmax import LogSoftmax, LogSoftmaxGrad, Softmax, SoftmaxGrad
from pockengine.passes.simplify import transpose_in_order, transpose_twice

AXIS = (Softmax, SoftmaxGrad, LogSoftmax, LogSoftmaxGrad)
REDUCTIONS = (Sum, Mean, Max, Min, Prod)
NORMS = (Normalize, NormalizeGrad, RmsNormalize, RmsNormalizeGrad)


def canonical(graph: Graph) -> Graph:
    """The same graph with every kernel's axes where the kernel wants them."""
    return rewrite(graph, RULES)


def _moved(x: Value, perm: Sequence[int]) -> Value:
    return x if list(perm) == sorted(perm) else transpose(x, tuple(perm))


def _inverse(perm: Sequence[int]) -> Shape:
    return tuple(sorted(range(len(perm)), key=lambda a: perm[a]))


def _last(rank: int, axes: Shape) -> Shape:
    """The permutation that brings `axes` to the end."""
    return (*(a for a in range(rank) if a not in axes), *axes)


# 1. an axis in the middle -> the last one


def softmax_axis(value: Value) -> Value | None:
    op = value.op
    if not isinstance(op, AXIS) or prod(value.shape[op.axis + 1 :]) == 1:
        return None
    perm = _last(len(value.shape), (op.axis,))
    moved = replace(op, axis=len(perm) - 1)(*(_moved(x, perm) for x in value.inputs))
    return _moved(moved, _inverse(perm))


def cross_entropy_axis(value: Value) -> Value | None:
    op = value.op
    if not isinstance(op, (CrossEntropy, CrossEntropyGrad)):
        return None
    first = int(isinstance(op, CrossEntropyGrad))
    logits = value.inputs[first]
    if op.axis == len(logits.shape) - 1:
        return None
    perm = _last(len(logits.shape), (op.axis,))
    operands = list(value.inputs)
    operands[first] = _moved(logits, perm)
    moved = replace(op, axis=len(perm) - 1)(*operands)
    return _moved(moved, _inverse(perm)) if first else moved


# 2. axes apart -> one run of axes at a time


def reduce_apart(value: Value) -> Value | None:
    op = value.op
    if not isinstance(op, REDUCTIONS) or runs(value.inputs[0].shape, op.axes) is not None:
        return None
    x = value.inputs[0]
    for axis in sorted(op.axes, reverse=True):
        x = replace(op, axes=(axis,), keepdims=True)(x)
    return reshape(x, value.shape)


# 3. both operands transposed -> one


def matmul_both(value: Value) -> Value | None:
    op = value.op
    if not (isinstance(op, MatMul) and op.transpose_a and op.transpose_b):
        return None
    a, b = value.inputs
    rank = len(b.shape)
    return MatMul(True, False)(a, transpose(b, (*range(rank - 2), rank - 1, rank - 2)))


# 4. norms: axes at the end (rows); with sample weights, or all but one axis, at the start (columns)


def norm_axes(value: Value) -> Value | None:
    op = value.op
    if not isinstance(op, NORMS):
        return None
    count = 2 if isinstance(op, (NormalizeGrad, RmsNormalizeGrad)) else 1
    x, rank = value.inputs[count - 1], len(value.shape)
    weighted = len(value.inputs) > count
    run = runs(x.shape, op.axes)
    rms = isinstance(op, (RmsNormalize, RmsNormalizeGrad))
    if run and ((run[2] == 1 and not weighted) or (run[0] == 1 and not rms)):
        return None
    rest = tuple(a for a in range(rank) if a not in op.axes)
    perm = (*op.axes, *rest) if weighted else (*rest, *op.axes)
    axes = tuple(sorted(perm.index(a) for a in op.axes))
    moved = [_moved(v, perm) for v in value.inputs[:count]]
    return _moved(replace(op, axes=axes)(*moved, *value.inputs[count:]), _inverse(perm))


def batch_statistic(value: Value) -> Value | None:
    op = value.op
    if not isinstance(op, (BatchMean, BatchVariance)):
        return None
    x = value.inputs[0]
    run = runs(x.shape, op.axes)
    if run and run[0] == 1:
        return None
    rest = tuple(a for a in range(len(x.shape)) if a not in op.axes)
    axes = tuple(range(len(op.axes)))
    return replace(op, axes=axes)(_moved(x, (*op.axes, *rest)), *value.inputs[1:])


# 5. norms over columns: statistics of the columns, and the rest elementwise


def column_norm(value: Value) -> Value | None:
    """y = (x - mean) * r, r = 1 / sqrt(var + eps)"""
    if not isinstance(value.op, Normalize) or _by_rows(value.op, *value.inputs):
        return None
    return _normalized(value.inputs[0], value.inputs[1:], value.op)[0]


def column_norm_grad(value: Value) -> Value | None:
    """dx = r * (g - share * (sum of g + y * sum of g * y)), share = weight / total weight

    Where g = h * gamma, that is gamma * r * (h - share * (sum of h + y * sum of h * y)): the sums
    are then the gradients of beta and gamma.
    """
    op = value.op
    if not isinstance(op, NormalizeGrad) or _by_rows(op, *value.inputs[1:]):
        return None
    g, x, *weight = value.inputs
    y, r = _normalized(x, weight, Normalize(op.axes, op.eps))
    h, gamma = _scaled(g, r)
    of_h, of_hy = Sum(op.axes, True)(h), Sum(op.axes, True)(mul(h, y))
    mean = mul(_share(x, op.axes, weight), add(of_h, mul(y, of_hy)))
    return mul(sub(h, mean), r if gamma is None else mul(r, gamma))


def _by_rows(op: Normalize | NormalizeGrad, x: Value, *weight: Value) -> bool:
    """Whether the kernels for rows take it."""
    run = runs(x.shape, op.axes)
    return run is not None and run[2] == 1 and not weight


def _normalized(x: Value, weight: Sequence[Value], op: Normalize) -> tuple[Value, Value]:
    """y and r."""
    kept = tuple(1 if a in op.axes else n for a, n in enumerate(x.shape))
    mean, variance = (s(x, *weight) for s in (BatchMean(op.axes), BatchVariance(op.axes, True)))
    r = reshape(rsqrt(add(variance, op.eps)), kept)
    return mul(sub(x, reshape(mean, kept)), r), r


def _scaled(g: Value, column: Value) -> tuple[Value, Value | None]:
    """(h, gamma), where g = h * gamma and gamma is a number a column, else (g, None)."""
    if isinstance(g.op, Mul):
        for h, gamma in (g.inputs, g.inputs[::-1]):
            if h.shape == g.shape and gamma.shape == column.shape:
                return h, gamma
    return g, None


def _share(x: Value, axes: Shape, weight: Sequence[Value]) -> Value | float:
    """What each row counts in a mean over `axes`."""
    if not weight:
        return 1 / prod(x.shape[a] for a in axes)
    total = mul(Sum((0,), True)(weight[0]), prod(x.shape[a] for a in axes if a))
    return reshape(div(weight[0], total), (-1, *(1,) * (len(x.shape) - 1)))


RULES = (
    transpose_twice,
    transpose_in_order,
    softmax_axis,
    cross_entropy_axis,
    reduce_apart,
    matmul_both,
    norm_axes,
    batch_statistic,
    column_norm,
    column_norm_grad,
)
