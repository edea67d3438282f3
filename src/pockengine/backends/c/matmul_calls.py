"""Matrix products: B is packed into panels once a step, then rows of the result are independent."""

from dataclasses import replace
from math import prod

from pockengine.backends.c import sizes
from pockengine.backends.c.call import BLOCK, Call, block_of
from pockengine.backends.c.matmul_splits import (
    PARTS,
    by_columns,
    by_filled_panels,
    by_panels,
    by_parts,
    few_rows,
    few_rows_by_parts,
)
from pockengine.errors import UnsupportedError
from pockengine.ir.op import Value
from pockengine.ir.types import Shape
from pockengine.ops.matmul import MatMul
from pockengine.target import Target

FEW = 16  # rows for which reading B in place can be best
SHALLOW = 64  # depth up to which reading and writing the result takes the most time
TILES = 4  # of rows that pass over a panel together,
MOST = 4 * BLOCK  # unless the result of so many is of more floats
SMALL = 32768  # floats of a result of which there may be several copies


def matmul(value: Value, x: list[str], target: Target) -> tuple[Call, ...]:
    op, (a, b) = value.op, (v.type for v in value.inputs)
    assert isinstance(op, MatMul)
    if a.rank > 2 or b.rank > 2:
        return (batched(value, x, target),)
    if op.transpose_a:
        return _tn_calls(value, op, x, target)
    calls = [by_columns(value, op, x, target), _matmul_rows(value, op, x, target)]
    if value.shape[0] <= FEW:
        calls.append(few_rows(value, op, x, target))
        if _in_parts(value, op, target):
            calls.append(few_rows_by_parts(value, x))
    first = _best_rows(value, op, target)
    return tuple(sorted(calls, key=lambda c: c.variant != first))


def matmul_panels(value: Value, x: list[str], target: Target) -> tuple[Call, ...]:
    """The same where the second operand is a frozen weight, stored in panels."""
    op = value.op
    assert isinstance(op, MatMul)
    (_, columns), depth = value.shape, value.inputs[0].shape[1]
    if op.transpose_b:
        turn = f"pk_pack_panels_t({x[1]}, {depth}, {columns}, "
        pack = turn + f"shared + begin * {depth * target.nr}, begin, end);"
        rows = _packing(_rows(value, x[0], "shared", target), value, pack, target)
        fill = turn + "work, panel, panel + 1);"
        calls = (by_filled_panels(value, x[0], fill, target), rows)
        return calls if _few_tiles(value, target) else calls[::-1]
    panel = f"{x[1]} + panel * {depth * target.nr}"
    calls = (by_panels(value, x[0], panel, target), _rows(value, x[0], x[1], target))
    # Splitting rows costs no packing here, so that a few tiles of them are enough.
    return calls if value.shape[0] <= 2 * target.mr else calls[::-1]


def _best_rows(value: Value, op: MatMul, target: Target) -> str:
    """The variant for a product whose rows are independent.

    Packing B once and splitting rows is best as soon as every thread has several tiles of rows.
    With fewer, a thread keeps its own panels in its cache; with very few, packing does not pay: a
    plain B is read in long rows, a transposed one costs a sum over lanes for each result. Where a
    plain B is deep, threads share its rows: timed alone that gains nothing, beside its update it
    does where processors have caches of their own.
    """
    rows, columns = value.shape
    if rows <= 6 or rows <= (8 if op.transpose_b else 16 if columns >= 512 else 0):
        return "parts" if _in_parts(value, op, target) else "few"
    return "columns" if _few_tiles(value, target) else "packed"


def _in_parts(value: Value, op: MatMul, target: Target) -> bool:
    """Whether threads can share the rows of a plain B, of which each part has so many that adding
    up the parts costs little.
    """
    (rows, _), depth = value.shape, value.inputs[0].shape[1]
    deep = depth >= PARTS * 64 * rows and value.type.size <= SMALL
    return not op.transpose_b and deep and 1 < target.threads <= PARTS


def _few_tiles(value: Value, target: Target) -> bool:
    rows, columns = value.shape
    return rows <= 4 * target.mr and columns > target.nr


def _tn_calls(value: Value, op: MatMul, x: list[str], target: Target) -> tuple[Call, ...]:
    """A result so small that several copies of it stay in the cache is split over what is summed:
    each thread then reads its own part of both operands.
    """
    rows, depth = _matmul_tn(value, op, x, target), value.inputs[0].shape[0]
    if depth < PARTS * 64:
        return (rows,)
    parts = by_parts(value, x, target)
    return (parts, rows) if value.type.size <= SMALL and depth >= PARTS * 512 else (rows, parts)


def _matmul_rows(value: Value, op: MatMul, x: list[str], target: Target) -> Call:
    (_, columns), depth = value.shape, value.inputs[0].shape[1]
    steps = f"1, {depth}" if op.transpose_b else f"{columns}, 1"
    pack = f"pk_pack_b({x[1]}, {steps}, {depth}, {columns}, shared, begin, end);"
    return _packing(_rows(value, x[0], "shared", target), value, pack, target)


