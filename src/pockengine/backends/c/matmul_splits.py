"""Matrix products with too few rows to split: threads share columns, or what is summed.

They compute all rows, or all parts of them, before the first item, so that a loop can follow as
behind any kernel of rows.
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
    pack = f"{kernel}({x[0]}, {depth}, {x[1]}, {depth}, {columns}, out, {rows}, {span});"
    return Call(rows, (), pack_items=-(-columns // item), pack=(pack,), variant="few")


def few_rows_by_parts(value: Value, x: list[str]) -> Call:
    """The same over PARTS ranges of B's rows, then the sum of the parts.

    Each thread reads whole rows of B. Where B is trained, most of them are those that its share of
    the update writes, so that they stay in its processor's cache.
    """
    (rows, columns), depth = value.shape, value.inputs[0].shape[1]
    size = rows * columns
    product = (
        f"pk_gemm_few({x[0]} + k0, {depth}, {x[1]} + k0 * {columns}, k1 - k0, {columns}, "
        f"shared + part * {size}, {rows}, 0, {columns});"
    )
    return _summed(value, depth, product, f"{columns}, 1")


def by_columns(value: Value, op: MatMul, x: list[str], target: Target) -> Call:
    """Each thread packs and multiplies its own panels of B, for all rows."""
    (_, columns), depth = value.shape, value.inputs[0].shape[1]
    steps = f"1, {depth}" if op.transpose_b else f"{columns}, 1"
    first = f"{x[1]} + panel * {target.nr * (depth if op.transpose_b else 1)}"
    fill = f"pk_pack_b({first}, {steps}, {depth}, width, work, 0, 1);"
    return by_filled_panels(value, x[0], fill, target)


def by_filled_panels(value: Value, a: str, fill: str, target: Target) -> Call:
    """The same where `fill` writes one panel to `work`."""
    call = by_panels(value, a, "work", target, fill)
    return replace(call, scratch=value.inputs[0].shape[1] * target.nr)


def by_panels(value: Value, a: str, panel: str, target: Target, fill: str = "") -> Call:
    """Each thread multiplies its own panels, for all rows."""
    (rows, columns), depth = value.shape, value.inputs[0].shape[1]
    at = f"out + panel * {target.nr}, {columns}, {rows}, 0"
    pack = (
        "for (idx panel = begin; panel < end; panel++) {",
        f"const idx width = idx_min({target.nr}, {columns} - panel * {target.nr});",
        *([fill] if fill else []),
        f"pk_gemm({a}, {depth}, {panel}, {depth}, width, {at});",
        "}",
    )
    panels = sizes.panels(columns, target)
    return Call(rows, (), pack_items=panels, pack=pack, variant="columns")


def by_parts(value: Value, x: list[str], target: Target) -> Call:
    """a^T @ b over PARTS ranges of what is summed, then the sum of the parts.

    Each part is computed as its transpose where its columns then fill vectors better.
    """
    rows, columns = value.shape
    depth, size = value.inputs[0].shape[0], rows * columns
    whole = sizes.whole_vectors
    turned = whole(rows, target) * columns < whole(columns, target) * rows
    (a, m), (b, n) = ((x[1], columns), (x[0], rows)) if turned else ((x[0], rows), (x[1], columns))
    product = (
        f"pk_gemm_tn({a} + k0 * {m}, {m}, {b} + k0 * {n}, {n}, 0, {m}, {n}, k1 - k0, "
        f"shared + part * {size}, {n}, 0, work);"
    )
    call = _summed(value, depth, product, f"1, {rows}" if turned else f"{columns}, 1")
    return replace(call, scratch=sizes.gemm_tn_scratch(n, target))


def _summed(value: Value, depth: int, product: str, steps: str) -> Call:
    """`product` writes part `part`, of k0..k1 of what is summed, to `shared`; then their sum.

    `steps` are the floats from a row of a part to the next, and from a column.
    """
    rows, columns = value.shape
    pack = (
        "for (idx part = begin; part < end; part++) {",
        f"const idx k0 = (idx){depth} * part / {PARTS}, k1 = (idx){depth} * (part + 1) / {PARTS};",
        product,
        "}",
    )
    body = f"pk_sum_parts(shared, {PARTS}, {value.type.size}, {steps}, {columns}, out, b0, b1);"
    return Call(
        rows,
        (body,),
        block=block_of(columns),
        pack_items=PARTS,
        pack=pack,
        shared=PARTS * value.type.size,
        variant="parts",
    )
