"""Element types, shapes and tensor types.

A graph is always static: every dimension is a plain integer. An imported graph stands for any batch
size, and writes its batch as the reserved number `BATCH`, a prime that real layers do not use; a
dimension `k * BATCH` prints as `kN`. `ir.rewrite.with_batch` replaces it by a real batch size. So
no operator ever sees a symbol, and shape arithmetic is integer arithmetic.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from pockengine.dtypes import NUMPY as NUMPY

DType = str  # one of the keys of NUMPY
Shape = tuple[int, ...]

FLOATS = ("f32", "f64")  # computed with
INTEGERS = ("i32", "i64", "u8")
BATCH = 1009
# Marks an operator's field as one that holds dimensions, so that `with_batch` rescales it:
#     shape: Shape = field(metadata=DIMS)
DIMS = {"dims": True}


def dtype_of(array: np.ndarray[Any, Any]) -> DType:
    """The element type of a NumPy array. Raises TypeError for one that the IR does not have."""
    for name, dtype in NUMPY.items():
        if array.dtype == dtype:
            return name
    raise TypeError(f"expected an array of {', '.join(NUMPY)}, got dtype {array.dtype}; convert it")


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type and shape of a value, printed as `f32[8,3,224,224]`."""

    dtype: DType
    shape: Shape

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without padding."""
        return self.size * NUMPY[self.dtype].itemsize

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    def with_shape(self, *shape: int) -> "TensorType":
        return TensorType(self.dtype, shape)

    def with_dtype(self, dtype: DType) -> "TensorType":
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(_dim_text, self.shape))}]"

    @staticmethod
    def parse(text: str) -> "TensorType":
        """The inverse of `str`. Raises ValueError when `text` is not a tensor type."""
        match = re.fullmatch(r"(\w+)\[([\dN,]*)\]", text.strip())
        if not match or match[1] not in NUMPY:
            raise ValueError(f"expected a tensor type such as f32[8,3], got {text!r}")
        dims = [d for d in match[2].split(",") if d]
        return TensorType(match[1], tuple(map(_parse_dim, dims)))


def type_of(array: np.ndarray[Any, Any]) -> TensorType:
    """The type of a NumPy array."""
    return TensorType(dtype_of(array), tuple(array.shape))


def holds_batch(*dims: float) -> bool:
    """Whether one of the dimensions is a multiple of the symbolic batch."""
    return any(dim != 0 and dim % BATCH == 0 for dim in dims)


def dim_at(dim: int, batch: int) -> int:
    """The dimension where the symbolic batch is `batch`."""
    return dim // BATCH * batch if holds_batch(dim) else dim


def _dim_text(dim: int) -> str:
    if not holds_batch(dim):
        return str(dim)
    factor = dim // BATCH
    return "N" if factor == 1 else f"{factor}N"


def _parse_dim(text: str) -> int:
    return int(text[:-1] or "1") * BATCH if text.endswith("N") else int(text)
