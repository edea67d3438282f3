"""Training a share of a tensor: the gradient, and the parameter, are cut to the trained channels.

    g -> take(g, channels)        p' -> put(p, channels, p'[channels])

This is all that sparse back-propagation is at this stage; `passes/slice.py` pushes the cuts up to
where they save work and memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pockengine.ir.op import Value
from pockengine.ops import build
from pockengine.scheme import Channels


def take(value: Value, channels: Channels | None) -> Value:
    """The trained channels of a parameter or of its gradient."""
    return build.take(value, channels.axis, channels.indices) if channels else value


def put(param: Value, channels: Channels | None, piece: Value) -> Value:
    """The parameter with new trained channels."""
    return build.put(param, channels.axis, channels.indices, piece) if channels else piece


def in_layout(
    selection: Mapping[str, Channels | None], layouts: Mapping[str, Sequence[int]]
) -> dict[str, Channels | None]:
    """The selection for parameters stored transposed: `layouts` gives their permutations."""
    return {
        name: channels and replace(channels, axis=stored_axis(layouts.get(name), channels.axis))
        for name, channels in selection.items()
    }


def stored_axis(layout: Sequence[int] | None, axis: int) -> int:
    """Where axis `axis` of the source's layout is after the permutation `layout`, if any."""
    return axis if layout is None else tuple(layout).index(axis)
