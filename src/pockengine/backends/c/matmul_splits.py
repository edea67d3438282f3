"""Matrix products with too few rows to split: threads share columns, or what is summed.

They compute in two goes: the first into `shared`, by columns or parts; the second brings the rows,
so that a loop can follow as behind any kernel of rows.
"""

from dataclasses import replace

from pockengine.backends.c import sizes
from pockengine.backends.c.call import Call, block_of
from pockengine.ir.op import Value
from pockengine.ops.matmul import MatMul
from pockengine.target import Target

PARTS = 8  # a fixed number, so that any number of threads computes the same


def few_rows(value: Value, op: MatMul, x: list[str], target: Target) -> Call:
    """B is read in place: for rows so few that packing it would cost more than the product."""
    (rows, columns), depth = value.shape, value.inputs[0].shape[1]
    kernel = "pk_gemm_few_t" if op.transpose_b else "pk_gemm_few"
    item = target.vector_width * (1 if op.transpose_b else 8)  # columns
    span = f"begin * {item}, idx_min(end * {item}, {columns})"
    pack = f"{kernel}({x[0]}, {x[1]}, {depth}, {columns}, shared, {rows}, {span});"
    call = _two_goes(value, _copied(columns), (pack,), "few")
    return replace(call, pack_items=-(-columns // item), shared=rows * columns)


def by_columns(value: Value, op: MatMul, x: list[str], target: Target) -> Call:
    """Each thread packs and multiplies its own panels of B, for all rows."""
    (_, columns), depth = value.shape, value.inputs[0].shape[1]
    steps = f"1, {depth}" if op.transpose_b else f"{columns}, 1"
    first = f"{x[1]} + panel * {target.nr * (depth if op.transpose_b else 1)}"
    fill = f"pk_pack_b({first}, {steps}, {depth}, width, work, 0, 1);"
    call = by_panels(value, x[0], "work", target, fill)
    return replace(call, scratch=depth * target.nr)


def by_panels(value: Value, a: str, panel: str, target: Target, fill: str = "") -> Call:
    """Each thread multiplies its own panels, for all rows; `fill` packs one."""
    (rows, columns), depth = value.shape, value.inputs[0].shape[1]
    at = f"shared + panel * {target.nr}, {columns}, {rows}, 0"
    pack = (
        "for (idx panel = begin; panel < end; panel++) {",
        f"const idx width = idx_min({target.nr}, {columns} - panel * {target.nr});",
        *([fill] if fill else []),
        f"pk_gemm({a}, {depth}, {panel}, {depth}, width, {at});",
        "}",
    )
    call = _two_goes(value, _copied(columns), pack, "columns")
    return replace(call, pack_items=sizes.panels(columns, target), shared=rows * columns)


def by_parts(value: Value, x: list[str], target: Target) -> Call:
    """a^T @ b over PARTS ranges of what is summed, then the sum of the parts.

    Each part is computed as its transpose where its columns then fill vectors better.
    """
    rows, columns = value.shape
    depth, size = value.inputs[0].shape[0], rows * columns
    whole = sizes.whole_vectors
    turned = whole(rows, target) * columns < whole(columns, target) * rows
    (a, m), (b, n) = ((x[1], columns), (x[0], rows)) if turned else ((x[0], rows), (x[1], columns))
    pack = (
        "for (idx part = begin; part < end; part++) {",
        f"const idx k0 = (idx){depth} * part / {PARTS}, k1 = (idx){depth} * (part + 1) / {PARTS};",
        f"pk_gemm_tn({a} + k0 * {m}, {m}, {b} + k0 * {n}, {n}, 0, {m}, {n}, k1 - k0, "
        f"shared + part * {size}, {n}, 0, work);",
        "}",
    )
    steps = f"1, {rows}" if turned else f"{columns}, 1"
    body = f"pk_sum_parts(shared, {PARTS}, {size}, {steps}, {columns}, out, b0, b1);"
    call = _two_goes(value, body, pack, "parts")
    return replace(
        call,
        pack_items=PARTS,
        shared=PARTS * size,
        scratch=sizes.gemm_tn_scratch(n, target),
    )


def _two_goes(value: Value, body: str, pack: tuple[str, ...], variant: str) -> Call:
    rows, columns = value.shape
    return Call(rows, (body,), block=block_of(columns), pack=pack, variant=variant)


def _copied(columns: int) -> str:
    at = f"b0 * {columns}"
    return f"memcpy(out + {at}, shared + {at}, (b1 - b0) * {4 * columns});"
