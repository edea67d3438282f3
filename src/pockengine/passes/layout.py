"""Turns channels-first convolutions, pooling and resizing into channels-last.

    y = Conv(x, w)  ->  y = first(Conv_last(last(x), w'))    last = Transpose(0, 2, 3, 1), w' = HWIO

Transposes then move towards the outputs, through whatever does not mind the order of the axes, and
cancel where they meet: in a usual network only the one at the input is left, and one where a map of
several pixels is flattened. It runs before autodiff: the backward pass is born channels-last.
"""

from dataclasses import replace
from functools import partial
from math import prod

import numpy as np

from pockengine.ir.graph import Const, Graph, Leaf, Param, leaf
from pockengine.ir.memo import ARRAYS, Memo
from pockengine.ir.op import Array, Value
from pockengine.ir.rewrite import Rule, only, rewrite, substitute, transform
from pockengine.ir.types import Shape
from pockengine.ops.conv import Conv, ConvInputGrad
from pockengine.ops.index import Take
from pockengine.ops.loss import CrossEntropy
from pockengine.ops.norm import BatchMean, BatchVariance, Normalize, RmsNormalize
from pockengine.ops.pool import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, MaxPool
from pockengine.ops.reduce import ArgMax, CumSum, Max, Mean, Min, Prod, Sum
from pockengine.ops.resize import Resize
from pockengine.ops.shape import Concat, Flip, Pad, Reshape, Slice, Transpose
from pockengine.ops.softmax import LogSoftmax, Softmax
from pockengine.passes.fold import constant_name
from pockengine.passes.simplify import (
    reshape_twice,
    same_shape,
    transpose_in_order,
    transpose_twice,
)

Layouts = dict[str, Shape]
WEIGHTED = (Conv, ConvInputGrad)
SPATIAL = (AvgPool, MaxPool, AdaptiveAvgPool, AdaptiveMaxPool, Resize)


def channels_last(graph: Graph, memo: Memo | None = None) -> tuple[Graph, Layouts]:
    """The channels-last graph, and for each Param whose axes moved: new = old.transpose(perm)."""
    graph, layouts = _permute_weights(graph, memo or Memo())
    return rewrite(transform(graph, _convert), RULES), layouts


def order(rank: int) -> Shape:
    """The permutation to channels-last: (0, 2, ..., rank - 1, 1)."""
    return (0, *range(2, rank), 1)


def weight_order(rank: int) -> Shape:
    """The permutation of a weight: [O, C/g, *K] -> [*K, C/g, O]."""
    return (*range(2, rank), 1, 0)


def inverse(perm: Shape) -> Shape:
    """The permutation that undoes `perm`."""
    return tuple(int(i) for i in np.argsort(perm))


def _permute_weights(graph: Graph, memo: Memo) -> tuple[Graph, Layouts]:
    """Stores weights of channels-first convolutions channels-last; readers see them as before."""
    layouts: Layouts = {}
    leaves: dict[Value, Value] = {}
    data: dict[str, Array] = {}
    for value in graph.values():
        if not isinstance(value.op, WEIGHTED) or value.op.channels_last:
            continue
        w = value.inputs[1]
        if isinstance(w.op, (Param, Const)) and w not in leaves:
            perm = weight_order(w.type.rank)
            old = graph.data[w.op.name]
            make = partial(_permuted, w.op, old, perm)
            name, array = memo.of("permuted", old, make, w.op.name, limit=ARRAYS)
            leaves[w] = Transpose(inverse(perm))(leaf(type(w.op), name, array))
            data[name] = array
            if isinstance(w.op, Param):
                layouts[name] = perm
    return substitute(graph.with_data(**data), leaves), layouts


def _permuted(op: Leaf, old: Array, perm: Shape) -> tuple[str, Array]:
    """The name and the contents of a weight whose axes move."""
    array = np.ascontiguousarray(old.transpose(perm))
    return constant_name(array) if isinstance(op, Const) else op.name, array


def _convert(value: Value) -> Value:
    op = value.op
    if not isinstance(op, (*WEIGHTED, *SPATIAL)) or op.channels_last:
        return value
    perm = order(value.type.rank)
    x, *weights = value.inputs
    moved = [Transpose(weight_order(w.type.rank))(w) for w in weights]
    last = replace(op, channels_last=True)(Transpose(perm)(x), *moved, source=value.source)
    return Transpose(inverse(perm))(last)


