"""What a gated program trains: checks masks, and gives the contents of the gates.

A parameter's gate is a leaf "gate:NAME" of bools, one for each of its trained input channels, or
one for all of it where it has no input channels.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pockengine.errors import InputError
from pockengine.runtime.arrays import as_array
from pockengine.runtime.program import Array, Leaf

PREFIX = "gate:"


def gate_contents(
    leaves: Mapping[str, Leaf], masks: Mapping[str, Any]
) -> Iterator[tuple[Leaf, Array]]:
    """Each gate and its content: closed where `masks` does not name its parameter.

    Raises InputError for a parameter without a gate, and for masks that do not fit.
    """
    gates = {n.removeprefix(PREFIX): gate for n, gate in leaves.items() if gate.kind == "gate"}
    if not gates:
        raise InputError("the program was compiled without gates: it trains all of its scheme")
    for name in masks:
        if name not in gates:
            raise InputError(f"{name!r} has no gate; there are gates of {', '.join(gates)}")
    for name, gate in gates.items():
        yield gate, _content(leaves[name], gate, masks.get(name, False))


def _content(param: Leaf, gate: Leaf, given: Any) -> Array:
    mask = as_array(param.name, given)
    trained = param.channels
    count = param.source_shape[trained[0]] if trained else (*gate.shape, 1)[0]
    if mask.dtype != np.bool_ or mask.shape not in ((), gate.shape and (count,)):
        expected = f"a bool or {count} bools" if gate.shape else "a bool"
        raise InputError(f"the gate of {param.name!r} expects {expected}, got {_told(mask)}")
    if trained is None or not mask.shape:
        return mask
    chosen = list(trained[1])
    if np.delete(mask, chosen).any():
        told = ", ".join(map(str, chosen))
        raise InputError(f"only the channels {told} of {param.name!r} can be trained")
    return mask[chosen]


def _told(mask: Array) -> str:
    return f"{mask.dtype}{list(mask.shape)}"
