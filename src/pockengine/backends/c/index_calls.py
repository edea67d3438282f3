"""Operators that look up by index, and other small loops, written out in place."""

from math import prod
from typing import Any

from pockengine.backends.c.call import Call, block_of
from pockengine.ir.op import Value
from pockengine.ir.types import NUMPY, Shape
from pockengine.target import Target


def _around(shape: Shape, axis: int) -> tuple[int, int, int]:
    """Sizes before, of and after an axis."""
    return prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])


def _bytes(value: Value, elements: int) -> int:
    return elements * NUMPY[value.dtype].itemsize


def put(value: Value, x: list[str], target: Target) -> Call:
    """(x, piece): x with some indices replaced; in place, only those are written."""
    op: Any = value.op
    outer, size, inner = _around(value.shape, op.axis)
    count = len(op.indices)
    table = ", ".join(map(str, op.indices))
    body = (
        f"static const int32_t at[] = {{{table}}};",
        f"if (out != {x[0]})",
        f"memcpy(out + b0 * {size * inner}, {x[0]} + b0 * {size * inner}, "
        f"(size_t)(b1 - b0) * {_bytes(value, size * inner)});",
        f"for (idx o = b0; o < b1; o++) for (idx k = 0; k < {count}; k++)",
        f"memcpy(out + (o * {size} + at[k]) * {inner}, {x[1]} + (o * {count} + k) * {inner}, "
        f"{_bytes(value, inner)});",
    )
    return Call(outer, body)


def gather(value: Value, x: list[str], target: Target) -> Call:
    """(table, indices) -> table[.., indices, ..]."""
    op: Any = value.op
    outer, size, inner = _around(value.inputs[0].shape, op.axis)
    count = value.inputs[1].type.size
    body = (
        "for (idx i = b0; i < b1; i++) {",
        f"const idx o = i / {count}, at = (idx){x[1]}[i % {count}];",
        f"memcpy(out + i * {inner}, {x[0]} + (o * {size} + at) * {inner}, {_bytes(value, inner)});",
        "}",
    )
    return Call(outer * count, body, checks=(_in_range(x[1], count, size),))


def _in_range(indices: str, count: int, size: int) -> str:
    return (
        f"({{ int ok = 1; for (idx i = 0; i < {count}; i++) "
        f"ok &= (uint64_t){indices}[i] < {size}; ok; }})"
    )


def scatter_add(value: Value, x: list[str], target: Target) -> Call:
    """(indices, g): zeros, with g[.., k, ..] added at indices[k], always in the same order.

    An item is one place of the axis; each block of items looks through all indices.
    """
    op: Any = value.op
    outer, size, inner = _around(value.shape, op.axis)
    count = value.inputs[0].type.size
    body = (
        f"memset(out + b0 * {inner}, 0, (size_t)(b1 - b0) * {_bytes(value, inner)});",
        f"for (idx o = b0 / {size}; o * {size} < b1; o++)",
        f"for (idx k = 0; k < {count}; k++) {{",
        f"const idx at = o * {size} + (idx){x[0]}[k];",
        "if (at < b0 || at >= b1) continue;",
        f"for (idx i = 0; i < {inner}; i++)",
        f"out[at * {inner} + i] += {x[1]}[(o * {count} + k) * {inner} + i];",
        "}",
    )
    block = max(block_of(inner), -(-count // inner))  # looking costs no more than zeroing
    check = _in_range(x[0], count, size)
    return Call(outer * size, body, block=block, checks=(check,))


def _element_place(indices: Shape, axis: int, table: Shape) -> tuple[str, ...]:
    """Declares `from`, the place in `table` where element `i` of `indices` looks, at `at`."""
    strides = [prod(table[d + 1 :]) for d in range(len(table))]
    terms = [
        f"i / {prod(indices[d + 1 :])} % {n} * {strides[d]}"
        for d, n in enumerate(indices)
        if d != axis and n > 1
    ]
    base = " + ".join(terms) or "0"
    return (f"const idx base = {base};", f"const idx from = base + at * {strides[axis]};")


def gather_elements(value: Value, x: list[str], target: Target) -> Call:
    """(table, indices) -> table at (.., indices[..], ..), elementwise along the axis."""
    op: Any = value.op
    table, indices = (v.shape for v in value.inputs)
    body = (
        "for (idx i = b0; i < b1; i++) {",
        f"const idx at = (idx){x[1]}[i];",
        *_element_place(indices, op.axis, table),
        f"out[i] = {x[0]}[from];",
        "}",
    )
    check = _in_range(x[1], prod(indices), table[op.axis])
    return Call(value.type.size, body, checks=(check,))


def scatter_add_elements(value: Value, x: list[str], target: Target) -> Call:
    """(indices, g): zeros, with g added elementwise at the indices along the axis."""
    op: Any = value.op
    indices = value.inputs[0].shape
    body = (
        f"memset(out, 0, {value.type.nbytes});",
        f"for (idx i = 0; i < {prod(indices)}; i++) {{",
        f"const idx at = (idx){x[0]}[i];",
        *_element_place(indices, op.axis, value.shape),
        f"out[from] += {x[1]}[i];",
        "}",
    )
    check = _in_range(x[0], prod(indices), value.shape[op.axis])
    return Call(1, body, checks=(check,))


def cumsum(value: Value, x: list[str], target: Target) -> Call:
    op: Any = value.op
    outer, size, inner = _around(value.shape, op.axis)
    body = (
        "for (idx o = b0; o < b1; o++)",
        f"for (idx k = 0; k < {size}; k++)",
        f"for (idx i = 0; i < {inner}; i++) {{",
        f"const idx at = (o * {size} + k) * {inner} + i;",
        f"out[at] = {x[0]}[at] + (k ? out[at - {inner}] : 0);",
        "}",
    )
    return Call(outer, body)


def uniform(value: Value, x: list[str], target: Target) -> Call:
    """Random numbers in [0, 1): element i of step s draws number (i, s) of the stream."""
    op: Any = value.op
    body = (
        f"const uint64_t seed = (uint64_t){x[0]}[0] ^ ((uint64_t){op.salt} << 32);",
        "for (idx i = b0; i < b1; i++)",
        f"out[i] = pk_random_uniform(seed, (uint32_t)i, (uint32_t){x[0]}[1]);",
    )
    return Call(value.type.size, body, block=8192)
