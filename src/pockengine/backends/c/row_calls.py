"""Reductions, softmax, normalisation, cross entropy: kernels over rows or columns of a matrix."""

from math import prod
from typing import Any

from pockengine.backends.c.call import Call, block_of
from pockengine.backends.c.riding import moments_size, statistic
from pockengine.errors import UnsupportedError
from pockengine.ir.op import Value
from pockengine.ir.types import Shape
from pockengine.target import Target

COLUMNS = 16  # columns an item, where columns are split over threads: whole vectors of every target


def runs(shape: Shape, axes: Shape) -> tuple[int, int, int] | None:
    """(outer, reduced, inner) sizes, if the axes lie side by side; axes of size 1 do not matter.

    >>> runs((2, 3, 4), (1,)), runs((2, 3, 4), (0, 2)), runs((1, 3, 4), (0,))
    ((2, 3, 4), None, (1, 1, 12))
    """
    held = [a for a, size in enumerate(shape) if size > 1 and a in axes]
    if not held:
        first = min(axes, default=len(shape))
        return prod(shape[:first]), 1, prod(shape[first:])
    first, last = held[0], held[-1]
    if any(shape[a] > 1 and a not in axes for a in range(first, last)):
        return None
    return prod(shape[:first]), prod(shape[first : last + 1]), prod(shape[last + 1 :])


def _runs(value: Value, x: Value, axes: Shape) -> tuple[int, int, int]:
    found = runs(x.shape, axes)
    if found is None:
        raise UnsupportedError(
            f"the C back end needs {value.op} over neighbouring axes of {x.type}"
        )
    return found


