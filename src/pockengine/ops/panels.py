"""Weights stored in panels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from pockengine.ir.op import Array, ErrorSample, Load, Sample, Value, require
from pockengine.ir.types import Shape, TensorType
from pockengine.ops.constant import Movement
from pockengine.ops.matmul import MatMul
from pockengine.panels import from_panels, panels_shape, to_panels


@dataclass(frozen=True)
class FromPanels(Movement):
    """The tensor whose panels are given: p[panels, K, width] -> w[shape], see panels.py.

    A matrix product reads the panels themselves, so that nothing is moved; any other reader has
    them put back in order first.
    """

    shape: Shape

    def infer(self, p: TensorType) -> TensorType:
        words = f"the panels of a tensor of shape {self.shape}"
        require(p.rank == 3 and len(self.shape) >= 2 and p.shape[2] > 0, self, words, p)
        require(p.shape == panels_shape(self.shape, p.shape[2]), self, words, p)
        return p.with_shape(*self.shape)

    def ref(self, p: Array) -> Array:
        return from_panels(p, self.shape)

    def c_load(self, index: Sequence[str], load: Load, p: TensorType, y: TensorType) -> str:
        width, column = p.shape[2], index[-1]
        steps = [prod(self.shape[axis + 1 : -1]) for axis in range(len(self.shape) - 1)]
        row = " + ".join(f"{i} * {step}" for i, step in zip(index, steps, strict=False))
        return load(0, [f"({column}) / {width}", f"({row})", f"({column}) % {width}"])

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape, width in (((3, 5), 2), ((4, 4), 4), ((1, 1), 8), ((2, 3, 2, 7), 4)):
            yield Sample(cls(shape), (to_panels(rng.standard_normal(shape), width),))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        few = TensorType("f32", (1, 3, 4))
        yield ErrorSample(cls((3, 5)), (few,), "the panels of a tensor of shape (3, 5)")


def takes_panels(value: Value, operand: Value) -> bool:
    """Whether a kernel for `value` can read the panels of this operand of it."""
    if not isinstance(value.op, MatMul) or value.op.transpose_a:
        return False
    a, b = value.inputs
    return b is operand and a is not operand and a.type.rank == b.type.rank == 2
