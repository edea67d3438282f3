"""bf16: the upper half of a float32, to store numbers and not to compute with them.

    f32    s eeeeeeee mmmmmmm mmmmmmmmmmmmmmmm
    bf16   s eeeeeeee mmmmmmm                   of the same range, with 8 significant bits

NumPy has no such type: an array of bf16 is one of uint16. A product may have operands in bf16; it
reads them as f32, which is exact, and adds in f32.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pockengine.ir.op import Array, ErrorSample, Sample
from pockengine.ir.types import NUMPY, TensorType
from pockengine.ops.pointwise import Pointwise, Unary

BF16 = NUMPY["bf16"]
QUIET = 0x40  # a bit of the fraction, so that NaN does not become infinity


def to_bf16(x: Array) -> Array:
    """The nearest bf16 of each number, the even one of two; NaN stays NaN."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), bits >> np.uint32(16) | np.uint32(QUIET), rounded).astype(BF16)


def from_bf16(x: Array) -> Array:
    """The same numbers in f32."""
    return np.asarray(x.astype(np.uint32) << np.uint32(16)).view(np.float32)


def widened(*types: TensorType) -> list[TensorType]:
    """The types of operands as a product reads them: bf16 as the others' type, or else f32."""
    wide = next((t.dtype for t in types if t.dtype != "bf16"), "f32")
    return [t.with_dtype(wide) if t.dtype == "bf16" else t for t in types]


def read(*arrays: Array) -> list[Any]:
    """The operands of a product as it reads them."""
    return [from_bf16(a) if a.dtype == BF16 else a for a in arrays]


@dataclass(frozen=True)
class ToBF16(Unary):
    """y = x rounded to bf16, to nearest even; NaN stays NaN."""

    def infer(self, x: TensorType) -> TensorType:
        return super().infer(x).with_dtype("bf16")

    def ref(self, x: Array) -> Array:
        return to_bf16(x)

    def c_expr(self, x: str) -> str:
        return f"pk_to_bf16({x})"

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        yield from super().samples(rng)
        halfway = (np.arange(-8, 8) + 0.5) / 256 + 1
        edges = (np.inf, -np.inf, np.nan, 3.4e38, 1e-38, 1e-45)
        yield Sample(cls(), (np.concatenate([halfway, edges]).astype(np.float32),), ())


@dataclass(frozen=True)
class FromBF16(Pointwise):
    """y = x, of bf16, in f32."""

    accepts = ("bf16",)

    def infer(self, x: TensorType) -> TensorType:
        self.check_dtypes(x)
        return x.with_dtype("f32")

    def ref(self, x: Array) -> Array:
        return from_bf16(x)

    def c_expr(self, x: str) -> str:
        return f"pk_from_bf16({x})"

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape in ((2, 3, 4), (1,), (), (70,)):
            yield Sample(cls(), (to_bf16(rng.uniform(-3, 3, shape)),))
        yield Sample(cls(), (to_bf16(np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40])),))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls(), (TensorType("f32", (2,)),), "expects a tensor among bf16")