# ---- rules: op(Transpose(x)) -> Transpose(op(x)) -------------------------------------------------


def _perm(value: Value) -> Shape | None:
    return value.op.perm if isinstance(value.op, Transpose) else None


def sink_elementwise(value: Value) -> Value | None:
    """Relu(T(x)) -> T(Relu(x)); T(x) + T(y) -> T(x + y); T(x) + small -> T(x + moved small)"""
    if not value.op.elementwise:
        return None
    whole = [v for v in value.inputs if _perm(v) and v.shape == value.shape]
    if not whole:
        return None
    perm = max((_perm(v) or () for v in whole), key=[_perm(v) for v in whole].count)
    operands = [_moved(v, perm, value) for v in value.inputs]
    if any(v is None for v in operands):
        return None
    return Transpose(perm)(value.op(*[v for v in operands if v], source=value.source))


def _moved(operand: Value, perm: Shape, result: Value) -> Value | None:
    """The operand under the inverse of `perm`; None if that would move a large tensor."""
    if _perm(operand) == perm:
        return operand.inputs[0]
    if operand.type.nbytes >= result.type.nbytes and operand.type.size > 1:
        return None
    if operand.type.size == 1 and operand.type.rank == 0:
        return operand
    shape = (1,) * (len(perm) - operand.type.rank) + operand.shape
    return Transpose(inverse(perm))(Reshape(shape)(operand))


@only(Sum, Mean, Max, Min, Prod, BatchMean, BatchVariance)
def sink_reduction(value: Value) -> Value | None:
    """Mean(axes)(T(x)) -> T(Mean(perm of axes)(x)), without the axes that are gone"""
    op, perm = value.op, _operand_perm(value)
    if perm is None or not isinstance(op, (Sum, Mean, Max, Min, Prod, BatchMean, BatchVariance)):
        return None
    if len(value.inputs) == 2 and perm[0] != 0:
        return None  # weights go along axis 0
    axes = tuple(sorted(perm[a] for a in op.axes))
    reduced = replace(op, axes=axes)(*_under(value), source=value.source)
    keeps = getattr(op, "keepdims", False)
    return Transpose(perm if keeps else _without(perm, axes))(reduced)


def _without(perm: Shape, axes: Shape) -> Shape:
    """The permutation of the axes that are left when `axes` of the operand are gone."""
    left = [p for p in perm if p not in axes]
    return tuple(sorted(left).index(p) for p in left)


@only(Softmax, LogSoftmax, CumSum, Slice, Take)
def sink_one_axis(value: Value) -> Value | None:
    """Softmax(axis)(T(x)) -> T(Softmax(perm of axis)(x)), and others that name one axis"""
    perm = _operand_perm(value)
    if perm is None or not isinstance(value.op, (Softmax, LogSoftmax, CumSum, Slice, Take)):
        return None
    op = replace(value.op, axis=perm[value.op.axis])
    return Transpose(perm)(op(*_under(value), source=value.source))


@only(ArgMax)
def sink_argmax(value: Value) -> Value | None:
    """ArgMax(axis)(T(x)) -> T(ArgMax(perm of axis)(x)), without the axis that is gone"""
    perm = _operand_perm(value)
    if perm is None or not isinstance(value.op, ArgMax):
        return None
    axis = perm[value.op.axis]
    best = replace(value.op, axis=axis)(*_under(value), source=value.source)
    return Transpose(perm if value.op.keepdims else _without(perm, (axis,)))(best)


@only(Normalize, RmsNormalize, Flip)
def sink_many_axes(value: Value) -> Value | None:
    """Normalize(axes)(T(x)) -> T(Normalize(perm of axes)(x)), and Flip"""
    perm = _operand_perm(value)
    if perm is None or not isinstance(value.op, (Normalize, RmsNormalize, Flip)):
        return None
    if len(value.inputs) == 2 and perm[0] != 0:
        return None  # weights go along axis 0
    op = replace(value.op, axes=tuple(sorted(perm[a] for a in value.op.axes)))
    return Transpose(perm)(op(*_under(value), source=value.source))


