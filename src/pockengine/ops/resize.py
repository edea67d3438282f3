"""Resizing of images: one matrix along each spatial axis, transposed for the gradient."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from pockengine.ir.op import Array, ErrorSample, Gradients, Sample, Value, require
from pockengine.ir.types import DIMS, Shape, TensorType
from pockengine.ops.pool import _Spatial
from pockengine.ops.windows import map_spatial, normal, spatial

MODES = ("nearest", "bilinear")
COORDINATES = ("half_pixel", "align_corners", "asymmetric")


@dataclass(frozen=True)
class Resize(_Spatial):
    """y[n, c, i] = x at the coordinate of i: of the nearest element, or interpolated linearly.

    The coordinate is (i + 0.5) * scale - 0.5 (half_pixel), i * (in - 1) / (out - 1) (align_corners)
    or i * scale (asymmetric), with scale = in / out. "nearest" takes floor(i * scale) when
    asymmetric, as torch's "nearest" does, and floor((i + 0.5) * scale) for half_pixel, as its
    "nearest-exact".
    """

    size: Shape
    mode: str
    coordinates: str
    channels_last: bool

    kernel: ClassVar[str] = "resize"
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    def infer(self, x: TensorType) -> TensorType:
        self._check(len(self.size), x)
        known = self.mode in MODES and self.coordinates in COORDINATES and min(self.size) >= 1
        require(known, self, f"a mode of {MODES} and coordinates of {COORDINATES}", x)
        return self._resized(x, self.size)

    def ref(self, x: Array) -> Array:
        size = spatial(x.shape, self.channels_last)
        return map_spatial(x, matrices(self, size, self.size), self.channels_last)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        size = spatial(x.shape, self.channels_last)
        return (ResizeGrad(size, self.mode, self.coordinates, self.channels_last)(g),)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return y.size * (1 if self.mode == "nearest" else 3 * len(self.size))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for op, x in _cases(rng):
            yield Sample(op, (x,))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        x = TensorType("f32", (1, 2, 4, 4))
        yield ErrorSample(cls((2, 2), "cubic", "half_pixel", False), (x,), "a mode of")
        yield ErrorSample(cls((2,), "nearest", "half_pixel", False), (x,), "rank 3")


@dataclass(frozen=True)
class ResizeGrad(_Spatial):
    """The gradient of Resize for an input of spatial size `in_size`."""

    in_size: Shape = field(metadata=DIMS)
    mode: str
    coordinates: str
    channels_last: bool

    kernel: ClassVar[str] = "resize_grad"
    linear_in: ClassVar[tuple[int, ...]] = (0,)

    def infer(self, g: TensorType) -> TensorType:
        self._check(len(self.in_size), g)
        return self._resized(g, self.in_size)

    def ref(self, g: Array) -> Array:
        size = spatial(g.shape, self.channels_last)
        back = [m.T for m in matrices(self, self.in_size, size)]
        return map_spatial(g, back, self.channels_last)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        size = spatial(x.shape, self.channels_last)
        return (Resize(size, self.mode, self.coordinates, self.channels_last)(g),)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return xs[0].size * (1 if self.mode == "nearest" else 3 * len(self.in_size))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for op, x in _cases(rng):
            size = spatial(x.shape, op.channels_last)
            g = normal(rng, op.ref(x).shape)
            yield Sample(cls(size, op.mode, op.coordinates, op.channels_last), (g,))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        op = cls((2, 2), "nearest", "half_pixel", False)
        yield ErrorSample(op, (TensorType("f32", (2, 4, 4)),), "rank 4")


def coordinates(kind: str, size: int, count: int) -> Array:
    """f64[count]: where each output position lies among `size` input positions, unclipped."""
    i = np.arange(count, dtype=np.float64)
    if kind == "half_pixel":
        return (i + 0.5) * size / count - 0.5
    if kind == "align_corners":
        return i * (size - 1) / max(count - 1, 1)
    return i * size / count


def matrices(op: Resize | ResizeGrad, sizes: Shape, counts: Shape) -> list[Array]:
    """The matrix [out, in] along each spatial axis."""
    pairs = zip(sizes, counts, strict=True)
    return [_matrix(op.mode, op.coordinates, size, count) for size, count in pairs]


def _matrix(mode: str, kind: str, size: int, count: int) -> Array:
    at, rows = coordinates(kind, size, count), np.arange(count)
    matrix = np.zeros((count, size))
    if mode == "nearest":
        # half_pixel rounds halves up, align_corners likewise; asymmetric rounds down
        nearest = np.floor(at if kind == "asymmetric" else at + 0.5).astype(np.int64)
        matrix[rows, nearest.clip(0, size - 1)] = 1.0
        return matrix
    at = at.clip(0, size - 1)
    low = np.floor(at).astype(np.int64)
    np.add.at(matrix, (rows, low), 1.0 - (at - low))
    np.add.at(matrix, (rows, np.minimum(low + 1, size - 1)), at - low)
    return matrix


def _cases(rng: np.random.Generator) -> Iterator[tuple[Resize, Array]]:
    sizes = [((3, 4), (6, 8)), ((5, 4), (3, 7)), ((1, 1), (2, 1))]
    for (size, count), mode, kind in ((s, m, c) for s in sizes for m in MODES for c in COORDINATES):
        for last in (False, True):
            shape = (2, *size, 2) if last else (2, 2, *size)
            yield Resize(count, mode, kind, last), rng.standard_normal(shape)
