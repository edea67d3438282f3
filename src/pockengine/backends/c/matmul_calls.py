"""Matrix products: B is packed into panels once a step, then rows of the result are independent."""

from dataclasses import replace
from math import prod

from pockengine.backends.c import sizes
from pockengine.backends.c.call import Call, block_of
from pockengine.errors import UnsupportedError
from pockengine.ir.op import Value
from pockengine.ir.types import Shape
from pockengine.ops.matmul import MatMul
from pockengine.target import Target


def matmul(value: Value, x: list[str], target: Target) -> tuple[Call, ...]:
    op, (a, b) = value.op, (v.type for v in value.inputs)
    assert isinstance(op, MatMul)
    if a.rank > 2 or b.rank > 2:
        return (_batched_matmul(value, op, x, target),)
    if op.transpose_a:
        return (_matmul_tn(value, op, x, target),)
    return (_matmul_rows(value, op, x, target),)


def matmul_panels(value: Value, x: list[str], target: Target) -> tuple[Call, ...]:
    """The same where the second operand is a frozen weight, stored in panels."""
    op = value.op
    assert isinstance(op, MatMul)
    if not op.transpose_b:
        return (_rows(value, x[0], x[1], target),)
    (_, columns), depth = value.shape, value.inputs[0].shape[1]
    pack = f"pk_pack_panels_t({x[1]}, {depth}, {columns}, shared, begin, end);"
    return (_packing(_rows(value, x[0], "shared", target), value, pack, target),)


def _matmul_rows(value: Value, op: MatMul, x: list[str], target: Target) -> Call:
    (_, columns), depth = value.shape, value.inputs[0].shape[1]
    steps = f"1, {depth}" if op.transpose_b else f"{columns}, 1"
    pack = f"pk_pack_b({x[1]}, {steps}, {depth}, {columns}, shared, begin, end);"
    return _packing(_rows(value, x[0], "shared", target), value, pack, target)


def _rows(value: Value, a: str, panels: str, target: Target) -> Call:
    (rows, columns), depth = value.shape, value.inputs[0].shape[1]
    to = f"out + b0 * {columns}, {columns}"
    body = f"pk_gemm({a} + b0 * {depth}, {depth}, {panels}, {depth}, {columns}, {to}, b1 - b0, 0);"
    return Call(rows, (body,), block=block_of(columns, target.mr))


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
    if op.transpose_b:
        raise UnsupportedError(f"the C back end needs {op} rewritten with an explicit transpose")
    at = f"b0, b1, {columns}, {depth}, out, {columns}, 0, work"
    body = f"pk_gemm_tn({x[0]}, {rows}, {x[1]}, {columns}, {at});"
    return Call(rows, (body,), scratch=sizes.gemm_tn_scratch(columns, target))


def _batched_matmul(value: Value, op: MatMul, x: list[str], target: Target) -> Call:
    a, b = (v.shape for v in value.inputs)
    rows, columns = value.shape[-2:]
    depth = a[-2] if op.transpose_a else a[-1]
    batch = value.shape[:-2]
    where = [
        "for (idx item = b0; item < b1; item++) {",
        f"const float *const a = {x[0]} + {_batch_offset(a[:-2], batch)} * {rows * depth};",
        f"const float *const b = {x[1]} + {_batch_offset(b[:-2], batch)} * {columns * depth};",
        f"float *const c = out + item * {rows * columns};",
    ]
    if op.transpose_a:
        if op.transpose_b:
            raise UnsupportedError(
                f"the C back end needs {op} rewritten with an explicit transpose"
            )
        product = (
            f"pk_gemm_tn(a, {rows}, b, {columns}, 0, {rows}, {columns}, {depth}, "
            f"c, {columns}, 0, work);"
        )
        scratch = sizes.gemm_tn_scratch(columns, target)
        return Call(prod(batch), (*where, product, "}"), block=1, scratch=scratch)
    steps = f"1, {depth}" if op.transpose_b else f"{columns}, 1"
    panels = sizes.panels(columns, target)
    run = (
        f"pk_pack_b(b, {steps}, {depth}, {columns}, work, 0, {panels});",
        f"pk_gemm(a, {depth}, work, {depth}, {columns}, c, {columns}, {rows}, 0);",
    )
    scratch = sizes.packed_size(depth, columns, target)
    return Call(prod(batch), (*where, *run, "}"), block=1, scratch=scratch)


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
