"""PyTorch operators that look tensors up by index."""

import math
from collections.abc import Sequence

import numpy as np

from pockengine.frontends.torch_context import (
    BatchFixed,
    Context,
    Handler,
    Refused,
    Scalar,
    axis_of,
    operand,
    to,
)
from pockengine.frontends.torch_shape import broadcast, reshaped, sliced, taken, transposed
from pockengine.ir.op import Array, Value
from pockengine.ir.types import holds_batch
from pockengine.ops import elementwise as ew
from pockengine.ops.build import add, mul
from pockengine.ops.constant import Iota
from pockengine.ops.index import Gather, GatherElements, Put

TAKE_LIMIT = 64  # more places than this become a constant tensor, not a field of the operator


def _embedding(
    ctx: Context,
    weight: Value,
    indices: Value,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Value:
    if scale_grad_by_freq:
        raise Refused("gradients scaled by the frequency of an index")
    rows = Gather(0)(weight, indices)
    if padding_idx < 0:
        return rows
    padding = ew.Equal()(indices, operand(padding_idx, indices.dtype))
    # The row of the padding token is used, and never trained.
    return ew.Where()(reshaped(padding, (*padding.shape, 1)), ew.StopGradient()(rows), rows)


def _index_select(ctx: Context, x: Value, dim: int, index: Value) -> Value:
    return gathered(ctx, x, axis_of(dim, x.type.rank), index)


def gathered(ctx: Context, x: Value, axis: int, index: Value) -> Value:
    """x with the axis replaced by the axes of `index`; negative places count from the end."""
    known = ctx.constant(index)
    if known is None:
        return Gather(axis)(x, _from_front(index, x.shape[axis]))
    places = np.asarray(known) % x.shape[axis]
    flat = places.ravel()
    if holds_batch(x.shape[axis]) and flat.max(initial=0) >= TAKE_LIMIT:
        raise BatchFixed("picks samples of the batch by number")
    if flat.size <= TAKE_LIMIT and len(set(flat.tolist())) == flat.size:
        shape = (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
        return reshaped(taken(x, axis, flat), shape)
    return Gather(axis)(x, ctx.const(places.astype(np.int64)))


def _from_front(index: Value, size: int) -> Value:
    if holds_batch(size):
        return index
    return ew.Where()(ew.Less()(index, operand(0, index.dtype)), add(index, size), index)


def _gather(ctx: Context, x: Value, dim: int, index: Value, sparse_grad: bool = False) -> Value:
    axis = axis_of(dim, x.type.rank)
    for a, n in enumerate(index.shape):
        x = x if a == axis else sliced(x, a, 0, n)
    return GatherElements(axis)(x, index)


def _index(ctx: Context, x: Value, indices: Sequence[Value | None]) -> Value:
    axes = [a for a, i in enumerate(indices) if i is not None]
    chosen = [i for i in indices if i is not None]
    if any(i.dtype == "bool" for i in chosen):
        return _index_by_mask(ctx, x, axes, chosen)
    if axes != list(range(axes[0], axes[-1] + 1)):  # PyTorch then puts the new axes first
        x = transposed(x, [*axes, *(a for a in range(x.type.rank) if a not in axes)])
        axes = list(range(len(axes)))
    return _index_adjacent(ctx, x, axes, chosen)


def _index_adjacent(ctx: Context, x: Value, axes: Sequence[int], chosen: Sequence[Value]) -> Value:
    """Several neighbouring axes are looked up as one, by the number of the element in them."""
    first, last = axes[0], axes[-1] + 1
    if len(axes) == 1:
        return gathered(ctx, x, first, chosen[0])
    place = _flat_place(chosen, x.shape[first:last])
    merged = reshaped(x, (*x.shape[:first], math.prod(x.shape[first:last]), *x.shape[last:]))
    known = ctx.constant(place)
    return gathered(ctx, merged, first, place if known is None else ctx.const(known))


def _flat_place(chosen: Sequence[Value], sizes: Sequence[int]) -> Value:
    total = _from_front(to(chosen[0], "i64"), sizes[0])
    for index, size in zip(chosen[1:], sizes[1:], strict=True):
        total = add(mul(total, size), _from_front(to(index, "i64"), size))
    return total


def _index_by_mask(ctx: Context, x: Value, axes: Sequence[int], masks: Sequence[Value]) -> Value:
    known = ctx.constant(masks[0])
    if len(masks) > 1 or known is None:
        raise Refused("selection by a mask that is computed: the shape would depend on the data")
    place = np.flatnonzero(known)
    first, last = axes[0], axes[0] + known.ndim
    merged = reshaped(x, (*x.shape[:first], known.size, *x.shape[last:]))
    return gathered(ctx, merged, first, ctx.const(place))


def _index_put(
    ctx: Context,
    x: Value,
    indices: Sequence[Value | None],
    values: Value,
    accumulate: bool = False,
) -> Value:
    chosen = [i for i in indices if i is not None]
    if accumulate or len(chosen) != 1:
        raise Refused("writing at computed places")
    if chosen[0].dtype == "bool" and values.type.size == 1:
        mask = reshaped(chosen[0], (*chosen[0].shape, *(1,) * (x.type.rank - chosen[0].type.rank)))
        return ew.Where()(mask, to(values, x.dtype), x)
    known = ctx.constant(chosen[0])
    if known is None or known.ndim != 1:
        raise Refused("writing at computed places")
    return _put(x, len(indices) - 1, known, values)


def _put(x: Value, axis: int, known: Array, values: Value) -> Value:
    places = np.flatnonzero(known) if known.dtype == bool else known % x.shape[axis]
    shape = (*x.shape[:axis], len(places), *x.shape[axis + 1 :])
    piece = broadcast(to(values, x.dtype), shape)
    return Put(axis, tuple(int(i) for i in places))(x, piece)


def _scatter(
    ctx: Context, x: Value, dim: int, index: Value, value: Scalar, **kwargs: object
) -> Value:
    """Writes at one place along `dim` for every row, as one-hot vectors are made."""
    axis = axis_of(dim, x.type.rank)
    rows = [a for a in range(x.type.rank) if a != axis]
    if index.shape[axis] != 1 or any(index.shape[a] != x.shape[a] for a in rows) or kwargs:
        raise Refused("scattering to more than one place in a row")
    count = [x.shape[axis] if a == axis else 1 for a in range(x.type.rank)]
    here = ew.Equal()(Iota(tuple(count), axis, index.dtype)(), index)
    return ew.Where()(here, operand(value, x.dtype), x)


def _one_hot(ctx: Context, x: Value, num_classes: int = -1) -> Value:
    classes = ctx.result.shape[-1]
    here = ew.Equal()(reshaped(x, (*x.shape, 1)), Iota((classes,), 0, x.dtype)())
    return to(here, ctx.result.dtype)


def _take(ctx: Context, x: Value, index: Value) -> Value:
    return gathered(ctx, reshaped(x, (x.type.size,)), 0, index)


HANDLERS: dict[str, Handler] = {
    "embedding": _embedding,
    "index_select": _index_select,
    "gather": _gather,
    "index": _index,
    "index_put": _index_put,
    "scatter": _scatter,
    "one_hot": _one_hot,
    "take": _take,
}
