"""Convolutions, channels last, as implicit matrix products."""

from dataclasses import dataclass
from math import prod

from pockengine.backends.c import depthwise_calls, sizes
from pockengine.backends.c.call import Call, block_of
from pockengine.errors import UnsupportedError
from pockengine.ir.op import Value
from pockengine.ir.types import Shape
from pockengine.ops.conv import Conv, ConvInputGrad, ConvWeightGrad
from pockengine.target import Target


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


def conv(value: Value, x: list[str], target: Target) -> Call:
    g, op = _geometry(value), value.op
    assert isinstance(op, Conv)
    if g.depthwise:
        return depthwise_calls.conv(value, g.declare(), x)
    return Call(
        prod(value.shape[:-1]),
        (g.declare(), f"pk_conv_rows(&g, {x[0]}, shared, out, {g.o}, b0, b1, work);"),
        block=block_of(g.o, 8 * target.mr),
        pack_items=op.groups * sizes.panels(g.o // op.groups, target),
        pack=(g.declare(), f"pk_conv_pack(&g, {x[1]}, shared, begin, end);"),
        shared=sizes.conv_packed_size(g.taps, g.c, g.o, op.groups, target),
        scratch=sizes.conv_rows_scratch(g.taps, g.c, op.groups, target),
    )


def conv_input_grad(value: Value, x: list[str], target: Target) -> Call:
    g, op = _geometry(value), value.op
    assert isinstance(op, ConvInputGrad)
    if g.depthwise:
        return depthwise_calls.conv_input_grad(value, g.declare(), x)
    return Call(
        prod(value.shape[:-1]),
        (g.declare(), f"pk_conv_dx_rows(&g, {x[0]}, shared, out, b0, b1, work);"),
        block=max(512, block_of(g.c)),
        pack_items=op.groups * sizes.panels(g.c // op.groups, target),
        pack=(g.declare(), f"pk_conv_pack_t(&g, {x[1]}, shared, begin, end);"),
        shared=sizes.conv_packed_size(g.taps, g.o, g.c, op.groups, target),
        scratch=sizes.conv_dx_scratch(g.taps, g.c, g.o, op.groups, target),
    )


def conv_weight_grad(value: Value, x: list[str], target: Target) -> Call:
    g, op = _geometry(value), value.op
    assert isinstance(op, ConvWeightGrad)
    if g.depthwise:
        return depthwise_calls.conv_weight_grad(value, g.declare(), x)
    rows = g.taps * g.c // op.groups
    body = f"pk_conv_dw(&g, {x[0]}, {x[1]}, out, b0, b1, work);"
    scratch = sizes.conv_dw_scratch(g.o, op.groups, target)
    return Call(rows, (g.declare(), body), scratch=scratch)
