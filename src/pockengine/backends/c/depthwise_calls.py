"""Convolutions of each channel with its own kernel; `declare` defines their geometry `g` in C."""

from math import prod

from pockengine.backends.c.call import Call, block_of
from pockengine.ir.op import Value
from pockengine.ir.types import Shape

COLUMNS = 16  # channels, or sums of a weight gradient, an item: whole vectors of every target
PARTS = 16  # shares of the pixels that a weight gradient is summed over apart, at most,
PART_PIXELS = 256  # and the least pixels of one, for adding up the shares to cost little
SPLIT_CHANNELS = 256  # channels from which on threads read long enough runs when they share these


def conv(value: Value, declare: str, x: list[str]) -> Call:
    return _lines(value, declare, f"pk_depthwise_lines(&g, {x[0]}, {x[1]}, out, b0, b1);")


def conv_input_grad(value: Value, declare: str, x: list[str]) -> Call:
    return _lines(value, declare, f"pk_depthwise_dx_lines(&g, {x[0]}, {x[1]}, out, b0, b1);")


def _lines(value: Value, declare: str, body: str) -> Call:
    lines = prod(value.shape[:-2])
    return Call(lines, (declare, body), block=block_of(value.type.size // lines))


def conv_weight_grad(value: Value, declare: str, x: list[str]) -> Call:
    """Split over threads by channels, or by lines of the image, whose sums are then added up."""
    dy, size = value.inputs[1].shape, value.type.size
    lines, c = prod(dy[:-2]), dy[-1]
    parts = _parts(dy)
    call = f"pk_depthwise_dw(&g, {x[0]}, {x[1]}"
    if parts == 1:
        body = f"{call}, out, 0, {lines}, {_span(c)});"
        return Call(-(-c // COLUMNS), (declare, body), rows=False)
    share = f"{lines} * p / {parts}, {lines} * (p + 1) / {parts}"
    of_part = (
        "for (idx p = begin; p < end; p++)",
        f"{call}, shared + p * {size}, {share}, 0, {c});",
    )
    return Call(
        -(-size // COLUMNS),
        (f"pk_reduce_sum(shared, {parts}, {size}, out, 0, 1, {_span(size)});",),
        rows=False,
        pack_items=parts,
        pack=(declare, *of_part),
        shared=parts * size,
    )


def _span(count: int) -> str:
    return f"b0 * {COLUMNS}, idx_min(b1 * {COLUMNS}, {count})"


def _parts(dy: Shape) -> int:
    """A power of two that depends on the shape only, so that the sum is the same for any number of
    threads; 1 where threads share the channels."""
    most = min(PARTS, prod(dy[:-2]), prod(dy[:-1]) // PART_PIXELS)
    if dy[-1] >= SPLIT_CHANNELS or most < 2:
        return 1
    return 1 << (most.bit_length() - 1)
