"""What a PyTorch operator's handler may ask for, and the small values that handlers share.

A handler is a function `(ctx, *args, **kwargs) -> Value or tuple of Values`, with ATen's own
arguments; tensors arrive as Values, everything else as plain Python. It raises Refused, with the
reason, for what it cannot express.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pockengine.ir.graph import Const, Leaf, Param, State, leaf, topological
from pockengine.ir.op import Array, Value
from pockengine.ir.types import FLOATS, DType, TensorType, holds_batch
from pockengine.ops.constant import Full, Iota
from pockengine.ops.elementwise import Cast

Number = int | float | bool
Scalar = Value | Number
Result = Value | tuple[Value | None, ...]
Handler = Callable[..., Result]

DTYPES: dict[torch.dtype, DType] = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint8: "u8",
    torch.bool: "bool",
}
_RANK = ("bool", "u8", "i32", "i64", "f32", "f64")
FOLD_LIMIT = 1 << 22  # elements of the largest constant that is computed at import


class Refused(Exception):
    """A handler cannot express this node; the message is the reason that the user reads."""


class BatchFixed(Exception):
    """The model computes with its batch size in a way that holds for one batch size only."""


@dataclass
class Context:
    """The walk as a handler sees it. `results` are the types of the node's results in PyTorch."""

    results: tuple[TensorType | None, ...] = ()
    data: dict[str, Array] = field(default_factory=dict)
    constants: dict[Value, Array | None] = field(default_factory=dict)
    salts: int = 0
    _rng: Value | None = None

    @property
    def result(self) -> TensorType:
        """The type of the node's only, or first, result."""
        if self.results[0] is None:
            raise Refused("its result is no tensor of a type that pockengine has")
        return self.results[0]

    def rng(self) -> Value:
        """The state of the random numbers: seed and step, i64[2]."""
        if self._rng is None:
            self.data["rng"] = np.zeros(2, np.int64)
            self._rng = leaf(State, "rng", self.data["rng"])
        return self._rng

    def salt(self) -> int:
        """A new number for each random operator, so that no two draw the same numbers."""
        self.salts += 1
        return self.salts

    def const(self, array: Array) -> Value:
        """A nameless constant."""
        name = f"const.{len(self.data)}"
        self.data[name] = np.ascontiguousarray(array)
        return leaf(Const, name, self.data[name])

    def constant(self, value: Scalar) -> Array | None:
        """The array that `value` always is; None when inputs, weights or the batch decide."""
        if not isinstance(value, Value):
            return np.asarray(value)
        for v in topological([value]):
            if v not in self.constants:
                self.constants[v] = self._evaluate(v)
        return self.constants[value]

    def _evaluate(self, value: Value) -> Array | None:
        if isinstance(value.op, Leaf):
            return self.data[value.op.name] if isinstance(value.op, Const) else None
        operands = [self.constants[v] for v in value.inputs]
        variable = any(a is None for a in operands) or holds_batch(*value.shape)
        if variable or value.type.size > FOLD_LIMIT or not (operands or generates(value)):
            return None
        with np.errstate(all="ignore"):  # infinities on the way are as good at import as later
            return np.asarray(value.op.ref(*operands))


def generates(value: Value) -> bool:
    """Whether the value is computed from nothing but its parameters, always the same."""
    return isinstance(value.op, Full | Iota)


def plain(number: Number) -> Number:
    """A number used in arithmetic. Raises BatchFixed when it is the batch size."""
    if holds_batch(number):
        raise BatchFixed("computes with the batch size as a number")
    return number


def to(value: Value, dtype: DType) -> Value:
    """`value` as `dtype`."""
    return value if value.dtype == dtype else Cast(dtype)(value)


def promoted(a: Scalar, b: Scalar) -> DType:
    """The element type in which PyTorch computes with `a` and `b`; at least one is a tensor."""
    ranks = [_rank(x) for x in (a, b)]
    kinds = [_kind(_RANK[r]) for r in ranks]
    weak = [not isinstance(x, Value) or x.type.rank == 0 for x in (a, b)]
    if weak[0] != weak[1]:  # a scalar decides only when it is of a higher kind
        strong = weak.index(False)
        return _RANK[ranks[strong] if kinds[strong] >= kinds[1 - strong] else ranks[1 - strong]]
    return _RANK[max(ranks)]


def _rank(x: Scalar) -> int:
    if isinstance(x, Value):
        return _RANK.index(x.dtype)
    return _RANK.index("bool" if isinstance(x, bool) else "i64" if isinstance(x, int) else "f32")


def _kind(dtype: DType) -> int:
    return 2 if dtype in FLOATS else 0 if dtype == "bool" else 1


def operand(x: Scalar, dtype: DType) -> Value:
    """A tensor or number as a value of `dtype`."""
    if isinstance(x, Value):
        return to(x, dtype)
    return Full((), dtype, cast_number(plain(x), dtype))()


def cast_number(number: Number, dtype: DType) -> Number:
    """A Python number of the kind that `dtype` holds."""
    if dtype == "bool":
        return bool(number)
    return float(number) if dtype in FLOATS else int(number)


def axis_of(axis: int, rank: int) -> int:
    """A non-negative axis."""
    return axis % rank if rank else 0


def axes_of(axes: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Sorted non-negative axes; none or an empty list means all of them."""
    if axes is None or (isinstance(axes, Sequence) and not axes):
        return tuple(range(rank))
    listed = [axes] if isinstance(axes, int) else axes
    return tuple(sorted(axis_of(a, rank) for a in listed))


def as_float(x: Value) -> Value:
    """`x`, or its f32 form when it is of an integer or bool type."""
    return x if x.type.is_float else to(x, "f32")


def trained_cone(value: Value) -> bool:
    """Whether a weight takes part in computing `value`."""
    return any(isinstance(v.op, Param) for v in topological([value]))


def pair(x: Any, rank: int) -> tuple[int, ...]:
    """ATen's int lists may hold one number for all spatial axes, or be empty."""
    listed = [x] if isinstance(x, int) else list(x)
    return tuple(listed * rank if len(listed) == 1 else listed)
