"""Reading and writing along one axis by index: by known indices, or by a tensor of them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np

from pockengine.errors import InputError
from pockengine.ir.op import Array, Axes, ErrorSample, Gradients, Op, Sample, Value, require
from pockengine.ir.types import DIMS, INTEGERS, Shape, TensorType
from pockengine.ops.arithmetic import Add
from pockengine.ops.constant import Full, Movement, replaced


def _at(axis: int, index: Array) -> tuple[Any, ...]:
    return (*(slice(None),) * axis, index)


@dataclass(frozen=True)
class Take(Movement):
    """y[.., k, ..] = x[.., indices[k], ..] along `axis`; the indices are known at compile time."""

    axis: int
    indices: Shape

    kernel = "take"
    linear_in = (0,)

    def infer(self, x: TensorType) -> TensorType:
        require(0 <= self.axis < x.rank, self, f"a tensor with axis {self.axis}", x)
        size = x.shape[self.axis]
        require(all(0 <= i < size for i in self.indices), self, f"indices in [0, {size})", x)
        return x.with_shape(*replaced(x.shape, self.axis, len(self.indices)))

    def ref(self, x: Array) -> Array:
        return np.take(x, np.array(self.indices, np.int64), self.axis)

    def vjp(self, g: Value, y: Value, x: Value) -> Gradients:
        """Put into zeros; the n-th gradients of repeated indices make the n-th of several terms."""
        seen: Counter[int] = Counter()
        rounds: dict[int, list[int]] = {}
        for position, i in enumerate(self.indices):
            rounds.setdefault(seen[i], []).append(position)
            seen[i] += 1
        parts = (self._put_back(g, x, positions) for positions in rounds.values())
        zero = Full(x.shape, x.dtype, 0.0)()
        return (reduce(lambda a, b: Add()(a, b), parts) if rounds else zero,)

    def _put_back(self, g: Value, x: Value, positions: list[int]) -> Value:
        zero = Full(x.shape, x.dtype, 0.0)()
        whole = len(positions) == len(self.indices)
        piece = g if whole else Take(self.axis, tuple(positions))(g)
        return Put(self.axis, tuple(self.indices[p] for p in positions))(zero, piece)

    def slice_axes(self, axis: int, x: TensorType) -> Axes:
        return None if axis == self.axis else (axis,)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape, axis, indices in (
            ((5, 2), 0, (3, 0, 4)),
            ((2, 4, 3), 1, (2,)),
            ((1,), 0, (0,)),
            ((2, 3), 1, (1, 1, 0, 1)),
        ):
            yield Sample(cls(axis, indices), (rng.standard_normal(shape),))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        x = TensorType("f32", (2, 3))
        yield ErrorSample(cls(1, (3,)), (x,), "indices in [0, 3)")
        yield ErrorSample(cls(2, (0,)), (x,), "a tensor with axis 2")


@dataclass(frozen=True)
class Put(Movement):
    """x with `piece` in place of the elements at `indices`, all different, along `axis`."""

    axis: int
    indices: Shape

    kernel = "put"

    def infer(self, x: TensorType, piece: TensorType) -> TensorType:
        require(0 <= self.axis < x.rank, self, f"a tensor with axis {self.axis}", x, piece)
        size = x.shape[self.axis]
        fits = all(0 <= i < size for i in self.indices)
        fits &= len(set(self.indices)) == len(self.indices)
        require(fits, self, f"different indices in [0, {size})", x, piece)
        expected = x.with_shape(*replaced(x.shape, self.axis, len(self.indices)))
        require(piece == expected, self, f"a piece of type {expected}", x, piece)
        return x

    def ref(self, x: Array, piece: Array) -> Array:
        result = x.copy()
        result[_at(self.axis, np.array(self.indices, np.int64))] = piece
        return result

    def vjp(self, g: Value, y: Value, x: Value, piece: Value) -> Gradients:
        zero = Full(piece.shape, piece.dtype, 0.0)()
        return self(g, zero), Take(self.axis, self.indices)(g)

    def slice_axes(self, axis: int, x: TensorType, piece: TensorType) -> Axes:
        return None if axis == self.axis else (axis, axis)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape, axis, indices in (
            ((5, 2), 0, (3, 0)),
            ((2, 4, 3), 1, (2,)),
            ((1,), 0, (0,)),
            ((2, 3), 1, ()),
        ):
            piece = rng.standard_normal(replaced(shape, axis, len(indices)))
            yield Sample(cls(axis, indices), (rng.standard_normal(shape), piece))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        x, piece = TensorType("f32", (2, 3)), TensorType("f32", (2, 2))
        yield ErrorSample(cls(1, (0, 0)), (x, piece), "different indices in [0, 3)")
        yield ErrorSample(cls(1, (0,)), (x, piece), "a piece of type f32[2,1]")


def _check_range(op: Op, idx: Array, size: int) -> None:
    if idx.size and not (idx.min() >= 0 and idx.max() < size):
        wrong = idx[(idx < 0) | (idx >= size)].flat[0]
        raise InputError(f"{type(op).__name__} expects indices in [0, {size}), got {wrong}")


@dataclass(frozen=True)
class Gather(Movement):
    """y[a.., i.., b..] = x[a.., idx[i..], b..]: an embedding is Gather(0)(table, tokens).

    (x[A.., K, B..], idx[I..] of integers) -> [A.., I.., B..]; `ref` raises InputError out of range.
    """

    axis: int

    kernel = "gather"
    linear_in = (0,)

    def infer(self, x: TensorType, idx: TensorType) -> TensorType:
        fits = 0 <= self.axis < x.rank and idx.dtype in INTEGERS
        require(fits, self, f"a tensor with axis {self.axis}, and integer indices", x, idx)
        return x.with_shape(*replaced(x.shape, self.axis, *idx.shape))

    def ref(self, x: Array, idx: Array) -> Array:
        _check_range(self, idx, x.shape[self.axis])
        return np.take(x, idx, self.axis)

    def vjp(self, g: Value, y: Value, x: Value, idx: Value) -> Gradients:
        return ScatterAdd(self.axis, x.shape[self.axis])(idx, g), None

    def slice_axes(self, axis: int, x: TensorType, idx: TensorType) -> Axes:
        if axis < self.axis:
            return axis, None
        past = axis - self.axis - idx.rank
        return (None, axis - self.axis) if past < 0 else (self.axis + 1 + past, None)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape, axis, of_idx in (
            ((5, 3), 0, (2, 4)),
            ((2, 4, 3), 1, (3,)),
            ((2, 3), 1, ()),
            ((1,), 0, (1,)),
        ):
            idx = rng.integers(0, shape[axis], of_idx)
            yield Sample(cls(axis), (rng.standard_normal(shape), idx))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        x = TensorType("f32", (2, 3))
        yield ErrorSample(cls(0), (x, TensorType("f32", (2,))), "integer indices")
        yield ErrorSample(cls(2), (x, TensorType("i64", (2,))), "a tensor with axis 2")


@dataclass(frozen=True)
class ScatterAdd(Movement):
    """The gradient of Gather: zeros with `size` along `axis`, g[a.., i.., b..] added at idx[i..].

    (idx[I..], g[A.., I.., B..]) -> [A.., size, B..]; additions are made in the order of idx.
    """

    axis: int
    size: int = field(metadata=DIMS)

    kernel = "scatter_add"
    linear_in = (1,)

    def infer(self, idx: TensorType, g: TensorType) -> TensorType:
        end = self.axis + idx.rank
        fits = idx.dtype in INTEGERS and g.is_float and g.shape[self.axis : end] == idx.shape
        require(fits, self, f"integer indices, and a g that has their shape at {self.axis}", idx, g)
        return g.with_shape(*g.shape[: self.axis], self.size, *g.shape[end:])

    def ref(self, idx: Array, g: Array) -> Array:
        _check_range(self, idx, self.size)
        end = self.axis + idx.ndim
        result = np.zeros((*g.shape[: self.axis], self.size, *g.shape[end:]), g.dtype)
        np.add.at(result, _at(self.axis, idx), g)
        return result

    def vjp(self, g: Value, y: Value, idx: Value, x: Value) -> Gradients:
        return None, Gather(self.axis)(g, idx)

    def slice_axes(self, axis: int, idx: TensorType, g: TensorType) -> Axes:
        if axis == self.axis:
            return None
        return None, axis if axis < self.axis else axis - 1 + idx.rank

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return xs[1].size

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for axis, size, of_idx, of_g in (
            (0, 5, (2, 4), (2, 4, 3)),
            (1, 4, (3,), (2, 3, 2)),
            (1, 3, (), (2, 2)),
            (0, 1, (3,), (3,)),
        ):
            idx = rng.integers(0, size, of_idx)
            yield Sample(cls(axis, size), (idx, rng.standard_normal(of_g)))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        g = TensorType("f32", (2, 3))
        yield ErrorSample(cls(0, 4), (TensorType("i64", (3,)), g), "has their shape at 0")
        yield ErrorSample(cls(0, 4), (TensorType("f32", (2,)), g), "integer indices")


@dataclass(frozen=True)
class GatherElements(Movement):
    """y[.., i, ..] = x[.., idx[.., i, ..], ..]: each element has its own index along `axis`.

    (x[A.., K, B..], idx[A.., I, B..] of integers) -> [A.., I, B..]; InputError out of range.
    """

    axis: int

    kernel = "gather_elements"
    linear_in = (0,)

    def infer(self, x: TensorType, idx: TensorType) -> TensorType:
        known = 0 <= self.axis < x.rank and idx.dtype in INTEGERS
        require(known, self, f"a tensor with axis {self.axis}, and integer indices", x, idx)
        fits = x.rank == idx.rank and replaced(x.shape, self.axis) == replaced(idx.shape, self.axis)
        require(fits, self, f"indices whose shape differs in axis {self.axis} alone", x, idx)
        return x.with_shape(*idx.shape)

    def ref(self, x: Array, idx: Array) -> Array:
        _check_range(self, idx, x.shape[self.axis])
        return np.take_along_axis(x, idx.astype(np.int64), self.axis)

    def vjp(self, g: Value, y: Value, x: Value, idx: Value) -> Gradients:
        return ScatterAddElements(self.axis, x.shape[self.axis])(idx, g), None

    def slice_axes(self, axis: int, x: TensorType, idx: TensorType) -> Axes:
        return (None, axis) if axis == self.axis else (axis, axis)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for shape, axis, count in (((2, 5), 1, 3), ((4, 3), 0, 6), ((2, 3, 2), 1, 1), ((1,), 0, 1)):
            idx = rng.integers(0, shape[axis], replaced(shape, axis, count))
            yield Sample(cls(axis), (rng.standard_normal(shape), idx))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        x = TensorType("f32", (2, 3))
        yield ErrorSample(cls(1), (x, TensorType("i64", (1, 2))), "differs in axis 1 alone")
        yield ErrorSample(cls(1), (x, x), "integer indices")


@dataclass(frozen=True)
class ScatterAddElements(Movement):
    """The gradient of GatherElements: zeros with `size` along `axis`, g added at each one's index.

    (idx[A.., I, B..], g of that shape) -> [A.., size, B..]
    """

    axis: int
    size: int = field(metadata=DIMS)

    kernel = "scatter_add_elements"
    linear_in = (1,)

    def infer(self, idx: TensorType, g: TensorType) -> TensorType:
        fits = idx.dtype in INTEGERS and g.is_float and idx.shape == g.shape
        fits &= 0 <= self.axis < g.rank
        require(fits, self, f"integer indices and g of one shape, with axis {self.axis}", idx, g)
        return g.with_shape(*replaced(g.shape, self.axis, self.size))

    def ref(self, idx: Array, g: Array) -> Array:
        _check_range(self, idx, self.size)
        result = np.zeros(replaced(g.shape, self.axis, self.size), g.dtype)
        places: list[Array] = list(np.indices(idx.shape, sparse=True))
        places[self.axis] = idx
        np.add.at(result, tuple(places), g)
        return result

    def vjp(self, g: Value, y: Value, idx: Value, x: Value) -> Gradients:
        return None, GatherElements(self.axis)(g, idx)

    def slice_axes(self, axis: int, idx: TensorType, g: TensorType) -> Axes:
        return None if axis == self.axis else (axis, axis)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return xs[1].size

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        for axis, size, shape in ((1, 5, (2, 3)), (0, 2, (4, 3)), (1, 3, (2, 1, 2)), (0, 1, (1,))):
            idx = rng.integers(0, size, shape)
            yield Sample(cls(axis, size), (idx, rng.standard_normal(shape)))

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        g = TensorType("f32", (2, 3))
        yield ErrorSample(cls(0, 4), (TensorType("i64", (3,)), g), "of one shape, with axis 0")
