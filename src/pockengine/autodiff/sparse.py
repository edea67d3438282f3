"""Training a share of a tensor: the gradient, and the parameter, are cut to the trained channels.

    g -> take(g, channels)        p' -> put(p, channels, p'[channels])

This is all that sparse back-propagation is at this stage; `passes/slice.py` pushes the cuts up to
where they save work and memory.
"""

from collections.abc import Mapping, Sequence

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
    """The selection for parameters that are stored transposed: `layouts` gives their permutations.

    Axis `a` of the source's layout is axis `layouts[name].index(a)` of the stored one.
    """
    return {
        name: Channels(tuple(layouts[name]).index(channels.axis), channels.indices)
        if channels and name in layouts
        else channels
        for name, channels in selection.items()
    }
