"""Functions that build values: `add(mul(x, 2.0), y)`.

One for each operator, with negative axes resolved, Python numbers lifted to constants of the other
operand's dtype, and nothing built where there is nothing to do; then functions composed of them.
"""

import math
from collections.abc import Callable, Sequence
from math import prod

from pockengine.errors import GraphError
from pockengine.ir.op import Op, Value
from pockengine.ir.types import DType, Shape
from pockengine.ops import activations as act
from pockengine.ops import arithmetic as ar
from pockengine.ops import compare as cp
from pockengine.ops import index as ix
from pockengine.ops import reduce as rd
from pockengine.ops import shape as sh
from pockengine.ops import softmax as sm
from pockengine.ops.arithmetic import add, div, mul, sub
from pockengine.ops.compare import where
from pockengine.ops.matmul import MatMul
from pockengine.ops.pointwise import Operand, lifted, scalar
from pockengine.ops.random import Dropout

__all__ = [
    "add",
    "div",
    "mul",
    "scalar",
    "sub",
    "where",
]  # defined elsewhere, part of this vocabulary

Axes = int | Sequence[int] | None  # None: all


def axis_of(x: Value, axis: int) -> int:
    """`axis` counted from the front. Raises GraphError when x has no such axis."""
    rank = x.type.rank
    if not -rank <= axis < rank:
        raise GraphError(f"expected an axis in [{-rank}, {rank}) of {x.type}, got {axis}")
    return axis % rank


def axes_of(x: Value, axes: Axes) -> Shape:
    """The axes counted from the front, in order."""
    if axes is None:
        return tuple(range(x.type.rank))
    given = (axes,) if isinstance(axes, int) else axes
    return tuple(sorted(axis_of(x, a) for a in given))


# ---- constants -----------------------------------------------------------------------------------


def full(shape: Sequence[int], dtype: DType, value: float | int | bool) -> Value:
    """A tensor of one value."""
    return sh.Full(tuple(shape), dtype, value)()


def full_like(x: Value, value: float | int | bool) -> Value:
    """A tensor of x's type with one value."""
    return full(x.shape, x.dtype, value)


def iota(shape: Sequence[int], axis: int, dtype: DType) -> Value:
    """A tensor that counts along `axis`."""
    return sh.Iota(tuple(shape), axis % len(shape), dtype)()


# ---- elementwise ---------------------------------------------------------------------------------


def _unary(op: Op) -> Callable[[Value], Value]:
    def build(x: Value) -> Value:
        return op(x)

    build.__doc__ = type(op).__doc__
    return build


def _binary(op: Op) -> Callable[[Operand, Operand], Value]:
    def build(a: Operand, b: Operand) -> Value:
        return op(*lifted(a, b))

    build.__doc__ = type(op).__doc__
    return build


neg = _unary(ar.Neg())
absolute = _unary(ar.Abs())
sign = _unary(ar.Sign())
exp = _unary(ar.Exp())
log = _unary(ar.Log())
log1p = _unary(ar.Log1p())
sqrt = _unary(ar.Sqrt())
rsqrt = _unary(ar.Rsqrt())
reciprocal = _unary(ar.Reciprocal())
sin = _unary(ar.Sin())
cos = _unary(ar.Cos())
tanh = _unary(ar.Tanh())
erf = _unary(ar.Erf())
floor = _unary(ar.Floor())
ceil = _unary(ar.Ceil())
round_even = _unary(ar.Round())
stop_gradient = _unary(ar.StopGradient())
logical_not = _unary(cp.Not())
is_nan = _unary(cp.IsNan())
relu = _unary(act.Relu())
sigmoid = _unary(act.Sigmoid())
silu = _unary(act.Silu())
hard_sigmoid = _unary(act.HardSigmoid())
hard_swish = _unary(act.HardSwish())

maximum = _binary(ar.Maximum())
minimum = _binary(ar.Minimum())
mod = _binary(ar.Mod())
floor_div = _binary(ar.FloorDiv())
less = _binary(cp.Less())
less_equal = _binary(cp.LessEqual())
greater = _binary(cp.Greater())
greater_equal = _binary(cp.GreaterEqual())
equal = _binary(cp.Equal())
not_equal = _binary(cp.NotEqual())
logical_and = _binary(cp.And())
logical_or = _binary(cp.Or())
logical_xor = _binary(cp.Xor())


def power(a: Operand, b: Operand) -> Value:
    """a ^ b; the usual constant exponents become products, roots and quotients."""
    simple: dict[float, Callable[[Value], Value]] = {
        1.0: lambda x: x,
        2.0: square,
        3.0: lambda x: mul(square(x), x),
        0.5: sqrt,
        -0.5: rsqrt,
        -1.0: reciprocal,
    }
    if isinstance(a, Value) and not isinstance(b, Value) and float(b) in simple:
        return simple[float(b)](a)
    return ar.Pow()(*lifted(a, b))


def cast(x: Value, dtype: DType) -> Value:
    """x as another dtype; x itself when it has that dtype."""
    return x if x.dtype == dtype else ar.Cast(dtype)(x)


