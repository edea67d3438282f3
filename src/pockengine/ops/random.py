"""Random numbers made from (seed, salt, step, index) alone, so that they can be drawn again."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from pockengine.ir.op import Array, ErrorSample, Gradients, Op, Sample, Value, require
from pockengine.ir.types import DIMS, Shape, TensorType
from pockengine.ops.arithmetic import mul
from pockengine.ops.compare import GreaterEqual, where
from pockengine.ops.pointwise import as_dtype, scalar

RNG = TensorType("i64", (2,))
_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)


def threefry(key: tuple[int, int], index: Array, step: int) -> Array:
    """The first word of Threefry-2x32 with 20 rounds, for each counter (index, step).

    Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    words = [np.uint32(k) for k in (*key, 0x1BD11BDA ^ key[0] ^ key[1])]
    x0, x1 = index.astype(np.uint32), np.full(index.shape, step, np.uint32)
    x0, x1 = x0 + words[0], x1 + words[1]
    for number in range(20):
        x0 = x0 + x1
        by = np.uint32(_ROTATIONS[number % 8])
        x1 = ((x1 << by) | (x1 >> np.uint32(32 - by))) ^ x0
        if number % 4 == 3:
            group = number // 4 + 1
            x0 = x0 + words[group % 3]
            x1 = x1 + (words[(group + 1) % 3] + np.uint32(group))
    return x0


def uniform(shape: Shape, salt: int, rng: Array) -> Array:
    """f32[shape] in [0, 1), multiples of 2^-24; rng = (seed, step)."""
    seed, step = (int(v) % 2**64 for v in rng)
    key = (seed % 2**32, (seed >> 32) ^ salt)
    with np.errstate(over="ignore"):
        bits = threefry(key, np.arange(int(np.prod(shape))), step % 2**32)
    return ((bits >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)).reshape(shape)


def _rng_samples() -> Iterable[Array]:
    return (np.array(pair, np.int64) for pair in ((0, 0), (42, 7), (2**40 + 5, 3), (-1, 2**33)))


@dataclass(frozen=True)
class RandomUniform(Op):
    """f32[shape] in [0, 1), from rng = i64[2] (seed, step). Draws of a graph differ in `salt`."""

    shape: Shape = field(metadata=DIMS)
    salt: int

    kernel = "uniform"

    def infer(self, rng: TensorType) -> TensorType:
        require(rng == RNG, self, f"a random state {RNG}", rng)
        require(0 <= self.salt < 2**32, self, "0 <= salt < 2^32", rng)
        return TensorType("f32", self.shape)

    def ref(self, rng: Array) -> Array:
        return uniform(self.shape, self.salt, rng)

    def vjp(self, g: Value, y: Value, rng: Value) -> Gradients:
        return (None,)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape, state in zip(((2, 3), (), (1,), (70,)), _rng_samples(), strict=True):
            yield Sample(cls(shape, 9), (state,))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        yield ErrorSample(cls((2,), 0), (TensorType("i32", (2,)),), "a random state i64[2]")
        yield ErrorSample(cls((2,), -1), (RNG,), "0 <= salt")


@dataclass(frozen=True)
class Dropout(Op):
    """y = x / (1 - p) where u >= p, else 0, with u = RandomUniform(salt)(rng).

    As front ends emit it; passes/mode.py takes it apart to train, and removes it to infer.
    """

    p: float
    salt: int

    def infer(self, x: TensorType, rng: TensorType) -> TensorType:
        fits = x.is_float and rng == RNG
        require(fits, self, f"a floating-point tensor and a random state {RNG}", x, rng)
        require(0.0 <= self.p < 1.0, self, "0 <= p < 1", x, rng)
        return x

    def ref(self, x: Array, rng: Array) -> Array:
        kept = uniform(x.shape, self.salt, rng) >= np.float32(self.p)
        return as_dtype(np.where(kept, x / (1.0 - self.p), 0.0), x)

    def vjp(self, g: Value, y: Value, x: Value, rng: Value) -> Gradients:
        return self.expanded(g, rng), None

    def expanded(self, x: Value, rng: Value) -> Value:
        """The same result from other operators; the gradient is this function of g."""
        u = RandomUniform(x.shape, self.salt)(rng)
        kept = GreaterEqual()(u, scalar(self.p, "f32"))
        return where(kept, mul(x, 1.0 / (1.0 - self.p)), 0.0)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape, p, state in zip(
            ((4, 5), (), (1,), (3, 2)), (0.5, 0.1, 0.0, 0.9), _rng_samples(), strict=True
        ):
            yield Sample(cls(p, 3), (np.asarray(rng.standard_normal(shape)), state))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        x = TensorType("f32", (2,))
        yield ErrorSample(cls(0.5, 0), (x, x), "a random state i64[2]")
        yield ErrorSample(cls(1.0, 0), (x, RNG), "0 <= p < 1")
