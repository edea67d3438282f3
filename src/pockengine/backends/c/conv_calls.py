"""Convolutions, channels last, as implicit matrix products."""

from dataclasses import dataclass, replace
from math import prod

from pockengine.backends.c import depthwise_calls, sizes
from pockengine.backends.c.call import WHOLE, Call, block_of
from pockengine.backends.c.matmul_splits import PARTS
from pockengine.backends.c.syntax import conv_geometry
from pockengine.errors import UnsupportedError
from pockengine.ir.op import Value
from pockengine.ir.types import Shape
from pockengine.ops.conv import Conv, ConvInputGrad, ConvWeightGrad
from pockengine.target import Target

WINOGRAD_CHANNELS = 8  # from which on the transforms of tiles pay
FEW_CHANNELS = 8  # up to which lines of the image are read in place
FEW_TILES = 64  # for which each thread can transform the whole input
WINOGRAD_WEIGHT = 4_000_000  # floats of a transformed weight that a third cache keeps beside others


@dataclass(frozen=True)
class _Geometry:
    """A convolution between x[n, h, w, c] and y[n, oh, ow, o]; one spatial dim has h = 1."""

    x: Shape
    y: Shape
    kernel: Shape
    op: Conv | ConvInputGrad | ConvWeightGrad
    padding: Shape

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

    @property
    def plain_3x3(self) -> bool:
        one = (1, 1)
        steps = (self.op.stride, self.op.dilation, self.op.groups)
        return self.kernel == (3, 3) and steps == (one, one, 1)

    @property
    def in_place(self) -> bool:
        """Whether a pixel has few values, whole kernel rows of which lie side by side, and there
        are lines enough for all threads.
        """
        few = self.taps * self.c <= sizes.KC and self.c <= FEW_CHANNELS
        rows = self.kernel[-1] > 1 and self.op.dilation[-1] == self.op.groups == 1
        return few and rows and prod(self.y[:-2]) >= PARTS

    @property
    def lines_scratch(self) -> int:
        kernel_lines = self.taps // self.kernel[-1]
        ow, step = self.y[-2], self.op.stride[-1]
        return sizes.conv_lines_scratch(ow, step, kernel_lines, self.kernel[-1], self.c)

    def exchanged(self) -> "_Geometry":
        """The convolution from y to x that its input gradient is, for stride 1."""
        spans = zip(self.kernel, self.op.dilation, self.padding, strict=True)
        padding = tuple((k - 1) * d - p for k, d, p in spans)
        return replace(self, x=self.y, y=self.x, padding=padding)

    def declare(self) -> str:
        """The C definition of `g`."""
        op = self.op

        def pair(values: Shape, one: int) -> Shape:
            return values if len(values) == 2 else (one, *values)

        h, w = pair(self.x[1:-1], 1)
        oh, ow = pair(self.y[1:-1], 1)
        rest = [pair(self.kernel, 1), pair(op.stride, 1), pair(self.padding, 0)]
        tail = [*(n for p in rest for n in p), *pair(op.dilation, 1), op.groups]
        fields = [self.x[0], h, w, self.c, oh, ow, self.o, *tail]
        return conv_geometry(fields)


def _geometry(value: Value) -> _Geometry:
    op, (first, second) = value.op, (v.shape for v in value.inputs)
    if not isinstance(op, (Conv, ConvInputGrad, ConvWeightGrad)) or not op.channels_last:
        raise UnsupportedError(f"the C back end convolves channels-last tensors, got {op}")
    if len(op.stride) > 2:
        raise UnsupportedError(f"the C back end convolves over 1 or 2 spatial dims, got {op}")
    padding = tuple(before for before, _ in op.padding)
    if isinstance(op, Conv):
        return _Geometry(first, value.shape, second[:-2], op, padding)
    if isinstance(op, ConvInputGrad):
        return _Geometry(value.shape, first, second[:-2], op, padding)
    return _Geometry(first, second, value.shape[:-2], op, padding)


