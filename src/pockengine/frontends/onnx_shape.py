"""ONNX operators that move data or compute shapes."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pockengine.errors import ImportModelError, UnsupportedError
from pockengine.frontends.onnx_node import (
    Item,
    Known,
    Node,
    Translation,
    axes_of,
    axis_of,
    full_like,
    probe_shape,
)
from pockengine.frontends.onnx_read import as_array, element_dtype
from pockengine.ir.op import Array, Value
from pockengine.ir.types import NUMPY, Shape, holds_batch
from pockengine.ops import elementwise as e
from pockengine.ops import shape as s

LARGEST_SLICE = 2**31  # beyond it, a bound of Slice means "to the end"


def reshaped(x: Value, shape: Sequence[int]) -> Value:
    return x if x.shape == tuple(shape) else s.Reshape(tuple(shape))(x)


def transposed(x: Value, perm: Sequence[int]) -> Value:
    return x if tuple(perm) == tuple(range(x.type.rank)) else s.Transpose(tuple(perm))(x)


def sliced(x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
    if start == 0 and stop == x.shape[axis] and step == 1:
        return x
    return s.Slice(axis, start, stop, step)(x)


def identity(node: Node) -> Item:
    """Passes its input on; but a vector of weights behind it is a weight of its own.

    PyTorch's exporter stores equal vectors once (the norms and biases of a fresh model) and names
    the others by an Identity. They are separate parameters. Equal matrices are tied on purpose, and
    stay so.
    """
    item = node.item(0)
    if isinstance(item, Known) and item.weight and item.array.ndim == 1:
        return replace(item, name=node.proto.output[0])
    return item


def constant(node: Node) -> Item:
    array = next((v for v in node.attributes.values() if v is not None), None)
    if array is None:
        raise ImportModelError("Constant has no value")
    return Known(as_array(array), node.proto.output[0])


def constant_of_shape(node: Node) -> Item:
    shape = node.dims(0, "the shape of ConstantOfShape")
    fill = node.attr("value", np.zeros(1, np.float32))
    if holds_batch(*shape):
        dtype = next(d for d, t in NUMPY.items() if t == fill.dtype)
        return s.Full(shape, dtype, fill.item())()
    return Known(np.full(shape, fill.item(), fill.dtype), node.proto.output[0])


def shape_of(node: Node) -> Item:
    shape, probe = _shapes(node)
    kept = slice(node.attr("start", 0), node.attr("end", None))
    numbers = (np.array(dims[kept], np.int64) for dims in (shape, probe))
    return _sized(node, *numbers)


def size_of(node: Node) -> Item:
    shape, probe = _shapes(node)
    return _sized(node, np.array(math.prod(shape)), np.array(math.prod(probe)))


def _shapes(node: Node) -> tuple[Shape, Shape]:
    item = node.item(0)
    shape = item.shape if isinstance(item, Value) else tuple(item.array.shape)
    return shape, probe_shape(shape) if isinstance(item, Value) else shape


def _sized(node: Node, numbers: Array, probe: Array) -> Known:
    differs = not np.array_equal(numbers, probe)
    return Known(numbers, node.proto.output[0], probe if differs else None)


def reshape(node: Node) -> Item:
    x, wanted = node.value(0), node.dims(1, "the shape of Reshape")
    if not node.attr("allowzero", 0):
        wanted = tuple(_kept(x, i) if d == 0 else d for i, d in enumerate(wanted))
    return reshaped(x, _without_minus_one(x, wanted))


def _kept(x: Value, axis: int) -> int:
    if axis >= x.type.rank:
        raise ImportModelError(f"Reshape keeps dimension {axis} of a tensor of rank {x.type.rank}")
    return x.shape[axis]


def _without_minus_one(x: Value, shape: Shape) -> Shape:
    if -1 not in shape:
        return shape
    known = math.prod(d for d in shape if d != -1)
    if shape.count(-1) > 1 or known <= 0 or x.type.size % known:
        raise ImportModelError(f"{x.type} cannot be reshaped to {shape}")
    return tuple(x.type.size // known if d == -1 else d for d in shape)


def flatten(node: Node) -> Item:
    x = node.value(0)
    axis = node.attr("axis", 1)
    axis = axis if axis == x.type.rank else axis_of(axis, x.type.rank)
    return reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def transpose(node: Node) -> Item:
    x = node.value(0)
    return transposed(x, node.attr("perm", tuple(reversed(range(x.type.rank)))))


def _axes(node: Node, index: int) -> tuple[int, ...] | None:
    """Axes from input `index`, or from the attribute of older opsets."""
    if node.has(index):
        return node.dims(index, "axes")
    axes = node.attr("axes", None)
    return None if axes is None else tuple(axes)


def squeeze(node: Node) -> Item:
    x, axes = node.value(0), _axes(node, 1)
    if axes is None:
        axes = tuple(i for i, d in enumerate(x.shape) if d == 1)
    gone = axes_of(axes, x.type.rank)
    if any(x.shape[a] != 1 for a in gone):
        raise ImportModelError(f"Squeeze of axes {gone} needs size 1 there, got {x.type}")
    return reshaped(x, [d for i, d in enumerate(x.shape) if i not in gone])


def unsqueeze(node: Node) -> Item:
    x, axes = node.value(0), _axes(node, 1) or ()
    rank = x.type.rank + len(axes)
    new, rest = axes_of(axes, rank), iter(x.shape)
    return reshaped(x, [1 if i in new else next(rest) for i in range(rank)])


def concat(node: Node) -> Item:
    xs = node.values()
    axis = axis_of(node.attr("axis", 0), xs[0].type.rank)
    return xs[0] if len(xs) == 1 else s.Concat(axis)(*xs)


def split(node: Node) -> Sequence[Item]:
    x, count = node.value(0), len(node.proto.output)
    axis = axis_of(node.attr("axis", 0), x.type.rank)
    if node.has(1):
        sizes: Sequence[int] = node.dims(1, "the sizes of Split")
    else:
        size = -(-x.shape[axis] // count)
        sizes = [min(size, x.shape[axis] - i * size) for i in range(count)]
    ends = np.cumsum(sizes).tolist()
    if ends[-1] != x.shape[axis] or min(sizes) < 1:
        raise ImportModelError(f"Split sizes {tuple(sizes)} do not divide axis {axis} of {x.type}")
    return [sliced(x, axis, end - n, end) for n, end in zip(sizes, ends, strict=True)]


def slice_(node: Node) -> Item:
    x = node.value(0)
    starts = node.dims(1, "the starts of Slice")
    stops = node.dims(2, "the ends of Slice")
    axes = node.dims(3, "axes") if node.has(3) else tuple(range(len(starts)))
    steps = node.dims(4, "the steps of Slice") if node.has(4) else (1,) * len(starts)
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        x = _slice_axis(x, axis_of(axis, x.type.rank), start, stop, step)
    return x


def _slice_axis(x: Value, axis: int, start: int, stop: int, step: int) -> Value:
    size = x.shape[axis]
    if step > 0:
        first, last = _clamped(start, size, 0, size), _clamped(stop, size, 0, size)
        return sliced(x, axis, first, max(first, last), step)
    first, last = _clamped(start, size, -1, size - 1), _clamped(stop, size, -1, size - 1)
    if (first, last, step) == (size - 1, -1, -1):
        return s.Flip((axis,))(x)
    if holds_batch(size):
        raise UnsupportedError("Slice with a negative step along the batch")
    return s.Take(axis, tuple(range(first, last, step)))(x)


def _clamped(index: int, size: int, low: int, high: int) -> int:
    if -LARGEST_SLICE < index < 0:
        index += size
    return min(max(index, low), high)


def pad(node: Node) -> Item:
    x, pads = node.value(0), node.dims(1, "the pads of Pad")
    axes = node.dims(3, "axes") if node.has(3) else tuple(range(x.type.rank))
    low, high = [0] * x.type.rank, [0] * x.type.rank
    for i, axis in enumerate(axes):
        low[axis_of(axis, x.type.rank)] = pads[i]
        high[axis_of(axis, x.type.rank)] = pads[i + len(axes)]
    mode = node.attr("mode", "constant")
    if mode == "constant":
        fill = node.scalar(2) if node.has(2) else 0.0
        if fill is None:
            raise UnsupportedError("Pad with a value that the model computes")
        return padded(x, low, high, fill)
    return _pad_by_index(x, low, high, mode)


def padded(x: Value, low: Sequence[int], high: Sequence[int], fill: float) -> Value:
    """x with `low` and `high` elements more at each axis; negative numbers cut."""
    for axis, (lo, hi) in enumerate(zip(low, high, strict=True)):
        x = sliced(x, axis, max(-lo, 0), x.shape[axis] - max(-hi, 0))
    low, high = [max(n, 0) for n in low], [max(n, 0) for n in high]
    if not any(low) and not any(high):
        return x
    value = fill if x.type.is_float else int(fill)
    return s.Pad(tuple(low), tuple(high), value)(x)


def _pad_by_index(x: Value, low: Sequence[int], high: Sequence[int], mode: str) -> Value:
    numpy_modes = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if mode not in numpy_modes or min(*low, *high) < 0:
        raise UnsupportedError(f"Pad with mode {mode!r} and pads {tuple(low)}, {tuple(high)}")
    for axis, (lo, hi) in enumerate(zip(low, high, strict=True)):
        if lo or hi:
            order = np.pad(np.arange(x.shape[axis]), (lo, hi), mode=numpy_modes[mode])  # type: ignore[call-overload]
            x = s.Take(axis, tuple(order.tolist()))(x)
    return x


def expand(node: Node) -> Item:
    x, shape = node.value(0), node.dims(1, "the shape of Expand")
    return broadcast(x, np.broadcast_shapes(x.shape, shape))


def broadcast(x: Value, shape: Shape) -> Value:
    return x if x.shape == shape else s.BroadcastTo(shape)(x)


def tile(node: Node) -> Item:
    """[a, b] tiled r times is [r, a, b] broadcast, then reshaped, for each axis."""
    x, repeats = node.value(0), node.dims(1, "the repeats of Tile")
    pairs = list(zip(repeats, x.shape, strict=True))
    single = [d for n, d in pairs for d in ((1, d) if n != 1 else (d,))]
    repeated = [d for n, d in pairs for d in ((n, d) if n != 1 else (d,))]
    spread = broadcast(reshaped(x, single), tuple(repeated))
    return reshaped(spread, [n * d for n, d in pairs])


def depth_to_space(node: Node) -> Item:
    x, b = node.value(0), node.attr("blocksize", 1)
    n, c, h, w = x.shape
    if node.attr("mode", "DCR") == "DCR":
        split_up, perm = (n, b, b, c // (b * b), h, w), (0, 3, 4, 1, 5, 2)
    else:
        split_up, perm = (n, c // (b * b), b, b, h, w), (0, 1, 4, 2, 5, 3)
    return reshaped(transposed(reshaped(x, split_up), perm), (n, c // (b * b), h * b, w * b))


def space_to_depth(node: Node) -> Item:
    x, b = node.value(0), node.attr("blocksize", 1)
    n, c, h, w = x.shape
    blocks = transposed(reshaped(x, (n, c, h // b, b, w // b, b)), (0, 3, 5, 1, 2, 4))
    return reshaped(blocks, (n, c * b * b, h // b, w // b))


def range_(node: Node) -> Item:
    """Known numbers, or Iota when the range runs over the batch."""
    limit = node.dims(1, "the limit of Range")[0] if _is_integer(node) else 0
    if not holds_batch(limit):
        start, stop, step = (node.array(i, "the bounds of Range").item() for i in range(3))
        dtype = node.array(0, "the start of Range").dtype
        return Known(np.arange(start, stop, step, dtype=dtype), node.proto.output[0])
    if (node.scalar(0), node.scalar(2)) != (0.0, 1.0):
        raise UnsupportedError("Range over the batch that does not start at 0 with step 1")
    return s.Iota((limit,), 0, "i64")()


def _is_integer(node: Node) -> bool:
    item = node.item(1)
    return isinstance(item, Known) and item.array.dtype.kind == "i"


def trilu(node: Node) -> Item:
    x = node.value(0)
    k = int(node.array(1, "the diagonal of Trilu").item()) if node.has(1) else 0
    rows, columns = x.shape[-2:]
    row = e.Add()(s.Iota((rows, 1), 0, "i64")(), s.Full((), "i64", k)())
    column = s.Iota((1, columns), 1, "i64")()
    compare = e.LessEqual() if node.attr("upper", 1) else e.GreaterEqual()
    return e.Where()(compare(row, column), x, full_like(x, 0))


def eye_like(node: Node) -> Item:
    x = node.value(0)
    dtype = element_dtype(node.attr("dtype", 0), "EyeLike") if node.attr("dtype", 0) else x.dtype
    rows, columns = x.shape
    eye = np.eye(rows, columns, k=node.attr("k", 0), dtype=NUMPY[dtype])
    return Known(eye, node.proto.output[0])


def non_zero(node: Node) -> Item:
    found = np.array(np.nonzero(node.array(0, "the input of NonZero")), np.int64)
    return Known(found, node.proto.output[0])


TRANSLATIONS: dict[str, Translation] = {
    "Identity": identity,
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Shape": shape_of,
    "Size": size_of,
    "Reshape": reshape,
    "Flatten": flatten,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Pad": pad,
    "Expand": expand,
    "Tile": tile,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Range": range_,
    "Trilu": trilu,
    "EyeLike": eye_like,
    "NonZero": non_zero,
}
