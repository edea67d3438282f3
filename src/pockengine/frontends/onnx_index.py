"""ONNX operators that reduce, select by index, or contract."""

import math
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from pockengine.errors import ImportModelError, UnsupportedError
from pockengine.frontends.onnx_math import scale
from pockengine.frontends.onnx_node import (
    Item,
    Node,
    Translation,
    axes_of,
    axis_of,
    full_like,
)
from pockengine.frontends.onnx_shape import padded, reshaped, sliced, transposed
from pockengine.ir.op import Value
from pockengine.ir.types import Shape, holds_batch
from pockengine.ops import elementwise as e
from pockengine.ops import reduce as r
from pockengine.ops import shape as s
from pockengine.ops.matmul import MatMul
from pockengine.ops.softmax import LogSoftmax, Softmax

Reduce = Callable[[Value, Shape, bool], Value]


# ---- reductions ----------------------------------------------------------------------------------


def reduction(compute: Reduce) -> Translation:
    """Axes come as an attribute or, from opset 18 (13 for ReduceSum), as an input."""

    def translate(node: Node) -> Item:
        x, axes = node.value(0), node.attr("axes", None)
        if node.has(1):
            axes = node.dims(1, "the axes of a reduction")
        if not axes and node.attr("noop_with_empty_axes", 0):
            return x
        over = axes_of(axes or range(x.type.rank), x.type.rank)
        return compute(x, over, bool(node.attr("keepdims", 1))) if over else x

    return translate


def _sum(x: Value, axes: Shape, keep: bool) -> Value:
    return r.Sum(axes, keep)(x)


def _l1(x: Value, axes: Shape, keep: bool) -> Value:
    return _sum(e.Abs()(x), axes, keep)


def _sum_square(x: Value, axes: Shape, keep: bool) -> Value:
    return _sum(e.Mul()(x, x), axes, keep)


def _l2(x: Value, axes: Shape, keep: bool) -> Value:
    return e.Sqrt()(_sum_square(x, axes, keep))


def _log_sum(x: Value, axes: Shape, keep: bool) -> Value:
    return e.Log()(_sum(x, axes, keep))


def _log_sum_exp(x: Value, axes: Shape, keep: bool) -> Value:
    """The largest element is taken out first, so that exp cannot overflow."""
    largest = r.Max(axes, True)(x)
    total = e.Log()(_sum(e.Exp()(e.Sub()(x, largest)), axes, True))
    y = e.Add()(total, largest)
    return y if keep else reshaped(y, [d for i, d in enumerate(x.shape) if i not in axes])


def arg_max(node: Node) -> Item:
    return _arg(node, node.value(0))


def arg_min(node: Node) -> Item:
    return _arg(node, e.Neg()(node.value(0)))


def _arg(node: Node, x: Value) -> Value:
    if node.attr("select_last_index", 0):
        raise UnsupportedError("the last of equal elements (select_last_index)")
    axis = axis_of(node.attr("axis", 0), x.type.rank)
    return r.ArgMax(axis, bool(node.attr("keepdims", 1)))(x)


def softmax(node: Node) -> Item:
    x = node.value(0)
    return Softmax(axis_of(node.attr("axis", -1), x.type.rank))(x)


def log_softmax(node: Node) -> Item:
    x = node.value(0)
    return LogSoftmax(axis_of(node.attr("axis", -1), x.type.rank))(x)


def cum_sum(node: Node) -> Item:
    x = node.value(0)
    axis = axis_of(int(node.array(1, "the axis of CumSum").item()), x.type.rank)
    backwards = node.attr("reverse", 0)
    y = r.CumSum(axis)(s.Flip((axis,))(x) if backwards else x)
    if node.attr("exclusive", 0):
        low = [int(a == axis) for a in range(x.type.rank)]
        y = sliced(padded(y, low, [0] * x.type.rank, 0.0), axis, 0, x.shape[axis])
    return s.Flip((axis,))(y) if backwards else y


# ---- selection -----------------------------------------------------------------------------------


