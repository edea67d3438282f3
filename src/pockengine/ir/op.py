"""What an operator is: one frozen dataclass that answers everything that is true of it.

    @dataclass(frozen=True)
    class Exp(Op):
        def infer(self, x): return x                       # type of the result, raising in words
        def ref(self, x): return np.exp(x)                 # the meaning, in NumPy
        def vjp(self, g, y, x): return (mul(g, y),)        # a gradient an input, from operators
        def c_expr(self, x): return f"pk_exp({x})"         # how C computes one element

Calling an operator on values makes a value: `Exp()(x)`. Tests come from `samples` and `errors`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from pockengine.errors import GraphError
from pockengine.ir.types import DType, Shape, TensorType

Array = np.ndarray[Any, Any]
Gradients = tuple["Value | None", ...]
Axes = tuple[int | None, ...] | None  # an axis of each input, or None: see Op.slice_axes
Load = Callable[[int, Sequence[str]], str]  # (input number, index expressions) -> C expression
_source: ContextVar[str] = ContextVar("_source", default="")


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """A node of the graph: an operator applied to values. Compared by identity, never changed.

    `source` says where it came from in the user's model, for errors and per-layer reports.
    """

    op: "Op"
    inputs: tuple["Value", ...]
    type: TensorType
    source: str = ""

    @property
    def shape(self) -> Shape:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def flops(self) -> int:
        """Floating-point operations that computing it takes."""
        return self.op.flops(self.type, *(x.type for x in self.inputs))

    def __repr__(self) -> str:
        return f"<{self.op} : {self.type}>"


@dataclass(frozen=True)
class Sample:
    """An operator with inputs to try it on; `differentiable` lists those to check gradients of."""

    op: "Op"
    arrays: tuple[Array, ...]
    differentiable: tuple[int, ...] | None = None  # None: every floating-point input


@dataclass(frozen=True)
class ErrorSample:
    """Inputs that `infer` must refuse, with a piece of the message that it must give."""

    op: "Op"
    types: tuple[TensorType, ...]
    message: str


class Op:
    """Base class of all operators. Subclasses are frozen dataclasses; fields are parameters."""

    elementwise: ClassVar[bool] = False  # y[i] depends on x[i] alone, inputs broadcast as in NumPy
    commutative: ClassVar[bool] = False
    linear_in: ClassVar[tuple[int, ...]] = ()  # inputs in which the result is linear
    kernel: ClassVar[str] = ""  # name of the C template that computes it, if it has one
    alias: ClassVar[bool] = False  # the result has the bytes of input 0 (reshape)
    torch: ClassVar[str] = ""  # dotted name of the PyTorch twin of `ref`, for the laws

    def infer(self, *types: Any) -> TensorType:
        """The result's type. Raises GraphError, in words, for inputs that do not fit."""
        raise NotImplementedError(f"{type(self).__name__}.infer")

    def ref(self, *arrays: Any) -> Array:
        """The meaning of the operator, computed by NumPy in the inputs' own precision."""
        raise NotImplementedError(f"{type(self).__name__}.ref")

    def vjp(self, g: Value, y: Value, *xs: Any) -> Gradients:
        """Gradient of each input given the result's gradient `g`; None where there is none.

        A rule ignores broadcasting, accumulation and what is needed: the reverse walk owns those.
        """
        raise GraphError(f"{type(self).__name__} has no gradient; freeze what lies before it")

    def slice_axes(self, axis: int, *types: Any) -> Axes:
        """Which axis of each input to slice to get the result sliced along `axis`; None: cannot."""
        return None

    def on_sliced(self, axis: int, size: int, *types: Any) -> "Op":
        """This operator for a result that has only `size` elements along `axis`."""
        return self

    def flops(self, y: TensorType, *xs: Any) -> int:
        """Floating-point operations of one evaluation."""
        return y.size if y.is_float else 0

    def c_expr(self, *args: Any) -> str:
        """The C expression of one element, given those of the inputs (elementwise operators)."""
        raise NotImplementedError(f"{type(self).__name__}.c_expr")

    def c_load(self, index: Sequence[str], load: Load, *types: Any) -> str:
        """The C expression of element `index` of the result (operators that only move data).

        `types` are the inputs' types followed by the result's type.
        """
        raise NotImplementedError(f"{type(self).__name__}.c_load")

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterable[Sample]:
        """At least three inputs to test on: size one, broadcast, ties, edges of the domain."""
        raise NotImplementedError(f"{cls.__name__}.samples")

    @classmethod
    def errors(cls) -> Iterable[ErrorSample]:
        """Inputs that must be refused, and the words."""
        return ()

    def __call__(self, *inputs: Value, source: str = "") -> Value:
        type_ = self.infer(*(v.type for v in inputs))
        return Value(self, inputs, type_, source or _source.get())

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        args = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({args})"


@contextmanager
def sourced(source: str) -> Iterator[None]:
    """Values that are made meanwhile, and are given no source, have this one."""
    token = _source.set(source)
    try:
        yield
    finally:
        _source.reset(token)


def moves_data(op: Op) -> bool:
    """Whether the operator only moves data, so that any element of it can be loaded by index."""
    return type(op).c_load is not Op.c_load


def require(condition: bool, op: Op, expected: str, *types: TensorType) -> None:
    """Raises GraphError naming the operator, what it expects and what came, unless `condition`."""
    if not condition:
        came = ", ".join(map(str, types))
        raise GraphError(f"{type(op).__name__} expects {expected}, got ({came}) for {op}")