def conv(value: Value, x: list[str], target: Target) -> tuple[Call, ...]:
    g = _geometry(value)
    if g.depthwise:
        return (depthwise_calls.conv(value, g.declare(), x),)
    gather = _gather(value, g, x, target)
    lines = (_lines(g, gather, x),) if g.in_place else ()
    return (*lines, *_ordered(g, _winograd(value, g, x, target), gather))


def conv_input_grad(value: Value, x: list[str], target: Target) -> tuple[Call, ...]:
    g = _geometry(value)
    if g.depthwise:
        return (depthwise_calls.conv_input_grad(value, g.declare(), x),)
    fast = _winograd(value, g.exchanged(), x, target)
    return _ordered(g, fast, _gather_input_grad(value, g, x, target))


def _ordered(g: _Geometry, fast: tuple[Call, ...], gather: Call) -> tuple[Call, ...]:
    """Tiles are transformed in whole vectors of channels; a few channels would leave most empty."""
    return (gather, *fast) if min(g.c, g.o) < WINOGRAD_CHANNELS else (*fast, gather)


def _winograd(value: Value, g: _Geometry, x: list[str], target: Target) -> tuple[Call, ...]:
    """Fewer products for a 3x3 kernel, by tiles of 4x4 or 2x2 pixels."""
    if not g.plain_3x3:
        return ()
    large = sizes.winograd_packed_size(4, g.c, g.o, target) > WINOGRAD_WEIGHT
    calls = tuple(_winograd_call(value, g, m, x, target) for m in ((2, 4) if large else (4, 2)))
    if _tiles(value, 4) > FEW_TILES:
        return calls
    panels = _winograd_panels(value, g, x, target)
    return (panels, *calls) if large else (*calls, panels)


