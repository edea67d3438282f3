"""Products with operands in bf16: widened where they are packed, or block by block."""

from dataclasses import replace

from pockengine.backends.c import conv_calls, sizes
from pockengine.backends.c.call import Call, block_of
from pockengine.backends.c.matmul_calls import batched
from pockengine.errors import UnsupportedError
from pockengine.ir.op import Value
from pockengine.ops.matmul import MatMul
from pockengine.target import Target


def matmul(value: Value, x: list[str], target: Target) -> tuple[Call, ...]:
    """A product of which at least one operand is bf16."""
    op, (a, b) = value.op, (v.type for v in value.inputs)
    assert isinstance(op, MatMul)
    if a.rank > 2 or b.rank > 2:
        return (batched(value, x, target),)
    return (_tn(value, x, target) if op.transpose_a else _rows(value, op, x, target),)


def _rows(value: Value, op: MatMul, x: list[str], target: Target) -> Call:
    a, b = value.inputs
    (rows, columns), depth = value.shape, a.shape[1]
    steps = f"1, {depth}" if op.transpose_b else f"{columns}, 1"
    pack = f"{_packing(b)}({x[1]}, {steps}, {depth}, {columns}, shared, begin, end);"
    at, widen, block, scratch = f"{x[0]} + b0 * {depth}", [], block_of(columns, target.mr), 0
    if a.dtype == "bf16":
        block = min(block, block_of(depth, target.mr))
        widen = [f"pk_widen({at}, {depth}, b1 - b0, {depth}, work);"]
        at, scratch = "work", block * depth
    product = f"pk_gemm({at}, {depth}, shared, {depth}, {columns}, "
    product += f"out + b0 * {columns}, {columns}, b1 - b0, 0);"
    return Call(
        rows,
        (*widen, product),
        block=block,
        pack_items=sizes.panels(columns, target),
        pack=(pack,),
        shared=sizes.packed_size(depth, columns, target),
        scratch=scratch,
    )


def _packing(b: Value) -> str:
    return "pk_pack_b_bf16" if b.dtype == "bf16" else "pk_pack_b"


def matmul_panels(value: Value, x: list[str], target: Target) -> tuple[Call, ...]:
    """A product with a frozen weight in panels of bf16; by dot products where both are bf16."""
    op, a = value.op, value.inputs[0]
    assert isinstance(op, MatMul)
    (rows, columns), depth = value.shape, a.shape[1]
    panels = "(uint16_t *)shared" if op.transpose_b else x[1]
    at = f"{x[0]} + b0 * {depth}, {depth}"
    to = f"{panels}, {depth}, {columns}, out + b0 * {columns}, {columns}, b1 - b0);"
    call = Call(rows, (f"pk_gemm_half({at}, {to}",), block=block_of(columns, target.mr))
    if op.transpose_b:
        call = _turning(call, x[1], depth, columns, target)
    if a.dtype != "bf16":
        return (call,)
    if target.bf16_dots:
        return (replace(call, body=(f"pk_gemm_dots({at}, {to}",), variant="dots"),)
    block = min(call.block, block_of(depth, target.mr))
    body = (f"pk_widen({at}, b1 - b0, {depth}, work);", f"pk_gemm_half(work, {depth}, {to}")
    return (replace(call, body=body, block=block, scratch=block * depth),)


def _turning(call: Call, panels: str, depth: int, columns: int, target: Target) -> Call:
    """The call with the panels of the transpose turned before."""
    return replace(
        call,
        pack_items=sizes.panels(columns, target),
        pack=(
            f"pk_turn_panels_bf16({panels}, {depth}, {columns}, (uint16_t *)shared, begin, end);",
        ),
        shared=-(-sizes.packed_size(depth, columns, target) // 2),
    )


def _tn(value: Value, x: list[str], target: Target) -> Call:
    (rows, columns), (a, b) = value.shape, value.inputs
    depth = a.shape[0]
    body = (
        *(
            f"const pk_operand {name} = {{{at}, {v.shape[1]}, {int(v.dtype == 'bf16')}}};"
            for name, at, v in zip("ab", x, value.inputs, strict=True)
        ),
        f"pk_gemm_tn_mixed(&a, &b, b0, b1, {columns}, {depth}, out, {columns}, work);",
    )
    return Call(
        rows,
        body,
        block=sizes.TN_KC,
        scratch=sizes.gemm_tn_mixed_scratch(
            *(rows if a.dtype == "bf16" else 0, columns if b.dtype == "bf16" else 0),
            columns,
            target,
        ),
    )


def conv(value: Value, x: list[str], target: Target) -> tuple[Call, ...]:
    return _packed_from_bf16(value, conv_calls.conv(value, x, target))


def conv_input_grad(value: Value, x: list[str], target: Target) -> tuple[Call, ...]:
    return _packed_from_bf16(value, conv_calls.conv_input_grad(value, x, target))


def _packed_from_bf16(value: Value, calls: tuple[Call, ...]) -> tuple[Call, ...]:
    """The calls for a weight of floats, with the packing of one in bf16."""
    if value.inputs[0].dtype == "bf16" or not all(call.pack for call in calls):
        raise UnsupportedError(
            f"the C back end takes bf16 for the weight of a dense convolution, got {value.op}"
        )
    return tuple(
        replace(call, pack=(*call.pack[:-1], call.pack[-1].replace("(&g", "_bf16(&g", 1)))
        for call in calls
    )