def gather(node: Node) -> Item:
    x = node.value(0)
    axis = axis_of(node.attr("axis", 0), x.type.rank)
    if not node.is_known(1):
        return s.Gather(axis)(x, _non_negative(node.value(1), x.shape[axis]))
    shape = node.item(1).array.shape  # type: ignore[union-attr]
    indices = [i + x.shape[axis] if i < 0 else i for i in node.dims(1, "indices")]
    if any(not 0 <= i < x.shape[axis] for i in indices):
        raise ImportModelError(f"Gather of {indices} from axis {axis} of {x.type}")
    taken = _take(x, axis, indices)
    return reshaped(taken, (*x.shape[:axis], *shape, *x.shape[axis + 1 :]))


def _take(x: Value, axis: int, indices: Sequence[int]) -> Value:
    first, count = indices[0] if indices else 0, len(indices)
    if list(indices) == list(range(first, first + count)):
        return sliced(x, axis, first, first + count)
    return s.Take(axis, tuple(indices))(x)


def _non_negative(indices: Value, size: int) -> Value:
    """Indices below 0 count from the end. Unsigned ones cannot be."""
    if indices.dtype == "u8":
        return indices
    negative = e.Less()(indices, full_like(indices, 0))
    return e.Where()(negative, e.Add()(indices, full_like(indices, size)), indices)


def gather_elements(node: Node) -> Item:
    x = node.value(0)
    axis = axis_of(node.attr("axis", 0), x.type.rank)
    return s.GatherElements(axis)(x, _non_negative(node.value(1), x.shape[axis]))


def gather_nd(node: Node) -> Item:
    """The last axis of the indices names k leading axes of x; they become one linear index."""
    x, indices = node.value(0), node.value(1)
    if node.attr("batch_dims", 0) or not indices.shape[-1]:
        raise UnsupportedError("GatherND with batch_dims, or without indices")
    count = indices.shape[-1]
    parts = []
    for axis in range(count):
        part = reshaped(sliced(indices, indices.type.rank - 1, axis, axis + 1), indices.shape[:-1])
        part = _non_negative(part, x.shape[axis])
        step = math.prod(x.shape[axis + 1 : count])
        parts.append(e.Mul()(part, full_like(part, step)) if step != 1 else part)
    return s.Gather(0)(_flat(x, count), reduce(e.Add(), parts))


def _flat(x: Value, count: int) -> Value:
    """x with its first `count` axes made one."""
    return reshaped(x, (math.prod(x.shape[:count]), *x.shape[count:]))


def scatter_nd(node: Node) -> Item:
    """x with the elements at constant places replaced."""
    x, places = node.value(0), node.array(1, "the indices of ScatterND")
    if node.attr("reduction", "none") != "none" or not places.shape[-1]:
        raise UnsupportedError("ScatterND that adds or multiplies")
    sizes = x.shape[: places.shape[-1]]
    if holds_batch(*sizes):
        raise UnsupportedError("ScatterND along the batch")
    rows = np.moveaxis(places.reshape(-1, len(sizes)) % np.array(sizes), 1, 0)
    linear = np.ravel_multi_index(tuple(rows), sizes).tolist()
    if len(set(linear)) != len(linear):
        raise UnsupportedError("ScatterND that writes one place twice")
    updates = reshaped(node.value(2), (len(linear), *x.shape[len(sizes) :]))
    return reshaped(s.Put(0, tuple(linear))(_flat(x, len(sizes)), updates), x.shape)


def one_hot(node: Node) -> Item:
    indices = node.value(0)
    depth = int(node.array(1, "the depth of OneHot").item())
    off, on = node.array(2, "the values of OneHot")
    rank = indices.type.rank + 1
    axis = axis_of(node.attr("axis", -1), rank)
    spread = reshaped(indices, (*indices.shape[:axis], 1, *indices.shape[axis:]))
    spread = _non_negative(spread, depth) if indices.dtype in ("i32", "i64") else spread
    classes = s.Iota(tuple(depth if a == axis else 1 for a in range(rank)), axis, spread.dtype)()
    like = node.value(2)
    return e.Where()(e.Equal()(spread, classes), full_like(like, on), full_like(like, off))


# ---- matrix products -----------------------------------------------------------------------------


def matmul(node: Node) -> Item:
    return product(node.value(0), node.value(1))


