"""How each operator that has a kernel is computed: one small function an operator's `kernel` name.

A function gets the value and the C names of its operands, and returns a `Call`: C statements that compute
the items `b0..b1` of the result into `out`. Items are whole rows where the kernel works by rows, so that
a fused loop can follow on the same rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from pockengine.backends.c import sizes
from pockengine.errors import UnsupportedError
from pockengine.ir.op import Value
from pockengine.ir.schedule import storage
from pockengine.ir.types import Shape
from pockengine.ops.conv import Conv, ConvInputGrad, ConvWeightGrad
from pockengine.ops.matmul import MatMul
from pockengine.target import Target

WHOLE = 1 << 30  # a block that takes all items of a thread at once
BLOCK = 32768  # floats of a block of rows: what a second-level cache keeps until the loop has run

Names = Mapping[Value, str]


@dataclass(frozen=True)
class Call:
    """C statements for the items of one value.

    `body` may use b0, b1, out, work (this thread's workspace of `scratch` floats) and shared (a workspace
    of `shared` floats for all threads, filled by `pack` over `pack_items` before). `checks` are C
    conditions that must hold before anything runs. `rows` says that an item is one whole row.
    """

    items: int
    body: tuple[str, ...]
    block: int = WHOLE
    rows: bool = True
    pack_items: int = 0
    pack: tuple[str, ...] = ()
    shared: int = 0
    scratch: int = 0
    checks: tuple[str, ...] = ()


def call(value: Value, names: Names, target: Target) -> Call:
    """The call that computes `value`. Raises UnsupportedError where the C back end has no kernel."""
    write = _CALLS.get(value.op.kernel)
    if write is None:
        where = f" ({value.source})" if value.source else ""
        raise UnsupportedError(f"the C back end has no kernel for {value.op}{where}")
    return write(value, [names[storage(x)] for x in value.inputs], target)


def row_length(value: Value) -> int | None:
    """Elements an item of the value's kernel, if its items are whole rows; else None."""
    names = {storage(x): "x" for x in value.inputs}
    made = call(value, names, Target.named("sse"))
    return value.type.size // made.items if made.rows else None


