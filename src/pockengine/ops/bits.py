"""Truth values eight to a byte, for what the backward pass keeps of the forward."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import ClassVar

import numpy as np

from pockengine.ir.op import Array, ErrorSample, Op, Sample, require
from pockengine.ir.types import DIMS, Shape, TensorType


@dataclass(frozen=True)
class PackBits(Op):
    """bool[...] -> u8[ceil(size / 8)]: bit j of byte i is element 8 * i + j, in row-major order."""

    kernel: ClassVar[str] = "pack_bits"

    def infer(self, x: TensorType) -> TensorType:
        require(x.dtype == "bool", self, "a bool tensor", x)
        return TensorType("u8", (packed_size(x.size),))

    def ref(self, x: Array) -> Array:
        return np.packbits(x.reshape(-1), bitorder="little")

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape in ((3, 5), (16,), (1,), ()):
            yield Sample(cls(), (rng.random(shape) < 0.5,))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls(), (TensorType("f32", (8,)),), "PackBits expects a bool tensor")


@dataclass(frozen=True)
class UnpackBits(Op):
    """The inverse of PackBits: u8[ceil(size / 8)] -> bool[shape]."""

    shape: Shape = field(metadata=DIMS)

    kernel: ClassVar[str] = "unpack_bits"

    def infer(self, x: TensorType) -> TensorType:
        expected = TensorType("u8", (packed_size(prod(self.shape)),))
        require(x == expected, self, f"{expected} for shape {self.shape}", x)
        return TensorType("bool", self.shape)

    def ref(self, x: Array) -> Array:
        bits = np.unpackbits(x, count=prod(self.shape), bitorder="little")
        return bits.astype(bool).reshape(self.shape)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape in ((3, 5), (16,), (1,), ()):
            packed = rng.integers(0, 256, packed_size(prod(shape)), np.uint8)
            yield Sample(cls(shape), (packed,))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls((3, 5)), (TensorType("u8", (3,)),), "u8[2] for shape (3, 5)")


def packed_size(size: int) -> int:
    """How many bytes hold `size` bits."""
    return -(-size // 8)
