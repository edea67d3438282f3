"""Gates: which of the trained channels a step trains is decided when it runs.

    g -> where(gate, g, 0)        p' -> where(gate, p', p)        s' -> where(gate, s', s)

A gate has one bool for each trained input channel of its tensor, or one for the whole tensor where
that has no such channels. With the first rule a closed channel has no part in the norm of all
gradients, and with the others decay and momentum leave it and its optimizer states as they are. So
a step is that of a program that was compiled for the open channels alone, and native code leaves
out what only closed gates would need (backends/c/conditions.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pockengine.ir.graph import Gate, leaf
from pockengine.ir.op import Array, Value
from pockengine.ops.build import reshape, where
from pockengine.runtime.gates import PREFIX


@dataclass(frozen=True)
class Gates:
    """What is open of each tensor: a bool that broadcasts against what is trained of it."""

    opened: Mapping[str, Value]
    data: Mapping[str, Array]  # first contents: all open

    @staticmethod
    def of(pieces: Mapping[str, Value], axes: Mapping[str, int | None]) -> "Gates":
        """Gates for those of `pieces` (gradients) that are in `axes`, along these axes."""
        opened, data = {}, {}
        for name, piece in pieces.items():
            if name in axes:
                axis, gate_name = axes[name], f"{PREFIX}{name}"
                data[gate_name] = np.ones(() if axis is None else piece.shape[axis], np.bool_)
                gate = leaf(Gate, gate_name, data[gate_name])
                opened[name] = reshape(
                    gate, [n if a == axis else 1 for a, n in enumerate(piece.shape)]
                )
        return Gates(opened, data)

    def cut(self, name: str, gradient: Value) -> Value:
        """The gradient, zero in closed channels."""
        return where(self.opened[name], gradient, 0.0) if name in self.opened else gradient

    def choose(self, name: str, new: Value, old: Value) -> Value:
        """The new content of open channels, and the old one of closed channels."""
        return where(self.opened[name], new, old) if name in self.opened else new