def _block(row: int, multiple: int = 1) -> int:
    return max(1, BLOCK // max(1, row) // multiple) * multiple


# ---------------------------------------------------------------------- matrix products


def _matmul(value: Value, x: list[str], target: Target) -> Call:
    op, (a, b) = value.op, (v.type for v in value.inputs)
    assert isinstance(op, MatMul)
    if a.rank > 2 or b.rank > 2:
        return _batched_matmul(value, op, x, target)
    if op.transpose_a:
        return _matmul_tn(value, op, x, target)
    (rows, columns), depth = value.shape, a.shape[1]
    steps = f"1, {depth}" if op.transpose_b else f"{columns}, 1"
    pack = f"pk_pack_b({x[1]}, {steps}, {depth}, {columns}, shared, begin, end);"
    at = f"{x[0]} + b0 * {depth}, {depth}"
    body = f"pk_gemm({at}, shared, {depth}, {columns}, out + b0 * {columns}, {columns}, b1 - b0, 0);"
    return Call(
        rows,
        (body,),
        block=_block(columns, target.mr),
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
            raise UnsupportedError(f"the C back end needs {op} rewritten with an explicit transpose")
        run = f"pk_gemm_tn(a, {rows}, b, {columns}, 0, {rows}, {columns}, {depth}, c, {columns}, 0, work);"
        scratch = sizes.gemm_tn_scratch(columns, target)
        return Call(prod(batch), (*where, run, "}"), block=1, scratch=scratch)
    steps = f"1, {depth}" if op.transpose_b else f"{columns}, 1"
    panels = sizes.panels(columns, target)
    run = (
        f"pk_pack_b(b, {steps}, {depth}, {columns}, work, 0, {panels});",
        f"pk_gemm(a, {depth}, work, {depth}, {columns}, c, {columns}, {rows}, 0);",
    )
    scratch = sizes.packed_size(depth, columns, target)
    return Call(prod(batch), (*where, *run, "}"), block=1, scratch=scratch)


def _batch_offset(own: Shape, batch: Shape) -> str:
    """The C expression of a matrix's number, given that of the result's; broadcast dims stay at 0."""
    if prod(own) == prod(batch):
        return "item"
    own = (1,) * (len(batch) - len(own)) + own
    terms = [
        f"item / {prod(batch[d + 1 :])} % {size} * {prod(own[d + 1 :])}"
        for d, size in enumerate(own)
        if size > 1
    ]
    return f"({' + '.join(terms) or '0'})"


# ---------------------------------------------------------------------- convolution


@dataclass(frozen=True)
class _Geometry:
    """A convolution between x[n, h, w, c] and y[n, oh, ow, o]; one spatial dim has h = 1."""

    x: Shape
    y: Shape
    kernel: Shape
    op: Conv | ConvInputGrad | ConvWeightGrad

    @property
    def taps(self) -> int:
        return prod(self.kernel)

    @property
    def c(self) -> int:
        return self.x[-1]

    @property
    def o(self) -> int:
        return self.y[-1]

    @property
    def depthwise(self) -> bool:
        return self.op.groups == self.c == self.o

    def declare(self) -> str:
        """The C definition of `g`."""
        op = self.op

        def pair(values: Shape, one: int) -> Shape:
            return values if len(values) == 2 else (one, *values)

        h, w = pair(self.x[1:-1], 1)
        oh, ow = pair(self.y[1:-1], 1)
        rest = [pair(self.kernel, 1), pair(op.stride, 1), pair(tuple(p[0] for p in op.padding), 0)]
        tail = [*(n for p in rest for n in p), *pair(op.dilation, 1), op.groups]
        fields = [self.x[0], h, w, self.c, oh, ow, self.o, *tail]
        return f"static const pk_conv g = {{{', '.join(map(str, fields))}}};"


def _geometry(value: Value) -> _Geometry:
    op, (first, second) = value.op, (v.shape for v in value.inputs)
    if not isinstance(op, (Conv, ConvInputGrad, ConvWeightGrad)) or not op.channels_last:
        raise UnsupportedError(f"the C back end convolves channels-last tensors, got {op}")
    if len(op.stride) > 2:
        raise UnsupportedError(f"the C back end convolves over 1 or 2 spatial dims, got {op}")
    if isinstance(op, Conv):
        return _Geometry(first, value.shape, second[:-2], op)
    if isinstance(op, ConvInputGrad):
        return _Geometry(value.shape, first, second[:-2], op)
    return _Geometry(first, second, value.shape[:-2], op)


def _conv(value: Value, x: list[str], target: Target) -> Call:
    g, op = _geometry(value), value.op
    assert isinstance(op, Conv)
    if g.depthwise:
        lines = prod(value.shape[:-2])
        body = f"pk_depthwise_lines(&g, {x[0]}, {x[1]}, out, b0, b1);"
        return Call(lines, (g.declare(), body), block=_block(value.type.size // lines))
    return Call(
        prod(value.shape[:-1]),
        (g.declare(), f"pk_conv_rows(&g, {x[0]}, shared, out, {g.o}, b0, b1, work);"),
        block=_block(g.o, 8 * target.mr),
        pack_items=op.groups * sizes.panels(g.o // op.groups, target),
        pack=(g.declare(), f"pk_conv_pack(&g, {x[1]}, shared, begin, end);"),
        shared=sizes.conv_packed_size(g.taps, g.c, g.o, op.groups, target),
        scratch=sizes.conv_rows_scratch(g.taps, g.c, op.groups, target),
    )


def _conv_input_grad(value: Value, x: list[str], target: Target) -> Call:
    g, op = _geometry(value), value.op
    assert isinstance(op, ConvInputGrad)
    if g.depthwise:
        lines = prod(value.shape[:-2])
        body = f"pk_depthwise_dx_lines(&g, {x[0]}, {x[1]}, out, b0, b1);"
        return Call(lines, (g.declare(), body), block=_block(value.type.size // lines))
    return Call(
        prod(value.shape[:-1]),
        (g.declare(), f"pk_conv_dx_rows(&g, {x[0]}, shared, out, b0, b1, work);"),
        block=max(512, _block(g.c)),
        pack_items=op.groups * sizes.panels(g.c // op.groups, target),
        pack=(g.declare(), f"pk_conv_pack_t(&g, {x[1]}, shared, begin, end);"),
        shared=sizes.conv_packed_size(g.taps, g.o, g.c, op.groups, target),
        scratch=sizes.conv_dx_scratch(g.taps, g.c, g.o, op.groups, target),
    )


def _conv_weight_grad(value: Value, x: list[str], target: Target) -> Call:
    g, op = _geometry(value), value.op
    assert isinstance(op, ConvWeightGrad)
    if g.depthwise:
        items = -(-g.c // target.nr)
        span = f"b0 * {target.nr}, idx_min(b1 * {target.nr}, {g.c})"
        body = f"pk_depthwise_dw(&g, {x[0]}, {x[1]}, out, {span});"
        return Call(items, (g.declare(), body), rows=False)
    rows = g.taps * g.c // op.groups
    body = f"pk_conv_dw(&g, {x[0]}, {x[1]}, out, b0, b1, work);"
    scratch = sizes.conv_dw_scratch(g.o, op.groups, target)
    return Call(rows, (g.declare(), body), scratch=scratch)


Writer = Callable[[Value, list[str], Target], Call]

_CALLS: dict[str, Writer] = {
    "matmul": _matmul,
    "conv": _conv,
    "conv_input_grad": _conv_input_grad,
    "conv_weight_grad": _conv_weight_grad,
}
