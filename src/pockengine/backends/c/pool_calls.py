"""Pooling and resizing, channels last, by lines of the image."""

from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

from pockengine.backends.c.call import Call, block_of
from pockengine.backends.c.syntax import conv_geometry
from pockengine.errors import UnsupportedError
from pockengine.ir.op import Value
from pockengine.ir.types import Shape
from pockengine.ops.resize import Resize, ResizeGrad, matrices
from pockengine.target import Target


def _pair(values: Shape, one: int) -> Shape:
    return values if len(values) == 2 else (one, *values)


def _geometry(value: Value, x: Shape, y: Shape, adaptive: bool = False) -> str:
    """The C definition of `g`, for pooling x[N, *S, C] into y[N, *S', C]."""
    op: Any = value.op
    if not op.channels_last or len(x) > 4:
        raise UnsupportedError(f"the C back end pools channels-last over 1 or 2 dims, got {op}")
    h, w = _pair(x[1:-1], 1)
    oh, ow = _pair(y[1:-1], 1)
    if adaptive:
        rest = [0, 0, 1, 1, 0, 0, 1, 1]
    else:
        spatial = [(op.window, 1), (op.stride, 1), (tuple(lo for lo, _ in op.padding), 0)]
        rest = [n for values, one in spatial for n in _pair(values, one)]
        rest += _pair(getattr(op, "dilation", (1,) * len(op.stride)), 1)
    fields = [x[0], h, w, x[-1], oh, ow, x[-1], *rest, x[-1]]
    return conv_geometry(fields)


def _lines(value: Value, declare: str, body: str) -> Call:
    lines = prod(value.shape[:-2])
    return Call(lines, (declare, body), block=block_of(value.type.size // lines))


def max_pool(value: Value, x: list[str], target: Target, adaptive: bool = False) -> Call:
    g = _geometry(value, value.inputs[0].shape, value.shape, adaptive)
    return _lines(value, g, f"pk_max_pool_lines(&g, {x[0]}, out, b0, b1);")


def max_pool_grad(value: Value, x: list[str], target: Target, adaptive: bool = False) -> Call:
    g = _geometry(value, value.shape, value.inputs[0].shape, adaptive)
    return _lines(value, g, f"pk_max_pool_grad_lines(&g, {', '.join(x)}, out, b0, b1);")


def avg_pool(value: Value, x: list[str], target: Target, adaptive: bool = False) -> Call:
    g = _geometry(value, value.inputs[0].shape, value.shape, adaptive)
    count = int(getattr(value.op, "count_include_pad", False))
    return _lines(value, g, f"pk_avg_pool_lines(&g, {count}, {x[0]}, out, b0, b1);")


def avg_pool_grad(value: Value, x: list[str], target: Target, adaptive: bool = False) -> Call:
    g = _geometry(value, value.shape, value.inputs[0].shape, adaptive)
    count = int(getattr(value.op, "count_include_pad", False))
    return _lines(value, g, f"pk_avg_pool_grad_lines(&g, {count}, {x[0]}, out, b0, b1);")


def adaptive_avg_pool(value: Value, x: list[str], target: Target) -> Call:
    return avg_pool(value, x, target, adaptive=True)


def adaptive_avg_pool_grad(value: Value, x: list[str], target: Target) -> Call:
    return avg_pool_grad(value, x, target, adaptive=True)


def adaptive_max_pool(value: Value, x: list[str], target: Target) -> Call:
    return max_pool(value, x, target, adaptive=True)


def adaptive_max_pool_grad(value: Value, x: list[str], target: Target) -> Call:
    return max_pool_grad(value, x, target, adaptive=True)


# ---------------------------------------------------------------------- resizing


def resize(value: Value, x: list[str], target: Target) -> Call:
    """Both directions: an output pixel is a weighted sum of a few input pixels, known by tables."""
    op, source = value.op, value.inputs[0].shape
    assert isinstance(op, (Resize, ResizeGrad))
    if not op.channels_last or len(source) > 4:
        raise UnsupportedError(f"the C back end resizes channels-last over 1 or 2 dims, got {op}")
    if isinstance(op, Resize):
        found = matrices(op, source[1:-1], value.shape[1:-1])
    else:
        found = [m.T for m in matrices(op, value.shape[1:-1], source[1:-1])]
    rows, columns = found if len(found) == 2 else (np.ones((1, 1)), found[0])
    (oh, h), (ow, w), c = rows.shape, columns.shape, value.shape[-1]
    body = (
        *_table("row", rows),
        *_table("column", columns),
        "for (idx line = b0; line < b1; line++)",
        f"for (idx j = 0; j < {ow}; j++) {{",
        f"float *const y = out + (line * {ow} + j) * {c};",
        f"for (idx k = 0; k < {c}; k++) y[k] = 0;",
        f"const idx image = line / {oh}, i = line % {oh};",
        "for (int p = row_start[i]; p < row_start[i + 1]; p++)",
        "for (int q = column_start[j]; q < column_start[j + 1]; q++) {",
        "const float weight = row_weight[p] * column_weight[q];",
        f"const float *const from = {x[0]} + "
        f"((image * {h} + row_at[p]) * {w} + column_at[q]) * {c};",
        f"for (idx k = 0; k < {c}; k++) y[k] += weight * from[k];",
        "}",
        "}",
    )
    lines = value.shape[0] * oh
    return Call(lines, body, block=block_of(ow * c))


def _table(name: str, matrix: np.ndarray[Any, Any]) -> tuple[str, ...]:
    """C tables of a matrix with few nonzeros a row: where each row starts, columns, values."""
    columns = [np.flatnonzero(row) for row in matrix]
    starts = [0, *accumulate(map(len, columns))]
    at = [int(i) for row in columns for i in row] or [0]
    weights = [float(v) for row, i in zip(matrix, columns, strict=True) for v in row[i]] or [0.0]
    return (
        f"static const int {name}_start[] = {{{', '.join(map(str, starts))}}};",
        f"static const int {name}_at[] = {{{', '.join(map(str, at))}}};",
        f"static const float {name}_weight[] = {{{', '.join(w.hex() + 'f' for w in weights)}}};",
    )
