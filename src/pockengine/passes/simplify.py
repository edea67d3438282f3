"""Algebraic identities, one rule each: `before -> after` is its docstring.

    Reshape(Reshape(x)), Transpose(Transpose(x)), Slice(Slice(x))   ->  one of them, or x
    x * 1, x + 0, x - 0, x / 1, -(-x), Cast to its own dtype         ->  x
    (x * 2) * 3                                                     ->  x * 6
    BroadcastTo(x) + y                                              ->  x + y

A rule never changes the type of a value, nor its meaning but for rounding.
"""

from dataclasses import replace
from math import prod

import numpy as np

from pockengine.ir.graph import Graph
from pockengine.ir.op import Op, Value
from pockengine.ir.rewrite import Rule, only, rewrite
from pockengine.ir.types import NUMPY, Shape
from pockengine.ops.constant import Full
from pockengine.ops.conv import Conv
from pockengine.ops.elementwise import Add, Cast, Div, Mul, Neg, Sub, Where
from pockengine.ops.matmul import MatMul
from pockengine.ops.reduce import Max, Mean, Min, Prod, Sum
from pockengine.ops.shape import BroadcastTo, Concat, Pad, Reshape, Slice, Transpose

NEUTRAL: dict[type[Op], float] = {Add: 0.0, Sub: 0.0, Mul: 1.0, Div: 1.0}


def simplify(graph: Graph) -> Graph:
    """The graph after all rules, to a fixed point."""
    return rewrite(graph, RULES)


def uniform(value: Value) -> float | int | bool | None:
    """The number that every element is, where a Full says so."""
    while isinstance(value.op, (Reshape, BroadcastTo, Transpose)):
        (value,) = value.inputs
    return value.op.value if isinstance(value.op, Full) else None


def full_like(value: Value, number: float | int | bool) -> Value:
    """A Full of the value's type."""
    return Full(value.shape, value.dtype, number)()


# ---- shapes --------------------------------------------------------------------------------------


@only(Reshape, BroadcastTo, Cast, Pad, Concat)
def same_shape(value: Value) -> Value | None:
    """Reshape, BroadcastTo, Cast, Pad or Concat that changes nothing -> its operand"""
    if isinstance(value.op, (Reshape, BroadcastTo, Cast, Pad, Concat)) and len(value.inputs) == 1:
        return value.inputs[0] if value.inputs[0].type == value.type else None
    return None


@only(Reshape)
def reshape_twice(value: Value) -> Value | None:
    """Reshape(Reshape(x)) -> Reshape(x)"""
    if isinstance(value.op, Reshape) and isinstance(value.inputs[0].op, Reshape):
        return value.op(*value.inputs[0].inputs, source=value.source)
    return None


@only(BroadcastTo)
def broadcast_twice(value: Value) -> Value | None:
    """BroadcastTo(BroadcastTo(x)) -> BroadcastTo(x)"""
    if isinstance(value.op, BroadcastTo) and isinstance(value.inputs[0].op, BroadcastTo):
        return value.op(*value.inputs[0].inputs, source=value.source)
    return None


@only(Transpose)
def transpose_twice(value: Value) -> Value | None:
    """Transpose(q)(Transpose(p)(x)) -> Transpose(p after q)(x)"""
    if isinstance(value.op, Transpose) and isinstance(value.inputs[0].op, Transpose):
        inner = value.inputs[0]
        perm = tuple(inner.op.perm[i] for i in value.op.perm)  # type: ignore[attr-defined]
        return Transpose(perm)(*inner.inputs, source=value.source)
    return None


@only(Transpose)
def transpose_in_order(value: Value) -> Value | None:
    """Transpose that leaves the axes longer than 1 in their order -> Reshape"""
    if isinstance(value.op, Transpose):
        (x,) = value.inputs
        moved = [axis for axis in value.op.perm if x.shape[axis] != 1]
        if moved == sorted(moved):
            return Reshape(value.shape)(x, source=value.source)
    return None


@only(Slice)
def slice_everything(value: Value) -> Value | None:
    """Slice of a whole axis -> x"""
    if isinstance(value.op, Slice) and value.type == value.inputs[0].type:
        return value.inputs[0] if value.shape[value.op.axis] != 0 else None
    return None


@only(Slice)
def slice_twice(value: Value) -> Value | None:
    """Slice(Slice(x)) along one axis -> Slice(x)"""
    inner = value.inputs[0] if isinstance(value.op, Slice) else value
    if not (isinstance(value.op, Slice) and isinstance(inner.op, Slice)):
        return None
    if value.op.axis != inner.op.axis:
        return None
    index = range(inner.inputs[0].shape[inner.op.axis])[
        inner.op.start : inner.op.stop : inner.op.step
    ][value.op.start : value.op.stop : value.op.step]
    op = Slice(value.op.axis, index.start, index.stop, index.step)
    return op(*inner.inputs, source=value.source)


@only(Sum, Mean, Max, Min, Prod)
def reduce_nothing(value: Value) -> Value | None:
    """Sum, Mean, Max, Min or Prod over axes of size 1 -> Reshape(x)"""
    if isinstance(value.op, (Sum, Mean, Max, Min, Prod)):
        (x,) = value.inputs
        if prod(x.shape[a] for a in value.op.axes) == 1:
            return Reshape(value.shape)(x, source=value.source)
    return None