def _rows(value: Value, a: str, panels: str, target: Target) -> Call:
    (rows, columns), depth = value.shape, value.inputs[0].shape[1]
    to = f"out + b0 * {columns}, {columns}"
    body = f"pk_gemm({a} + b0 * {depth}, {depth}, {panels}, {depth}, {columns}, {to}, b1 - b0, 0);"
    return Call(rows, (body,), block=_block(columns, target), variant="packed")


def _block(columns: int, target: Target) -> int:
    """Several tiles share what they read of B, as far as their rows stay in the cache."""
    return max(block_of(columns, target.mr), min(TILES * target.mr, MOST // columns))


def _packing(call: Call, value: Value, pack: str, target: Target) -> Call:
    """The call with the second operand packed before."""
    (_, columns), depth = value.shape, value.inputs[0].shape[1]
    return replace(
        call,
        pack_items=sizes.panels(columns, target),
        pack=(pack,),
        shared=sizes.packed_size(depth, columns, target),
    )


def _matmul_tn(value: Value, op: MatMul, x: list[str], target: Target) -> Call:
    rows, columns = value.shape
    depth = value.inputs[0].shape[0]
    _refuse_both_transposed(op)
    at = f"b0, b1, {columns}, {depth}, out, {columns}, 0, work, later"
    body = f"pk_gemm_tn_then({x[0]}, {rows}, {x[1]}, {columns}, {at});"
    scratch = sizes.gemm_tn_scratch(columns, target, depth)
    block = _tn_block(columns, depth, target)
    return Call(rows, (body,), block=block, scratch=scratch, variant="rows")


def _tn_block(columns: int, depth: int, target: Target) -> int:
    """B is packed again for each block of rows: with little depth that costs nothing beside the
    result, else many tiles must share it.
    """
    block = block_of(columns, target.mr)
    return block if depth <= SHALLOW else max(block, 16 * target.mr)


def batched(value: Value, x: list[str], target: Target) -> Call:
    """One small product an item; operands in bf16 are widened whole."""
    op, batch, (rows, columns) = value.op, value.shape[:-2], value.shape[-2:]
    assert isinstance(op, MatMul)
    lines, used = [], 0
    for name, at, operand in zip("ab", x, value.inputs, strict=True):
        size = prod(operand.shape[-2:])
        place = f"{at} + {_batch_offset(operand.shape[:-2], batch)} * {size}"
        if operand.dtype == "bf16":
            lines.append(f"pk_widen({place}, 0, 1, {size}, work + {used});")
            place, used = f"work + {used}", used + size
        lines.append(f"const float *const {name} = {place};")
    rest = f", *const rest = work + {used}" if used else ""
    lines.append(f"float *const c = out + item * {rows * columns}{rest};")
    product, scratch = _whole_product(value, op, "rest" if used else "work", target)
    body = ("for (idx item = b0; item < b1; item++) {", *lines, *product, "}")
    return Call(prod(batch), body, block=1, scratch=used + scratch)


def _whole_product(
    value: Value, op: MatMul, work: str, target: Target
) -> tuple[tuple[str, ...], int]:
    """The lines for the matrices a, b and c, and the floats that they need of `work`."""
    (rows, columns), a = value.shape[-2:], value.inputs[0].shape
    if op.transpose_a:
        _refuse_both_transposed(op)
        at = f"0, {rows}, {columns}, {a[-2]}, c, {columns}, 0, {work}"
        run = (f"pk_gemm_tn(a, {rows}, b, {columns}, {at});",)
        return run, sizes.gemm_tn_scratch(columns, target)
    depth, panels = a[-1], sizes.panels(columns, target)
    steps = f"1, {depth}" if op.transpose_b else f"{columns}, 1"
    packed = (
        f"pk_pack_b(b, {steps}, {depth}, {columns}, {work}, 0, {panels});",
        f"pk_gemm(a, {depth}, {work}, {depth}, {columns}, c, {columns}, {rows}, 0);",
    )
    return packed, sizes.packed_size(depth, columns, target)


def _refuse_both_transposed(op: MatMul) -> None:
    if op.transpose_b:
        raise UnsupportedError(f"the C back end needs {op} rewritten with an explicit transpose")


def _batch_offset(own: Shape, batch: Shape) -> str:
    """The C expression of a matrix's number from the result's; broadcast dims stay at 0."""
    if prod(own) == prod(batch):
        return "item"
    own = (1,) * (len(batch) - len(own)) + own
    terms = [
        f"item / {prod(batch[d + 1 :])} % {size} * {prod(own[d + 1 :])}"
        for d, size in enumerate(own)
        if size > 1
    ]
    return f"({' + '.join(terms) or '0'})"
