"""PyTorch operators that make, move or rearrange data."""

import itertools
from collections.abc import Sequence

import numpy as np

from pockengine.frontends.torch_context import (
    BatchFixed,
    Context,
    Handler,
    Number,
    Refused,
    Scalar,
    axes_of,
    axis_of,
    cast_number,
    operand,
    plain,
    to,
    trained_cone,
)
from pockengine.ir.op import Value
from pockengine.ir.types import holds_batch
from pockengine.ops import elementwise as ew
from pockengine.ops import shape as sh
from pockengine.ops.build import add, mul
from pockengine.ops.constant import Full, Iota
from pockengine.ops.index import Put, Take

MANY = (
    64  # a bound below this on a batch axis is taken as a plain number, not one made from the batch
)


def reshaped(x: Value, shape: Sequence[int]) -> Value:
    """`x` with another shape."""
    return x if x.shape == tuple(shape) else sh.Reshape(tuple(shape))(x)


def transposed(x: Value, perm: Sequence[int]) -> Value:
    """`x` with its axes permuted."""
    return x if list(perm) == list(range(len(perm))) else sh.Transpose(tuple(perm))(x)


def broadcast(x: Value, shape: Sequence[int]) -> Value:
    """`x` repeated to `shape`."""
    return x if x.shape == tuple(shape) else sh.BroadcastTo(tuple(shape))(x)