def broadcast_operand(value: Value) -> Value | None:
    """BroadcastTo(x) + y -> x + y, for any elementwise operator that broadcasts by itself"""
    if not value.op.elementwise:
        return None
    operands = list(value.inputs)
    for i, operand in enumerate(operands):
        if isinstance(operand.op, BroadcastTo):
            narrow = [*operands[:i], operand.inputs[0], *operands[i + 1 :]]
            if np.broadcast_shapes(*(v.shape for v in narrow)) == value.shape:
                operands = narrow
    return None if operands == list(value.inputs) else value.op(*operands, source=value.source)


@only(MatMul)
def transpose_in_product(value: Value) -> Value | None:
    """Transpose of the last two axes, then MatMul -> MatMul that reads it transposed

    Never both operands: back ends have no kernel for that, and write a Transpose instead.
    """
    if not isinstance(value.op, MatMul):
        return None
    flags, operands = [value.op.transpose_a, value.op.transpose_b], list(value.inputs)
    for i, operand in enumerate(operands):
        turned = isinstance(operand.op, Transpose) and operand.op.perm == swapped(operand.type.rank)
        if turned and (flags[i] or not flags[1 - i]):
            flags[i], operands[i] = not flags[i], operand.inputs[0]
    if operands == list(value.inputs):
        return None
    return MatMul(*flags)(*operands, source=value.source)


def swapped(rank: int) -> Shape:
    """The permutation that exchanges the last two axes."""
    return (*range(rank - 2), rank - 1, rank - 2)


@only(Conv)
def pad_in_window(value: Value) -> Value | None:
    """Conv(Pad(x)) -> Conv(x) with more padding, where the spatial axes are padded with zeros"""
    inner = value.inputs[0] if isinstance(value.op, Conv) else value
    if not (isinstance(value.op, Conv) and isinstance(inner.op, Pad)) or inner.op.value != 0:
        return None
    first = 1 if value.op.channels_last else 2
    axes = range(first, first + len(value.op.stride))
    added = list(zip(inner.op.low, inner.op.high, strict=True))
    if any(pair != (0, 0) for axis, pair in enumerate(added) if axis not in axes):
        return None
    pairs = zip(value.op.padding, (added[axis] for axis in axes), strict=True)
    padding = tuple((lo + low, hi + high) for (lo, hi), (low, high) in pairs)
    op = replace(value.op, padding=padding)
    return op(*inner.inputs, *value.inputs[1:], source=value.source)


# ---- numbers -------------------------------------------------------------------------------------


@only(Reshape, BroadcastTo, Transpose)
def full_moved(value: Value) -> Value | None:
    """Reshape, BroadcastTo or Transpose of a Full -> Full"""
    if isinstance(value.op, (Reshape, BroadcastTo, Transpose)):
        number = uniform(value)
        return None if number is None else full_like(value, number)
    return None


def full_computed(value: Value) -> Value | None:
    """An elementwise operator on numbers -> Full"""
    if not (value.op.elementwise and value.inputs):
        return None
    numbers = [uniform(v) for v in value.inputs]
    if any(n is None for n in numbers):
        return None
    arrays = (np.asarray(n, NUMPY[v.dtype]) for n, v in zip(numbers, value.inputs, strict=True))
    with np.errstate(all="ignore"):
        result = value.op.ref(*arrays)
    return full_like(value, np.asarray(result).astype(NUMPY[value.dtype]).item())


@only(*NEUTRAL)
def neutral(value: Value) -> Value | None:
    """x + 0, 0 + x, x - 0, x * 1, 1 * x, x / 1 -> x"""
    number = NEUTRAL.get(type(value.op))
    if number is None:
        return None
    x, y = value.inputs
    if uniform(y) == number and x.type == value.type:
        return x
    return y if value.op.commutative and uniform(x) == number and y.type == value.type else None


@only(Add, Mul)
def number_second(value: Value) -> Value | None:
    """2 * x -> x * 2"""
    if isinstance(value.op, (Add, Mul)):
        x, y = value.inputs
        if uniform(x) is not None and uniform(y) is None:
            return value.op(y, x, source=value.source)
    return None


@only(Add, Mul)
def numbers_twice(value: Value) -> Value | None:
    """(x * 2) * 3 -> x * 6, (x + 2) + 3 -> x + 5"""
    if not isinstance(value.op, (Add, Mul)) or type(value.inputs[0].op) is not type(value.op):
        return None
    (x, y), (inner_x, inner_y) = value.inputs, value.inputs[0].inputs
    a, b = uniform(inner_y), uniform(y)
    if a is None or b is None or not x.type.is_float or inner_x.type != value.type:
        return None
    number = a * b if isinstance(value.op, Mul) else a + b
    return value.op(inner_x, Full((), value.dtype, number)(), source=value.source)


@only(Neg)
def negate_twice(value: Value) -> Value | None:
    """-(-x) -> x"""
    if isinstance(value.op, Neg) and isinstance(value.inputs[0].op, Neg):
        return value.inputs[0].inputs[0]
    return None


@only(Where)
def where_known(value: Value) -> Value | None:
    """Where(True, a, b) -> a, Where(False, a, b) -> b"""
    if isinstance(value.op, Where):
        known = uniform(value.inputs[0])
        if known is not None:
            chosen = value.inputs[1 if known else 2]
            return chosen if chosen.type == value.type else BroadcastTo(value.shape)(chosen)
    return None


RULES: tuple[Rule, ...] = (
    same_shape,
    full_moved,
    full_computed,
    reshape_twice,
    broadcast_twice,
    transpose_twice,
    transpose_in_order,
    slice_everything,
    slice_twice,
    reduce_nothing,
    transpose_in_product,
    pad_in_window,
    broadcast_operand,
    neutral,
    number_second,
    numbers_twice,
    negate_twice,
    where_known,
)