def product(a: Value, b: Value) -> Value:
    """NumPy's matmul: a vector on the left is a row, one on the right a column."""
    row = reshaped(a, (1, *a.shape)) if a.type.rank == 1 else a
    column = reshaped(b, (*b.shape, 1)) if b.type.rank == 1 else b
    y = MatMul(False, False)(row, column)
    shape = list(y.shape)
    if b.type.rank == 1:
        shape.pop(-1)
    if a.type.rank == 1:
        shape.pop(-1 if b.type.rank == 1 else -2)
    return reshaped(y, shape)


def gemm(node: Node) -> Item:
    a, b = node.value(0), node.value(1)
    op = MatMul(bool(node.attr("transA", 0)), bool(node.attr("transB", 0)))
    y = scale(op(a, b), node.attr("alpha", 1.0))
    beta = node.attr("beta", 1.0)
    if not node.has(2) or beta == 0.0:
        return y
    return e.Add()(y, scale(node.value(2), beta))


def einsum(node: Node) -> Item:
    left, _, right = node.attr("equation", "").replace(" ", "").partition("->")
    terms = left.split(",")
    if "." in left or not 1 <= len(terms) <= 2 or len(terms) != len(node.inputs):
        raise UnsupportedError(f"Einsum {left}->{right} (ellipses, or more than two operands)")
    if "->" not in node.attr("equation", ""):
        right = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    if any(len(set(t)) != len(t) for t in terms):
        raise UnsupportedError(f"Einsum {left}->{right} (a diagonal)")
    if len(terms) == 1:
        return _reordered(node.value(0), terms[0], right)
    return _einsum_pair(node.value(0), node.value(1), terms[0], terms[1], right)


def _reordered(x: Value, letters: str, wanted: str) -> Value:
    """x with its axes named by `letters`, summed and permuted to `wanted`."""
    gone = tuple(i for i, c in enumerate(letters) if c not in wanted)
    x = r.Sum(gone, False)(x) if gone else x
    kept = [c for c in letters if c in wanted]
    return transposed(x, [kept.index(c) for c in wanted])


def _einsum_pair(a: Value, b: Value, of_a: str, of_b: str, wanted: str) -> Value:
    """A batched matrix product: letters in all three are the batch, the rest M, K and N."""
    size = {**dict(zip(of_a, a.shape, strict=True)), **dict(zip(of_b, b.shape, strict=True))}
    batch = [c for c in of_a if c in of_b and c in wanted]
    inner = [c for c in of_a if c in of_b and c not in wanted]
    rows = [c for c in of_a if c not in of_b and c in wanted]
    columns = [c for c in of_b if c not in of_a and c in wanted]

    def count(letters: Sequence[str]) -> int:
        return math.prod(size[c] for c in letters)

    left = _reordered(a, of_a, "".join(batch + rows + inner))
    left = reshaped(left, (*(size[c] for c in batch), count(rows), count(inner)))
    other = _reordered(b, of_b, "".join(batch + inner + columns))
    other = reshaped(other, (*(size[c] for c in batch), count(inner), count(columns)))
    y = MatMul(False, False)(left, other)
    letters = "".join(batch + rows + columns)
    return _reordered(reshaped(y, [size[c] for c in letters]), letters, wanted)


TRANSLATIONS: dict[str, Translation] = {
    "ReduceSum": reduction(_sum),
    "ReduceMean": reduction(lambda x, axes, keep: r.Mean(axes, keep)(x)),
    "ReduceMax": reduction(lambda x, axes, keep: r.Max(axes, keep)(x)),
    "ReduceMin": reduction(lambda x, axes, keep: r.Min(axes, keep)(x)),
    "ReduceProd": reduction(lambda x, axes, keep: r.Prod(axes, keep)(x)),
    "ReduceL1": reduction(_l1),
    "ReduceL2": reduction(_l2),
    "ReduceSumSquare": reduction(_sum_square),
    "ReduceLogSum": reduction(_log_sum),
    "ReduceLogSumExp": reduction(_log_sum_exp),
    "ArgMax": arg_max,
    "ArgMin": arg_min,
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
    "CumSum": cum_sum,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "OneHot": one_hot,
    "ScatterND": scatter_nd,
    "MatMul": matmul,
    "Gemm": gemm,
    "Einsum": einsum,
}