def _split(outer: int, inner: int) -> tuple[int, str, bool]:
    """Items of a reduction, the C arguments (outer0, outer1, inner0, inner1), whether by rows."""
    if outer > 1 or inner == 1:
        return outer, f"b0, b1, 0, {inner}", True
    items = -(-inner // COLUMNS)
    return items, f"0, 1, b0 * {COLUMNS}, idx_min(b1 * {COLUMNS}, {inner})", False


def reduce(value: Value, x: list[str], target: Target) -> Call:
    op: Any = value.op
    outer, size, inner = _runs(value, value.inputs[0], op.axes)
    kind = type(op).__name__.lower()
    if value.dtype != "f32" or kind == "prod":
        return _plain_reduce(value, x[0], kind, outer, size, inner)
    items, span, rows = _split(outer, inner)
    body = f"pk_reduce_{kind}({x[0]}, {size}, {inner}, out, {span});"
    return Call(items, (body,), rows=rows)


def _plain_reduce(value: Value, x: str, kind: str, outer: int, size: int, inner: int) -> Call:
    """For integers and products: one loop over what is reduced."""
    start, change = {
        "sum": ("0", "y + x"),
        "prod": ("1", "y * x"),
        "max": ("x0", "x > y ? x : y"),
        "min": ("x0", "x < y ? x : y"),
    }[kind]
    body = (
        f"for (idx o = b0; o < b1; o++) for (idx i = 0; i < {inner}; i++) {{",
        f"const typeof(*{x}) *const from = {x} + o * {size * inner} + i, x0 = from[0];",
        f"typeof(*out) y = {start};",
        f"for (idx k = 0; k < {size}; k++) {{ "
        f"const typeof(*{x}) x = from[k * {inner}]; y = {change}; }}",
        f"out[o * {inner} + i] = y;",
        "}",
    )
    return Call(outer, body)


def argmax(value: Value, x: list[str], target: Target) -> Call:
    op: Any = value.op
    source = value.inputs[0]
    outer, size, inner = _runs(value, source, (op.axis,))
    if source.dtype != "f32":
        return _plain_argmax(x[0], outer, size, inner)
    items, span, rows = _split(outer, inner)
    body = f"pk_argmax({x[0]}, {size}, {inner}, out, {span});"
    return Call(items, (body,), rows=rows)


def _plain_argmax(x: str, outer: int, size: int, inner: int) -> Call:
    """For integers: the first of the largest."""
    body = (
        f"for (idx o = b0; o < b1; o++) for (idx i = 0; i < {inner}; i++) {{",
        f"const typeof(*{x}) *const from = {x} + o * {size * inner} + i;",
        "int64_t at = 0;",
        f"for (idx k = 1; k < {size}; k++) at = from[k * {inner}] > from[at * {inner}] ? k : at;",
        f"out[o * {inner} + i] = at;",
        "}",
    )
    return Call(outer, body)


def softmax(value: Value, x: list[str], target: Target) -> Call:
    """Softmax, its logarithm, and both gradients, which take (dy, y)."""
    op: Any = value.op
    columns = _last_axis(value, (op.axis,))
    given = ", ".join(x)
    body = f"pk_{op.kernel}({given}, {columns}, out, b0, b1);"
    return Call(value.type.size // columns, (body,), block=block_of(columns))


def _last_axis(value: Value, axes: Shape) -> int:
    x = value.inputs[-1] if value.op.kernel.startswith("softmax") else value.inputs[0]
    _, columns, inner = _runs(value, x, axes)
    if inner != 1:
        raise UnsupportedError(f"the C back end needs {value.op} over the last axis of {x.type}")
    return columns


def cross_entropy(value: Value, x: list[str], target: Target) -> Call:
    """The loss (logits, labels[, weights]) and its gradient (g, logits, labels[, weights])."""
    op: Any = value.op
    first = 1 if op.kernel.endswith("grad") else 0
    logits = value.inputs[first]
    classes = logits.shape[op.axis]
    if op.axis != len(logits.shape) - 1:
        raise UnsupportedError(f"the C back end needs {op} over the last axis of {logits.type}")
    rows = logits.type.size // classes
    data, labels = x[: first + 1], x[first + 1]
    weights = x[first + 2] if len(x) > first + 2 else "NULL"
    ignored = "INT64_MIN" if op.ignore_index is None else f"INT64_C({op.ignore_index})"
    settings = f"{labels}, {weights}, {float(op.label_smoothing).hex()}f, {ignored}, {classes}"
    body = f"pk_{op.kernel}({', '.join(data)}, {settings}, out, b0, b1);"
    check = f"pk_labels_in_range({labels}, {rows}, {classes}, {ignored})"
    return Call(rows, (body,), checks=(check,))


def normalize(value: Value, x: list[str], target: Target) -> Call:
    """Over rows (layer norm), and the gradients (g, x)."""
    op: Any = value.op
    source = value.inputs[-1]
    outer, size, inner = _runs(value, source, op.axes)
    if inner != 1:
        raise UnsupportedError(f"the C back end needs {op} over the last axes of {source.type}")
    suffix = "_grad" if op.kernel.endswith("_grad") else ""
    name = op.kernel.removesuffix("_grad") + "_rows" + suffix
    body = f"pk_{name}({', '.join(x)}, {size}, {float(op.eps).hex()}f, out, b0, b1);"
    return Call(outer, (body,), block=block_of(size))


def batch_statistic(value: Value, x: list[str], target: Target) -> Call:
    """Of what no step computes that it could ride in: a leaf, for the most part."""
    op: Any = value.op
    source = value.inputs[0]
    outer, size, inner = _runs(value, source, op.axes)
    if outer != 1:
        raise UnsupportedError(f"the C back end needs {op} over the first axes of {source.type}")
    weight = f"{x[1]}, {size // source.shape[0]}" if len(x) > 1 else "NULL, 1"
    body = (
        f"pk_clear(work, {moments_size(inner)});",
        f"pk_add_moments({x[0]}, {weight}, 0, {size}, {inner}, work);",
        statistic(value, "work", "out"),
    )
    return Call(1, body, rows=False, scratch=moments_size(inner))
