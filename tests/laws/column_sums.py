"""Sums and moments of columns that ride in the step that computes the rows, for the compiled law.

Rows of all numbers, so that parts and blocks end in the middle; columns of all widths; behind
kernels that compute pixels, lines of pixels, and behind loops.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from compiled import Case

from pockengine.ir.graph import Graph, Input, leaf
from pockengine.ir.op import Array, Value
from pockengine.ir.types import TensorType
from pockengine.ir.verify import verify
from pockengine.ops import build as b
from pockengine.ops.bits import PackBits, UnpackBits
from pockengine.ops.conv import Conv
from pockengine.ops.norm import BatchMean, BatchVariance, Normalize, NormalizeGrad
from pockengine.ops.reduce import Sum

SHAPES = (
    (1, 7, 1, 24),
    (2, 3, 5, 16),
    (3, 17, 19, 33),
    (2, 40, 33, 8),
    (1, 9, 2, 130),
    (2, 2, 2, 5),
)


@dataclass
class _Maker:
    rng: np.random.Generator
    arrays: dict[str, Array]

    def leaf(self, *shape: int) -> Value:
        name = f"x{len(self.arrays)}"
        self.arrays[name] = self.rng.standard_normal(shape).astype(np.float32)
        return leaf(Input, name, TensorType("f32", shape))

    # ---- rows [n, h, w, c] ----

    def product(self, n: int, h: int, w: int, c: int) -> Value:
        return b.reshape(b.matmul(self.leaf(n * h * w, 3), self.leaf(3, c)), (n, h, w, c))

    def depthwise(self, n: int, h: int, w: int, c: int) -> Value:
        op = Conv((1, 1), ((1, 1), (1, 1)), (1, 1), c, True)
        return op(self.leaf(n, h, w, c), self.leaf(3, 3, 1, c))

    def loop(self, n: int, h: int, w: int, c: int) -> Value:
        return b.mul(self.leaf(n, h, w, c), self.leaf(c))

    # ---- what is summed ----

    def alone(self, x: Value) -> dict[str, Value]:
        """The rows themselves are needed by nobody else."""
        return {"sum": b.reduce_sum(x, (0, 1, 2))}

    def gradients(self, x: Value) -> dict[str, Value]:
        """As behind a mask and an affine: two sums, and the rows go on."""
        mask = UnpackBits(x.shape)(PackBits()(b.greater(self.leaf(*x.shape), 0.25)))
        g = b.where(mask, x, 0.0)
        scaled = b.reduce_sum(b.mul(g, self.leaf(*x.shape)), (0, 1, 2))
        step = b.sub(self.leaf(x.shape[-1]), b.mul(scaled, 0.1))
        return {
            "g": b.mul(g, self.leaf(x.shape[-1])),
            "step": step,
            "bias": Sum((0, 1, 2), True)(g),
        }

    def again(self, x: Value) -> dict[str, Value]:
        """What reads the sum may not run beside it; a sum of samples, one of pixels, and a mask."""
        centred = b.sub(x, b.mul(Sum((0, 1, 2), True)(x), 1 / x.shape[0]))
        samples = b.reduce_sum(b.tanh(x), (0,))
        return {"y": b.mul(centred, x), "samples": samples, "all": b.reduce_sum(x, (0, 1, 2, 3))}

    def norm(self, x: Value) -> dict[str, Value]:
        """A batch norm, its gradients and its running statistics, with weights of samples."""
        axes, weight = (0, 1, 2), b.clip(self.leaf(x.shape[0]), 0.25, 1.0)
        h, gamma = self.leaf(*x.shape), self.leaf(1, 1, 1, x.shape[-1])
        y = Normalize(axes, 0.1)(x, weight)
        return {
            "y": b.mul(y, gamma),
            "dx": NormalizeGrad(axes, 0.1)(b.mul(h, gamma), x, weight),
            "dgamma": Sum(axes, True)(b.mul(h, y)),
            "mean": BatchMean(axes)(x, weight),
            "var": BatchVariance(axes, False)(x, weight),
        }

    def plain_norm(self, x: Value) -> dict[str, Value]:
        """Without weights, of something that is stored for it alone."""
        y = Normalize((0, 1, 2), 0.1)(b.tanh(x))
        return {"y": y, "dx": NormalizeGrad((0, 1, 2), 0.1)(self.leaf(*x.shape), b.tanh(x))}


def sum_cases() -> list[Case]:
    return [_case(*chosen) for chosen in _choices()]


def _choices() -> Iterator[tuple[str, str, tuple[int, ...]]]:
    for rows in ("product", "depthwise", "loop"):
        for sums in ("alone", "gradients", "again", "norm", "plain_norm"):
            for shape in SHAPES:
                yield rows, sums, shape


def _case(rows: str, sums: str, shape: tuple[int, ...]) -> Case:
    maker = _Maker(np.random.default_rng(len(sums)), {})
    make: Callable[..., Value] = getattr(maker, rows)
    outputs: dict[str, Value] = getattr(maker, sums)(make(*shape))
    inputs = tuple(Graph((), outputs).leaves(Input).values())
    return Case(f"{sums} behind {rows} of {shape}", verify(Graph(inputs, outputs)), maker.arrays)