def _tiles(value: Value, m: int) -> int:
    n, h, w, _ = value.shape
    return n * -(-h // m) * -(-w // m)


def _winograd_panels(value: Value, g: _Geometry, x: list[str], target: Target) -> Call:
    """All rows before the first item: threads share the outputs and transform their weights."""
    turned = int(isinstance(g.op, ConvInputGrad))
    body = f"pk_winograd_panels(&g, 4, {turned}, {x[0]}, {x[1]}, out, begin, end, work);"
    return Call(
        prod(value.shape[:-1]),
        (),
        pack_items=sizes.panels(g.o, target),
        pack=(g.declare(), body),
        scratch=sizes.winograd_panels_scratch(4, _tiles(value, 4), g.c, target),
        variant="winograd4 panels",
    )


def _winograd_call(value: Value, g: _Geometry, m: int, x: list[str], target: Target) -> Call:
    n, h, w, _ = value.shape
    # Tiles start at the top of an image; where they do not fill it, it is not divided.
    lines = m if h % m == 0 or n == 1 else h
    tiles = -(-lines // m) * -(-w // m)
    sides = f"{m}, {int(isinstance(g.op, ConvInputGrad))}"
    return Call(
        n * h * w,
        (g.declare(), f"pk_winograd_rows(&g, {m}, {x[0]}, shared, out, b0, b1, work);"),
        block=lines * w * max(1, sizes.WINOGRAD_TILES // tiles),
        multiple=lines * w,
        pack_items=sizes.panels(g.o, target),
        pack=(g.declare(), f"pk_winograd_pack(&g, {sides}, {x[1]}, shared, begin, end);"),
        shared=sizes.winograd_packed_size(m, g.c, g.o, target),
        scratch=sizes.winograd_scratch(m, g.c, g.o, target),
        variant=f"winograd{m}",
    )


def _gather(value: Value, g: _Geometry, x: list[str], target: Target) -> Call:
    groups = g.op.groups
    return Call(
        prod(value.shape[:-1]),
        (g.declare(), f"pk_conv_rows(&g, {x[0]}, shared, out, {g.o}, b0, b1, work);"),
        block=block_of(g.o, 8 * target.mr),
        pack_items=groups * sizes.panels(g.o // groups, target),
        pack=(g.declare(), f"pk_conv_pack(&g, {x[1]}, shared, begin, end);"),
        shared=sizes.conv_packed_size(g.taps, g.c, g.o, groups, target),
        scratch=sizes.conv_rows_scratch(g.taps, g.c, groups, target),
        variant="gather",
    )


def _lines(g: _Geometry, gather: Call, x: list[str]) -> Call:
    """The image is read in place, a line of the output at a time."""
    ow, row = g.y[-2], g.y[-2] * g.o
    body = f"pk_conv_lines(&g, {x[0]}, shared, out, b0 / {ow}, b1 / {ow}, work);"
    return replace(
        gather,
        body=(g.declare(), body),
        block=ow * block_of(row),
        multiple=ow,
        scratch=g.lines_scratch,
        variant="lines",
    )


def _gather_input_grad(value: Value, g: _Geometry, x: list[str], target: Target) -> Call:
    groups = g.op.groups
    return Call(
        prod(value.shape[:-1]),
        (g.declare(), f"pk_conv_dx_rows(&g, {x[0]}, shared, out, b0, b1, work);"),
        block=max(512, block_of(g.c)),
        pack_items=groups * sizes.panels(g.c // groups, target),
        pack=(g.declare(), f"pk_conv_pack_t(&g, {x[1]}, shared, begin, end);"),
        shared=sizes.conv_packed_size(g.taps, g.o, g.c, groups, target),
        scratch=sizes.conv_dx_scratch(g.taps, g.c, g.o, groups, target),
        variant="gather",
    )


def conv_weight_grad(value: Value, x: list[str], target: Target) -> tuple[Call, ...]:
    g = _geometry(value)
    op = g.op
    if g.depthwise:
        return (depthwise_calls.conv_weight_grad(value, g.declare(), x),)
    channels = g.c // op.groups
    gather = Call(
        g.taps * channels,
        (g.declare(), f"pk_conv_dw(&g, {x[0]}, {x[1]}, out, b0, b1, work);"),
        # A part of a tap is one more way through all pixels: too much for a few channels.
        multiple=channels if channels <= sizes.CONV_DW_M // 4 else 1,
        # Taps of few channels are gathered several at once, wherever a thread's rows start.
        block=channels if channels > sizes.CONV_DW_M else WHOLE,
        scratch=sizes.conv_dw_scratch(g.o, op.groups, target),
        variant="gather",
    )
    lines = (_lines_weight_grad(value, g, x, target),) if g.in_place else ()
    fast = tuple(_winograd_weight_grad(g, m, x, target) for m in (4, 2)) if g.plain_3x3 else ()
    return (*lines, *_ordered(g, fast, gather))


def _lines_weight_grad(value: Value, g: _Geometry, x: list[str], target: Target) -> Call:
    """Parts of the output lines are summed apart."""
    lines, size = prod(g.y[:-2]), value.type.size
    share = f"{lines} * part / {PARTS}, {lines} * (part + 1) / {PARTS}"
    pack = (
        "for (idx part = begin; part < end; part++)",
        f"pk_conv_dw_lines(&g, {x[0]}, {x[1]}, shared + part * {size}, {share}, work);",
    )
    at = f"shared, {PARTS}, {size}, {g.o}, 1, {g.o}, out, b0, b1"
    return Call(
        size // g.o,
        (f"pk_sum_parts({at});",),
        pack_items=PARTS,
        pack=(g.declare(), *pack),
        shared=PARTS * size,
        scratch=g.lines_scratch + sizes.gemm_tn_scratch(g.o, target),
        variant="lines",
    )


def _winograd_weight_grad(g: _Geometry, m: int, x: list[str], target: Target) -> Call:
    """All rows before the first item: a block has some channels of each tap."""
    body = f"pk_winograd_dw(&g, {m}, {x[0]}, {x[1]}, out, begin, end, work);"
    return Call(
        g.taps * g.c,
        (),
        pack_items=sizes.winograd_dw_blocks(g.c, g.o),
        pack=(g.declare(), body),
        scratch=sizes.winograd_dw_scratch(m, target),
        variant=f"winograd{m}",
    )
