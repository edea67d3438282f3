"""PyTorch's losses, for models that return their own."""

from pockengine.frontends.torch_context import Context, Handler, Refused, operand, to
from pockengine.ir.op import Value
from pockengine.ops import elementwise as ew
from pockengine.ops.build import add, div, mul, sub
from pockengine.ops.index import Gather
from pockengine.ops.loss import CrossEntropy, bce_with_logits, huber, l1, mse
from pockengine.ops.reduce import Mean, Sum
from pockengine.ops.softmax import LogSoftmax

NONE, MEAN, SUM = 0, 1, 2  # ATen's numbers of the reductions


def _all(x: Value) -> tuple[int, ...]:
    return tuple(range(x.type.rank))


def reduced(x: Value, reduction: int) -> Value:
    """The element losses as they are, their mean, or their sum."""
    if reduction == NONE or x.type.rank == 0:
        return x
    return (Mean if reduction == MEAN else Sum)(_all(x), False)(x)


def _cross_entropy(
    ctx: Context,
    logits: Value,
    target: Value,
    weight: Value | None = None,
    reduction: int = MEAN,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Value:
    axis = 1 if logits.type.rank > 1 else 0
    if target.type.is_float:
        return _soft_cross_entropy(logits, target, axis, reduction, weight, label_smoothing)
    weights = () if weight is None else (weight,)
    losses = CrossEntropy(axis, float(label_smoothing), ignore_index)(logits, target, *weights)
    if reduction != MEAN:
        return reduced(losses, reduction)
    counted = _counts(target, weight, ignore_index, logits.dtype)
    return div(reduced(losses, SUM), reduced(counted, SUM))


def _counts(target: Value, weight: Value | None, ignore_index: int, dtype: str) -> Value:
    """What each label counts in a mean: the weight of its class, nothing where it is ignored."""
    kept = ew.NotEqual()(target, operand(ignore_index, target.dtype))
    if weight is None:
        return to(kept, dtype)
    safe = ew.Where()(kept, target, operand(0, target.dtype))
    return ew.Where()(kept, Gather(0)(weight, safe), operand(0, dtype))


def _soft_cross_entropy(
    logits: Value,
    target: Value,
    axis: int,
    reduction: int,
    weight: Value | None,
    label_smoothing: float,
) -> Value:
    if weight is not None:
        raise Refused("class weights together with target probabilities")
    classes = logits.shape[axis]
    if label_smoothing:
        target = add(mul(target, 1.0 - label_smoothing), label_smoothing / classes)
    losses = ew.Neg()(Sum((axis,), False)(mul(target, LogSoftmax(axis)(logits))))
    return reduced(losses, reduction)


def _nll(
    ctx: Context,
    log_probabilities: Value,
    target: Value,
    weight: Value | None = None,
    reduction: int = MEAN,
    ignore_index: int = -100,
) -> Value:
    axis = 1 if log_probabilities.type.rank > 1 else 0
    made = log_probabilities.op
    if not isinstance(made, LogSoftmax) or made.axis != axis:
        raise Refused("a negative log likelihood of what is no log_softmax over the classes")
    logits = log_probabilities.inputs[0]
    return _cross_entropy(ctx, logits, target, weight, reduction, ignore_index)


def _nll_forward(ctx: Context, *args: object) -> tuple[Value, None]:
    return _nll(ctx, *args), None  # type: ignore[arg-type]


def _mse(ctx: Context, x: Value, y: Value, reduction: int = MEAN) -> Value:
    return reduced(mse(x, y), reduction)


def _l1(ctx: Context, x: Value, y: Value, reduction: int = MEAN) -> Value:
    return reduced(l1(x, y), reduction)


def _huber(ctx: Context, x: Value, y: Value, reduction: int = MEAN, delta: float = 1.0) -> Value:
    return reduced(huber(x, y, float(delta)), reduction)


def _smooth_l1(ctx: Context, x: Value, y: Value, reduction: int = MEAN, beta: float = 1.0) -> Value:
    if beta == 0:
        return _l1(ctx, x, y, reduction)
    return reduced(mul(huber(x, y, float(beta)), 1.0 / beta), reduction)


def _bce_with_logits(
    ctx: Context,
    x: Value,
    target: Value,
    weight: Value | None = None,
    pos_weight: Value | None = None,
    reduction: int = MEAN,
) -> Value:
    losses = bce_with_logits(x, target, pos_weight)
    return reduced(losses if weight is None else mul(losses, weight), reduction)


def _bce(
    ctx: Context, x: Value, target: Value, weight: Value | None = None, reduction: int = MEAN
) -> Value:
    yes, no = (ew.Maximum()(ew.Log()(p), operand(-100.0, x.dtype)) for p in (x, _complement(x)))
    losses = ew.Neg()(add(mul(target, yes), mul(_complement(target), no)))
    return reduced(losses if weight is None else mul(losses, weight), reduction)


def _complement(x: Value) -> Value:
    return sub(operand(1.0, x.dtype), x)


def _kl_div(
    ctx: Context, x: Value, target: Value, reduction: int = MEAN, log_target: bool = False
) -> Value:
    if log_target:
        return reduced(mul(ew.Exp()(target), sub(target, x)), reduction)
    positive = ew.Greater()(target, operand(0.0, x.dtype))
    log = ew.Log()(ew.Where()(positive, target, operand(1.0, x.dtype)))
    return reduced(mul(target, sub(log, x)), reduction)


HANDLERS: dict[str, Handler] = {
    "cross_entropy_loss": _cross_entropy,
    "nll_loss_nd": _nll,
    "nll_loss": _nll,
    "nll_loss2d": _nll,
    "nll_loss_forward": _nll_forward,
    "nll_loss2d_forward": _nll_forward,
    "mse_loss": _mse,
    "l1_loss": _l1,
    "huber_loss": _huber,
    "smooth_l1_loss": _smooth_l1,
    "binary_cross_entropy_with_logits": _bce_with_logits,
    "binary_cross_entropy": _bce,
    "kl_div": _kl_div,
}
