"""Writes convolutions that are matrix products as matrix products.

    1. Conv, 1x1 kernel             ->  Reshape([M, C]) @ w[C, O]; a stride is a Slice before
    2. Conv, kernel == stride       ->  patches [M, K * C] @ w[K * C, O]
    3. ConvInputGrad, likewise      ->  y[M, O] @ w[K * C, O]T, patches put back
    4. MatMul of [..., M, K] and a matrix   ->  one product of all rows

M is all positions of all images. Only for channels-last, one group and no padding. It runs before
autodiff, so that the gradients are matrix products too.
"""

from math import prod

from pockengine.ir.graph import Graph
from pockengine.ir.op import Value
from pockengine.ir.rewrite import transform
from pockengine.ir.types import Shape
from pockengine.ops.conv import Conv, ConvInputGrad
from pockengine.ops.matmul import MatMul
from pockengine.ops.shape import Reshape, Slice, Transpose


def lower(graph: Graph) -> Graph:
    """The graph with matrix products where convolutions are such."""
    return transform(graph, _lowered)


def _lowered(value: Value) -> Value:
    op = value.op
    if isinstance(op, MatMul):
        return _all_rows(value, op)
    if isinstance(op, (Conv, ConvInputGrad)) and _is_product(value, op):
        return _conv(value, op) if isinstance(op, Conv) else _conv_input_grad(value, op)
    return value


def _is_product(value: Value, op: Conv | ConvInputGrad) -> bool:
    if not op.channels_last or op.groups != 1 or any(p != (0, 0) for p in op.padding):
        return False
    kernel = value.inputs[1].shape[:-2]
    if all(k == 1 for k in kernel):
        return isinstance(op, Conv) or all(s == 1 for s in op.stride)
    dense = all(d == 1 or k == 1 for d, k in zip(op.dilation, kernel, strict=True))
    return dense and kernel == op.stride


def _conv(value: Value, op: Conv) -> Value:
    x, w = value.inputs
    size, (*kernel, inputs, outputs) = value.shape[1:-1], w.shape
    pointwise = all(k == 1 for k in kernel)
    for axis, (count, step) in enumerate(zip(size, op.stride, strict=True), 1):
        stop, skip = ((count - 1) * step + 1, step) if pointwise else (count * step, 1)
        if (stop, skip) != (x.shape[axis], 1):
            x = Slice(axis, 0, stop, skip)(x)
    rows = x if pointwise else _to_patches(x, size, tuple(kernel))
    matrix = Reshape((prod(kernel) * inputs, outputs))(w)
    rows = Reshape((value.shape[0] * prod(size), prod(kernel) * inputs))(rows)
    return Reshape(value.shape)(MatMul(False, False)(rows, matrix, source=value.source))


def _conv_input_grad(value: Value, op: ConvInputGrad) -> Value:
    y, w = value.inputs
    size, (*kernel, inputs, outputs) = y.shape[1:-1], w.shape
    whole = tuple(n * k for n, k in zip(size, kernel, strict=True))
    if op.size != whole:
        return value
    matrix = Reshape((prod(kernel) * inputs, outputs))(w)
    rows = Reshape((y.shape[0] * prod(size), outputs))(y)
    patches = MatMul(False, True)(rows, matrix, source=value.source)
    split = Reshape((y.shape[0], *size, *kernel, inputs))(patches)
    return Reshape(value.shape)(Transpose(_interleaved(len(size)))(split))


def _to_patches(x: Value, size: Shape, kernel: Shape) -> Value:
    """[N, H * k, W * k, C] -> [N, H, W, k, k, C]."""
    pairs = [n for pair in zip(size, kernel, strict=True) for n in pair]
    split = Reshape((x.shape[0], *pairs, x.shape[-1]))(x)
    rank = len(size)
    positions, taps = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
    return Transpose((0, *positions, *taps, 2 * rank + 1))(split)


def _interleaved(rank: int) -> Shape:
    """The permutation [N, H, W, k, k, C] -> [N, H, k, W, k, C]."""
    pairs = [axis for i in range(rank) for axis in (1 + i, 1 + rank + i)]
    return (0, *pairs, 2 * rank + 1)


def _all_rows(value: Value, op: MatMul) -> Value:
    a, b = value.inputs
    if a.type.rank == 2 or b.type.rank != 2 or op.transpose_a:
        return value
    rows = Reshape((prod(a.shape[:-1]), a.shape[-1]))(a)
    return Reshape(value.shape)(op(rows, b, source=value.source))
