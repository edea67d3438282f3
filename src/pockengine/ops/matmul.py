"""The matrix product."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from pockengine.ir.op import Array, Axes, ErrorSample, Gradients, Op, Sample, Value, require
from pockengine.ir.types import Shape, TensorType
from pockengine.ops.pointwise import aligned_axis
from pockengine.ops.precision import read, to_bf16, widened
from pockengine.ops.shape import Reshape


@dataclass(frozen=True)
class MatMul(Op):
    """y = op(a) @ op(b), op transposing the last two axes if asked; leading axes broadcast.

    (a[.., M, K], b[.., K, N]) -> y[.., M, N], the shapes being those after op. Operands may be
    bf16.
    """

    transpose_a: bool
    transpose_b: bool

    kernel = "matmul"
    linear_in = (0, 1)

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        a, b = widened(a, b)
        floats = a.is_float and a.dtype == b.dtype
        require(floats, self, "two floating-point tensors of one dtype", a, b)
        require(a.rank >= 2 and b.rank >= 2, self, "two tensors of rank 2 or more", a, b)
        m, k, n = self._sizes(a, b)
        wanted = f"inner dimensions that agree, op(a)[.., {m}, {k}] @ op(b)[.., {k}, {n}]"
        require(b.shape[-1 if self.transpose_b else -2] == k, self, wanted, a, b)
        return a.with_shape(*self._batch(a, b), m, n)

    def _sizes(self, a: TensorType, b: TensorType) -> tuple[int, int, int]:
        m, k = reversed(a.shape[-2:]) if self.transpose_a else a.shape[-2:]
        return m, k, b.shape[-2 if self.transpose_b else -1]

    def _batch(self, a: TensorType, b: TensorType) -> Shape:
        try:
            return np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        except ValueError:
            require(False, self, "leading axes that broadcast", a, b)
            raise

    def ref(self, a: Array, b: Array) -> Array:
        a, b = read(a, b)
        left = a.swapaxes(-1, -2) if self.transpose_a else a
        right = b.swapaxes(-1, -2) if self.transpose_b else b
        return np.asarray(np.matmul(left, right), np.result_type(a, b))

    def vjp(self, g: Value, y: Value, a: Value, b: Value) -> Gradients:
        """a' = g @ op(b)^T and b' = op(a)^T @ g, each transposed where its operand was."""
        if self.transpose_a:
            to_a = MatMul(self.transpose_b, True)(b, g)
        else:
            to_a = MatMul(False, not self.transpose_b)(g, b)
        if b.type.rank == 2 and not self.transpose_a:  # one product over all rows, no sum after it
            a, g = _as_rows(a), _as_rows(g)
        if self.transpose_b:
            return to_a, MatMul(True, self.transpose_a)(g, a)
        return to_a, MatMul(not self.transpose_a, False)(a, g)

    def slice_axes(self, axis: int, a: TensorType, b: TensorType) -> Axes:
        batch = self._batch(a, b)
        if axis < len(batch):
            leads = (t.with_shape(*t.shape[:-2]) for t in (a, b))
            return tuple(aligned_axis(axis, batch, t) for t in leads)
        if axis == len(batch):
            return a.rank - (1 if self.transpose_a else 2), None
        return None, b.rank - (2 if self.transpose_b else 1)

    def flops(self, y: TensorType, *xs: TensorType) -> int:
        return 2 * y.size * self._sizes(*xs)[1]

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for lead_a, lead_b in (((), ()), ((2,), ()), ((2, 1), (3,)), ((), (2,)), ((1, 2), (1, 2))):
            for transpose_a in (False, True):
                for transpose_b in (False, True):
                    a, b = (3, 4) if transpose_a else (4, 3), (5, 3) if transpose_b else (3, 5)
                    arrays = rng.standard_normal(lead_a + a), rng.standard_normal(lead_b + b)
                    yield Sample(cls(transpose_a, transpose_b), arrays)
        yield Sample(cls(False, False), (np.array([[2.0]]), np.array([[3.0]])))
        yield Sample(cls(False, True), (rng.standard_normal((1, 7)), rng.standard_normal((1, 7))))
        for lead in ((), (2,)):
            for transpose_a, transpose_b in ((False, False), (False, True), (True, False)):
                a, b = (6, 33) if transpose_a else (33, 6), (40, 6) if transpose_b else (6, 40)
                wide = rng.standard_normal(lead + a), rng.standard_normal(b)
                narrow = to_bf16(wide[0]), to_bf16(wide[1])
                for arrays in ((wide[0], narrow[1]), (narrow[0], wide[1]), narrow):
                    yield Sample(cls(transpose_a, transpose_b), arrays, ())

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        a = TensorType("f32", (2, 3))
        yield ErrorSample(cls(False, False), (a, a), "op(a)[.., 2, 3] @ op(b)[.., 3, 3]")
        yield ErrorSample(cls(False, False), (a, TensorType("f32", (3,))), "of rank 2 or more")
        yield ErrorSample(cls(False, True), (a, a.with_dtype("f64")), "tensors of one dtype")
        leads = TensorType("f32", (2, 2, 3)), TensorType("f32", (3, 3, 4))
        yield ErrorSample(cls(False, False), leads, "leading axes that broadcast")


def _as_rows(x: Value) -> Value:
    """x[.., K] as [rows, K]"""
    return x if x.type.rank == 2 else Reshape((prod(x.shape[:-1]), x.shape[-1]))(x)