@only(Pad)
def sink_pad(value: Value) -> Value | None:
    """Pad(low, high)(T(x)) -> T(Pad(moved low, moved high)(x))"""
    perm = _operand_perm(value)
    if perm is None or not isinstance(value.op, Pad):
        return None
    back = inverse(perm)
    low, high = (tuple(field[i] for i in back) for field in (value.op.low, value.op.high))
    op = replace(value.op, low=low, high=high)
    return Transpose(perm)(op(*_under(value), source=value.source))


@only(Concat)
def sink_concat(value: Value) -> Value | None:
    """Concat(axis)(T(x), T(y)) -> T(Concat(perm of axis)(x, y)); up to half of it may be moved"""
    if not isinstance(value.op, Concat):
        return None
    perms = [_perm(v) for v in value.inputs]
    perm = max(perms, key=perms.count)
    if perm is None:
        return None
    own = sum(v.type.nbytes for v in value.inputs if _perm(v) == perm)
    if 2 * own < value.type.nbytes:
        return None
    moved = [Transpose(inverse(perm))(v) for v in value.inputs]
    op = replace(value.op, axis=perm[value.op.axis])
    return Transpose(perm)(op(*moved, source=value.source))


@only(CrossEntropy)
def sink_cross_entropy(value: Value) -> Value | None:
    """CrossEntropy(axis)(T(x), labels) -> CrossEntropy(perm of axis)(x, labels), labels in order"""
    perm = _operand_perm(value)
    if perm is None or not isinstance(value.op, CrossEntropy):
        return None
    axis = perm[value.op.axis]
    rest = _without(perm, (axis,))
    if rest != tuple(range(len(rest))):
        return None
    return replace(value.op, axis=axis)(*_under(value), source=value.source)


@only(Reshape)
def sink_reshape(value: Value) -> Value | None:
    """Reshape(T(x)) -> T'(Reshape(x)): each block of axes that is split or joined moves as a whole

    [N, H, W, C] -> T -> [N, C, H, W] -> [N, g, C/g, H, W] is [N, H, W, g, C/g] under another T.
    What must be reordered inside a block stays before the Reshape, as in a shuffle of channels.
    """
    perm = _operand_perm(value)
    if perm is None or not isinstance(value.op, Reshape):
        return None
    (x,) = _under(value)
    blocks = _blocks(value.inputs[0].shape, value.shape)
    if blocks is None:
        return None
    first = [min(perm[a] for a in axes) if axes else -1 for axes, _ in blocks]
    sequence = sorted(range(len(blocks)), key=lambda b: first[b])
    if sequence == list(range(len(blocks))):
        return None
    inner = tuple(perm[a] for b in sequence for a in blocks[b][0])
    shape = tuple(value.shape[a] for b in sequence for a in blocks[b][1])
    outer = inverse(tuple(a for b in sequence for a in blocks[b][1]))
    rank = len(shape)
    if inner != tuple(range(len(inner))) and not (rank >= 4 and outer == inverse(order(rank))):
        return None  # two transpositions for one, and no image to meet another
    return Transpose(outer)(Reshape(shape)(Transpose(inner)(x), source=value.source))


def _blocks(old: Shape, new: Shape) -> list[tuple[Shape, Shape]] | None:
    """The shortest blocks of consecutive axes (of old, of new) with equal sizes, in order.

    >>> _blocks((2, 6, 5), (2, 2, 3, 5))
    [((0,), (0,)), ((1,), (1, 2)), ((2,), (3,))]
    """
    blocks, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        a, b = i, j
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while prod(old[a:i]) != prod(new[b:j]):
            if prod(old[a:i]) < prod(new[b:j]) and i < len(old):
                i += 1
            elif j < len(new):
                j += 1
            else:
                return None  # an axis of size 0
        blocks.append((tuple(range(a, i)), tuple(range(b, j))))
    return blocks


def _operand_perm(value: Value) -> Shape | None:
    return _perm(value.inputs[0]) if value.inputs else None


def _under(value: Value) -> list[Value]:
    """The operands, the first without its Transpose."""
    return [*value.inputs[0].inputs, *value.inputs[1:]]


RULES: tuple[Rule, ...] = (
    same_shape,
    reshape_twice,
    transpose_twice,
    transpose_in_order,
    sink_elementwise,
    sink_reduction,
    sink_one_axis,
    sink_argmax,
    sink_many_axes,
    sink_pad,
    sink_concat,
    sink_cross_entropy,
    sink_reshape,
)