def sliced(x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
    """Elements start, start + step, ... below stop along `axis`."""
    size = x.shape[axis]
    if (start, stop, step) == (0, size, 1):
        return x
    if holds_batch(size):
        _check_batch_bounds(start, stop, step)
    return sh.Slice(axis, start, stop, step)(x)


def _check_batch_bounds(start: int, stop: int, step: int) -> None:
    bounds_scale = all(b < MANY or holds_batch(b) for b in (start, stop))
    if not bounds_scale or (step != 1 and step >= MANY):
        raise BatchFixed("cuts the batch at a place that depends on the batch size")


def concatenated(xs: Sequence[Value], axis: int) -> Value:
    """The values one after another along `axis`."""
    return xs[0] if len(xs) == 1 else sh.Concat(axis)(*xs)


def filled(ctx: Context, value: Scalar) -> Value:
    """The node's result filled with one number."""
    if isinstance(value, Value):
        return broadcast(to(value, ctx.result.dtype), ctx.result.shape)
    number = cast_number(plain(value), ctx.result.dtype)
    return Full(ctx.result.shape, ctx.result.dtype, number)()


def _same(ctx: Context, x: Value, *args: object, **kwargs: object) -> Value:
    return x


def _detach(ctx: Context, x: Value) -> Value:
    return ew.StopGradient()(x) if trained_cone(x) else x


def _reshape(ctx: Context, x: Value, *args: object) -> Value:
    return reshaped(x, ctx.result.shape)


def _expand(ctx: Context, x: Value, *args: object, **kwargs: object) -> Value:
    return broadcast(x, ctx.result.shape)


def _permute(ctx: Context, x: Value, dims: Sequence[int]) -> Value:
    return transposed(x, [axis_of(d, x.type.rank) for d in dims])


def _transpose(ctx: Context, x: Value, a: int = 0, b: int = 1) -> Value:
    if x.type.rank < 2:
        return x
    perm = list(range(x.type.rank))
    a, b = axis_of(a, x.type.rank), axis_of(b, x.type.rank)
    perm[a], perm[b] = b, a
    return transposed(x, perm)


def _slice(
    ctx: Context,
    x: Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    axis = axis_of(dim, x.type.rank)
    first, last = _bounds(x.shape[axis], start, end)
    return sliced(x, axis, first, max(first, last), step)


def _bounds(size: int, start: int | None, end: int | None) -> tuple[int, int]:
    return slice(start, end).indices(size)[:2]


def _select(ctx: Context, x: Value, dim: int, index: int) -> Value:
    axis = axis_of(dim, x.type.rank)
    start = index % x.shape[axis]
    return reshaped(sliced(x, axis, start, start + 1), ctx.result.shape)


def _narrow(ctx: Context, x: Value, dim: int, start: int, length: int) -> Value:
    axis = axis_of(dim, x.type.rank)
    start = start % x.shape[axis]
    return sliced(x, axis, start, start + length)


def _cat(ctx: Context, tensors: Sequence[Value], dim: int = 0) -> Value:
    dtype, rank = ctx.result.dtype, ctx.result.rank
    # PyTorch lets an empty 1-D tensor stand in any concatenation.
    xs = [to(x, dtype) for x in tensors if x.type.rank == rank and x.type.size]
    return concatenated(xs, axis_of(dim, rank)) if xs else to(tensors[0], dtype)


def _stack(ctx: Context, tensors: Sequence[Value], dim: int = 0) -> Value:
    axis = axis_of(dim, ctx.result.rank)
    piece = [1 if i == axis else d for i, d in enumerate(ctx.result.shape)]
    return concatenated([reshaped(to(x, ctx.result.dtype), piece) for x in tensors], axis)


def _pieces(x: Value, axis: int, sizes: Sequence[int]) -> tuple[Value, ...]:
    ends = list(itertools.accumulate(sizes))
    starts = [0, *ends[:-1]]
    return tuple(sliced(x, axis, a, b) for a, b in zip(starts, ends, strict=True))


def _split(ctx: Context, x: Value, sizes: int | Sequence[int], dim: int = 0) -> tuple[Value, ...]:
    axis = axis_of(dim, x.type.rank)
    if isinstance(sizes, int):
        total = x.shape[axis]
        sizes = [min(sizes, total - at) for at in range(0, total, sizes)]
    return _pieces(x, axis, sizes)


def _chunk(ctx: Context, x: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    axis = axis_of(dim, x.type.rank)
    return _split(ctx, x, -(-x.shape[axis] // chunks), axis)


def _unbind(ctx: Context, x: Value, dim: int = 0) -> tuple[Value, ...]:
    axis = axis_of(dim, x.type.rank)
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    pieces = _pieces(x, axis, [1] * x.shape[axis])
    return tuple(reshaped(p, shape) for p in pieces)


def _constant_pad(ctx: Context, x: Value, pad: Sequence[int], value: Number = 0) -> Value:
    low, high = _pad_amounts(pad, x.type.rank)
    for axis in range(x.type.rank):  # a negative amount cuts
        size = x.shape[axis]
        x = sliced(x, axis, max(0, -low[axis]), size - max(0, -high[axis]))
    low, high = [max(0, p) for p in low], [max(0, p) for p in high]
    if not any(low) and not any(high):
        return x
    return sh.Pad(tuple(low), tuple(high), cast_number(value, x.dtype))(x)


def _pad_amounts(pad: Sequence[int], rank: int) -> tuple[list[int], list[int]]:
    low, high = [0] * rank, [0] * rank
    for i in range(len(pad) // 2):  # ATen starts with the last axis
        low[rank - 1 - i], high[rank - 1 - i] = pad[2 * i], pad[2 * i + 1]
    return low, high


def _pad(
    ctx: Context, x: Value, pad: Sequence[int], mode: str = "constant", value: Number | None = None
) -> Value:
    if mode == "constant":
        return _constant_pad(ctx, x, pad, value or 0)
    return _padded_by_index(x, pad, mode)


def _padded_by_index(x: Value, pad: Sequence[int], mode: str) -> Value:
    numpy_mode = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    low, high = _pad_amounts(pad, x.type.rank)
    for axis, amounts in enumerate(zip(low, high, strict=True)):
        if any(amounts):
            places = np.pad(np.arange(x.shape[axis]), amounts, mode=numpy_mode)  # type: ignore[call-overload]
            x = taken(x, axis, places)
    return x


def taken(x: Value, axis: int, places: Sequence[int] | np.ndarray) -> Value:
    """The elements at known places along `axis`, as a slice where they are evenly spaced."""
    indices = [int(i) % x.shape[axis] for i in places]
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    if step > 0 and indices == list(range(indices[0], indices[-1] + 1, step)):
        return sliced(x, axis, indices[0], indices[-1] + 1, step)
    if holds_batch(x.shape[axis]):
        raise BatchFixed("picks samples of the batch by number")
    return Take(axis, tuple(indices))(x)


def _reflection_pad(ctx: Context, x: Value, pad: Sequence[int]) -> Value:
    return _padded_by_index(x, pad, "reflect")


def _replication_pad(ctx: Context, x: Value, pad: Sequence[int]) -> Value:
    return _padded_by_index(x, pad, "replicate")


def _repeat(ctx: Context, x: Value, repeats: Sequence[int]) -> Value:
    dims = [1] * (len(repeats) - x.type.rank) + list(x.shape)
    apart = [d for dim in dims for d in (1, dim)]
    wide = [d for n, dim in zip(repeats, dims, strict=True) for d in (n, dim)]
    return reshaped(broadcast(reshaped(x, apart), wide), ctx.result.shape)


def _repeat_interleave(ctx: Context, x: Value, repeats: int, dim: int | None = None) -> Value:
    if isinstance(repeats, Value):
        raise Refused("repeats that are a tensor")
    if dim is None:
        x, dim = reshaped(x, (x.type.size,)), 0
    axis = axis_of(dim, x.type.rank)
    head, tail = x.shape[: axis + 1], x.shape[axis + 1 :]
    wide = broadcast(reshaped(x, (*head, 1, *tail)), (*head, repeats, *tail))
    return reshaped(wide, ctx.result.shape)


def _roll(ctx: Context, x: Value, shifts: Sequence[int], dims: Sequence[int] = ()) -> Value:
    if not dims:
        return reshaped(_rolled(reshaped(x, (x.type.size,)), 0, shifts[0]), x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        x = _rolled(x, axis_of(dim, x.type.rank), shift)
    return x


def _rolled(x: Value, axis: int, shift: int) -> Value:
    size = x.shape[axis]
    cut = -shift % size
    return concatenated([sliced(x, axis, cut, size), sliced(x, axis, 0, cut)], axis) if cut else x


def _flip(ctx: Context, x: Value, dims: Sequence[int]) -> Value:
    return sh.Flip(axes_of(dims, x.type.rank))(x)


def _full(ctx: Context, size: object, value: Scalar, **kwargs: object) -> Value:
    return filled(ctx, value)


def _fill(ctx: Context, x: Value, value: Scalar, **kwargs: object) -> Value:
    return filled(ctx, value)


def _zeros(ctx: Context, *args: object, **kwargs: object) -> Value:
    return filled(ctx, 0)


def _ones(ctx: Context, *args: object, **kwargs: object) -> Value:
    return filled(ctx, 1)


def _scalar_tensor(ctx: Context, value: Number, **kwargs: object) -> Value:
    return filled(ctx, value)


def _arange(ctx: Context, *args: Number, **kwargs: object) -> Value:
    start = args[0] if len(args) > 1 else 0
    step = args[2] if len(args) > 2 else 1
    return _counted(ctx, start, step)


def _counted(ctx: Context, start: Number, step: Number) -> Value:
    dtype = ctx.result.dtype
    y = Iota(ctx.result.shape, 0, dtype)()
    y = y if step == 1 else mul(y, cast_number(plain(step), dtype))
    return y if start == 0 else add(y, cast_number(plain(start), dtype))


def _linspace(ctx: Context, start: float, end: float, steps: int, **kwargs: object) -> Value:
    return ctx.const(np.linspace(start, end, steps, dtype=np.float64).astype(np.float32))


def _eye(ctx: Context, *args: int, **kwargs: object) -> Value:
    row, column = (Iota(ctx.result.shape, axis, "i64")() for axis in (0, 1))
    return to(ew.Equal()(row, column), ctx.result.dtype)


def _tril(ctx: Context, x: Value, diagonal: int = 0) -> Value:
    return _triangle(x, ew.LessEqual, diagonal)


def _triu(ctx: Context, x: Value, diagonal: int = 0) -> Value:
    return _triangle(x, ew.GreaterEqual, diagonal)


def _triangle(
    x: Value, comparison: type[ew.LessEqual] | type[ew.GreaterEqual], diagonal: int
) -> Value:
    plane = x.shape[-2:]
    row, column = (Iota(plane, axis, "i64")() for axis in (0, 1))
    kept = comparison()(column, add(row, diagonal) if diagonal else row)
    return ew.Where()(kept, x, operand(0, x.dtype))


def _slice_scatter(
    ctx: Context,
    x: Value,
    piece: Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    axis = axis_of(dim, x.type.rank)
    first, last = _bounds(x.shape[axis], start, end)
    return _written(x, piece, axis, range(first, last, step))


def _select_scatter(ctx: Context, x: Value, piece: Value, dim: int, index: int) -> Value:
    axis = axis_of(dim, x.type.rank)
    place = index % x.shape[axis]
    shape = [1 if i == axis else d for i, d in enumerate(x.shape)]
    return _written(x, reshaped(piece, shape), axis, range(place, place + 1))


def _written(x: Value, piece: Value, axis: int, places: range) -> Value:
    """`x` with `piece` in its elements at `places` along `axis`."""
    size = x.shape[axis]
    shape = [len(places) if i == axis else d for i, d in enumerate(x.shape)]
    piece = broadcast(to(piece, x.dtype), shape)
    if len(places) == size:
        return piece
    if holds_batch(size):
        raise BatchFixed("writes into samples of the batch by number")
    if places.step != 1:
        return Put(axis, tuple(places))(x, piece)
    parts = [sliced(x, axis, 0, places.start), piece, sliced(x, axis, places.stop, size)]
    return concatenated([p for p in parts if p.shape[axis]], axis)


def _copy(ctx: Context, x: Value, source: Value, non_blocking: bool = False) -> Value:
    return broadcast(to(source, x.dtype), x.shape)


def _pixel_shuffle(ctx: Context, x: Value, factor: int) -> Value:
    *batch, channels, height, width = x.shape
    apart = reshaped(x, (*batch, channels // factor**2, factor, factor, height, width))
    b = len(batch)
    order = [*range(b), b, b + 3, b + 1, b + 4, b + 2]
    return reshaped(transposed(apart, order), ctx.result.shape)


def _pixel_unshuffle(ctx: Context, x: Value, factor: int) -> Value:
    *batch, channels, height, width = x.shape
    apart = reshaped(x, (*batch, channels, height // factor, factor, width // factor, factor))
    b = len(batch)
    order = [*range(b), b, b + 2, b + 4, b + 1, b + 3]
    return reshaped(transposed(apart, order), ctx.result.shape)


def _channel_shuffle(ctx: Context, x: Value, groups: int) -> Value:
    batch, channels, *spatial = x.shape
    apart = reshaped(x, (batch, groups, channels // groups, *spatial))
    order = [0, 2, 1, *range(3, len(apart.shape))]
    return reshaped(transposed(apart, order), x.shape)


def _unfold(ctx: Context, x: Value, dim: int, size: int, step: int) -> Value:
    axis = axis_of(dim, x.type.rank)
    count = (x.shape[axis] - size) // step + 1
    places = [start * step + k for start in range(count) for k in range(size)]
    windows = taken(x, axis, places)
    apart = reshaped(windows, (*x.shape[:axis], count, size, *x.shape[axis + 1 :]))
    order = [i for i in range(len(apart.shape)) if i != axis + 1] + [axis + 1]
    return transposed(apart, order)


def _diagonal(ctx: Context, x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    if offset or x.type.rank != 2:
        raise Refused("a diagonal other than the main one of a matrix")
    size = min(x.shape)
    flat = reshaped(x, (x.type.size,))
    return sliced(flat, 0, 0, (size - 1) * (x.shape[1] + 1) + 1, x.shape[1] + 1)


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(
        ("clone", "contiguous", "alias", "lift_fresh_copy", "lift_fresh", "lift"), _same
    ),
    "detach": _detach,
    "detach_": _detach,
    **dict.fromkeys(
        (
            "view",
            "reshape",
            "_unsafe_view",
            "_reshape_alias",
            "unsqueeze",
            "squeeze",
            "flatten",
            "unflatten",
            "view_as",
            "_reshape_copy",
            "view_copy",
            "unsqueeze_copy",
            "squeeze_copy",
        ),
        _reshape,
    ),
    "expand": _expand,
    "expand_as": _expand,
    "broadcast_to": _expand,
    "expand_copy": _expand,
    "permute": _permute,
    "permute_copy": _permute,
    "transpose": _transpose,
    "t": _transpose,
    "numpy_T": _transpose,
    "swapaxes": _transpose,
    "slice": _slice,
    "select": _select,
    "narrow": _narrow,
    "cat": _cat,
    "concat": _cat,
    "stack": _stack,
    "split": _split,
    "split_with_sizes": _split,
    "chunk": _chunk,
    "unbind": _unbind,
    "constant_pad_nd": _constant_pad,
    "pad": _pad,
    **{f"reflection_pad{n}d": _reflection_pad for n in (1, 2)},
    **{f"replication_pad{n}d": _replication_pad for n in (1, 2)},
    "repeat": _repeat,
    "tile": _repeat,
    "repeat_interleave": _repeat_interleave,
    "roll": _roll,
    "flip": _flip,
    "full": _full,
    "full_like": _fill,
    "fill": _fill,
    "new_full": lambda ctx, x, size, value, **kwargs: filled(ctx, value),
    **dict.fromkeys(
        (
            "zeros",
            "zeros_like",
            "new_zeros",
            "empty",
            "empty_like",
            "new_empty",
            "zero",
            "empty_permuted",
            "empty_strided",
            "new_empty_strided",
        ),
        _zeros,
    ),
    **dict.fromkeys(("ones", "ones_like", "new_ones"), _ones),
    "scalar_tensor": _scalar_tensor,
    "arange": _arange,
    "linspace": _linspace,
    "eye": _eye,
    "tril": _tril,
    "triu": _triu,
    "slice_scatter": _slice_scatter,
    "select_scatter": _select_scatter,
    "copy": _copy,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
    "native_channel_shuffle": _channel_shuffle,
    "unfold": _unfold,
    "diagonal": _diagonal,
}