def clip(x: Value, low: float | None, high: float | None) -> Value:
    """x limited to [low, high]; None is no limit."""
    return act.Clip(low, high)(x)


def relu6(x: Value) -> Value:
    """min(max(x, 0), 6)"""
    return clip(x, 0.0, 6.0)


def leaky_relu(x: Value, slope: float = 0.01) -> Value:
    """x where x > 0, else slope * x"""
    return act.LeakyRelu(slope)(x)


def elu(x: Value, alpha: float = 1.0) -> Value:
    """x where x > 0, else alpha * (e^x - 1)"""
    return act.Elu(alpha)(x)


def softplus(x: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """log(1 + e^(beta x)) / beta"""
    return act.Softplus(beta, threshold)(x)


def gelu(x: Value, approximate: bool = False) -> Value:
    """x times the normal distribution function of x, or its tanh approximation."""
    return act.Gelu(approximate)(x)


# ---- shape ---------------------------------------------------------------------------------------


def reshape(x: Value, shape: Sequence[int]) -> Value:
    """x under another shape; one dimension may be -1."""
    new = tuple(shape)
    if new.count(-1) == 1:
        rest = prod(n for n in new if n != -1)
        new = tuple(x.type.size // max(rest, 1) if n == -1 else n for n in new)
    return x if new == x.shape else sh.Reshape(new)(x)


def expand_dims(x: Value, axis: int) -> Value:
    """A new axis of size one at position `axis` of the result."""
    at = axis % (x.type.rank + 1)
    return reshape(x, (*x.shape[:at], 1, *x.shape[at:]))


def squeeze(x: Value, axes: Axes = None) -> Value:
    """Without the given axes of size one; None: without all of them."""
    if axes is None:
        return reshape(x, [n for n in x.shape if n != 1])
    gone = axes_of(x, axes)
    return reshape(x, [n for a, n in enumerate(x.shape) if a not in gone])


def flatten(x: Value, first: int = 1) -> Value:
    """All axes from `first` on as one."""
    return reshape(x, (*x.shape[:first], prod(x.shape[first:])))


def transpose(x: Value, perm: Sequence[int] | None = None) -> Value:
    """Axes in the order `perm`; None: reversed."""
    order = range(x.type.rank)[::-1] if perm is None else [axis_of(x, a) for a in perm]
    same = list(order) == list(range(x.type.rank))
    return x if same else sh.Transpose(tuple(order))(x)


def broadcast_to(x: Value, shape: Sequence[int]) -> Value:
    """x repeated to `shape`."""
    return x if tuple(shape) == x.shape else sh.BroadcastTo(tuple(shape))(x)


def sum_to(x: Value, shape: Sequence[int]) -> Value:
    """Undoes broadcasting: x summed over the axes that `shape` lacks or has with size one."""
    lead = x.type.rank - len(shape)
    extended = (*(1,) * lead, *shape)
    axes = tuple(a for a, n in enumerate(extended) if n == 1 and x.shape[a] != 1)
    return reshape(reduce_sum(x, axes, keepdims=True), shape) if axes else reshape(x, shape)


def slice_axis(x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
    """x[start:stop:step] along `axis`; x itself when that is all of it."""
    axis = axis_of(x, axis)
    if (start, stop, step) == (0, x.shape[axis], 1):
        return x
    return sh.Slice(axis, start, stop, step)(x)


def flip(x: Value, axes: Axes) -> Value:
    """The order along the axes reversed."""
    return sh.Flip(axes_of(x, axes))(x)


def pad(x: Value, low: Sequence[int], high: Sequence[int], value: float = 0.0) -> Value:
    """`low` elements of `value` before and `high` after, one number for each axis."""
    return sh.Pad(tuple(low), tuple(high), value)(x) if any((*low, *high)) else x


def concat(xs: Sequence[Value], axis: int) -> Value:
    """Tensors one after the other along `axis`."""
    return xs[0] if len(xs) == 1 else sh.Concat(axis_of(xs[0], axis))(*xs)


def stack(xs: Sequence[Value], axis: int) -> Value:
    """Tensors of one shape along a new axis."""
    return concat([expand_dims(x, axis) for x in xs], axis % (xs[0].type.rank + 1))


def split(x: Value, sizes: Sequence[int], axis: int) -> list[Value]:
    """x cut along `axis` into parts of these sizes."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    parts = zip(ends, sizes, strict=True)
    return [slice_axis(x, axis, end - size, end) for end, size in parts]


def take(x: Value, axis: int, indices: Sequence[int]) -> Value:
    """Elements at known indices along `axis`; a Slice where the indices are evenly spaced."""
    axis, wanted = axis_of(x, axis), tuple(i % x.shape[axis_of(x, axis)] for i in indices)
    step = wanted[1] - wanted[0] if len(wanted) > 1 else 1
    if wanted and step > 0 and wanted == tuple(range(wanted[0], wanted[-1] + 1, step)):
        return slice_axis(x, axis, wanted[0], wanted[-1] + 1, step)
    return ix.Take(axis, wanted)(x)


def put(x: Value, axis: int, indices: Sequence[int], piece: Value) -> Value:
    """x with the elements at known, different indices along `axis` replaced by `piece`."""
    return ix.Put(axis_of(x, axis), tuple(indices))(x, piece)


def gather(x: Value, idx: Value, axis: int = 0) -> Value:
    """x at the indices that a tensor gives: an embedding's rows."""
    return ix.Gather(axis_of(x, axis))(x, idx)


def gather_elements(x: Value, idx: Value, axis: int) -> Value:
    """As torch.gather."""
    return ix.GatherElements(axis_of(x, axis))(x, idx)


# ---- reductions ----------------------------------------------------------------------------------


def _reduction(op: type[rd.Reduction]) -> Callable[..., Value]:
    def build(x: Value, axes: Axes = None, keepdims: bool = False) -> Value:
        return op(axes_of(x, axes), keepdims)(x)

    build.__doc__ = f"{op.__doc__}, over `axes` (None: all)"
    return build


reduce_sum = _reduction(rd.Sum)
reduce_mean = _reduction(rd.Mean)
reduce_max = _reduction(rd.Max)
reduce_min = _reduction(rd.Min)
reduce_prod = _reduction(rd.Prod)


def variance(x: Value, axes: Axes = None, keepdims: bool = False, correction: int = 0) -> Value:
    """Sum of squared differences from the mean / (count - correction), over `axes`."""
    over = axes_of(x, axes)
    squares = reduce_sum(square(sub(x, reduce_mean(x, over, keepdims=True))), over, keepdims)
    return mul(squares, 1.0 / (prod(x.shape[a] for a in over) - correction))


def argmax(x: Value, axis: int, keepdims: bool = False) -> Value:
    """i64: where along `axis` the largest element is."""
    return rd.ArgMax(axis_of(x, axis), keepdims)(x)


def cumsum(x: Value, axis: int) -> Value:
    """The running sum along `axis`."""
    return rd.CumSum(axis_of(x, axis))(x)


def logsumexp(x: Value, axes: Axes = None, keepdims: bool = False) -> Value:
    """log of the sum of e^x over `axes`, without overflow."""
    over = axes_of(x, axes)
    top = reduce_max(x, over, keepdims=True)
    result = add(log(reduce_sum(exp(sub(x, top)), over, keepdims=True)), top)
    return result if keepdims else squeeze(result, over)


def softmax(x: Value, axis: int = -1) -> Value:
    """e^x / sum of e^x along `axis`"""
    return sm.Softmax(axis_of(x, axis))(x)


def log_softmax(x: Value, axis: int = -1) -> Value:
    """The logarithm of softmax."""
    return sm.LogSoftmax(axis_of(x, axis))(x)


# ---- products and random numbers -----------------------------------------------------------------


def matmul(a: Value, b: Value, transpose_a: bool = False, transpose_b: bool = False) -> Value:
    """a[.., M, K] @ b[.., K, N], after transposing the last two axes of each if asked."""
    return MatMul(transpose_a, transpose_b)(a, b)


def linear(x: Value, weight: Value, bias: Value | None = None) -> Value:
    """x[.., K] @ weight[N, K]^T + bias[N]"""
    rows = x if x.type.rank > 1 else expand_dims(x, 0)
    y = matmul(rows, weight, transpose_b=True)
    y = reshape(y, (*x.shape[:-1], weight.shape[0]))
    return y if bias is None else add(y, bias)


def dropout(x: Value, rng: Value, p: float, salt: int) -> Value:
    """x / (1 - p) with probability 1 - p, else 0."""
    return Dropout(p, salt)(x, rng)


# ---- compositions --------------------------------------------------------------------------------


def square(x: Value) -> Value:
    """x^2"""
    return mul(x, x)


def tan(x: Value) -> Value:
    """sin x / cos x"""
    return div(sin(x), cos(x))


def log2(x: Value) -> Value:
    """The logarithm to base 2."""
    return mul(log(x), 1.0 / math.log(2.0))


def logit(x: Value, eps: float | None = None) -> Value:
    """log(x / (1 - x)), with x limited to [eps, 1 - eps] if given."""
    x = x if eps is None else clip(x, eps, 1.0 - eps)
    return log(div(x, sub(1.0, x)))


def log_sigmoid(x: Value) -> Value:
    """log sigmoid(x), without underflow."""
    return sub(minimum(x, 0.0), log1p(exp(neg(absolute(x)))))


def mish(x: Value) -> Value:
    """x tanh(softplus(x))"""
    return mul(x, tanh(softplus(x)))


def softsign(x: Value) -> Value:
    """x / (1 + |x|)"""
    return div(x, add(absolute(x), 1.0))


def selu(x: Value) -> Value:
    """The self-normalising ELU, with its two fixed constants."""
    return mul(elu(x, 1.6732632423543772), 1.0507009873554805)


def celu(x: Value, alpha: float = 1.0) -> Value:
    """x where x > 0, else alpha * (e^(x / alpha) - 1)"""
    return mul(elu(div(x, alpha), 1.0), alpha)


def prelu(x: Value, slope: Value) -> Value:
    """x where x > 0, else slope * x, with a slope that is learned."""
    return where(greater(x, 0.0), x, mul(x, slope))
