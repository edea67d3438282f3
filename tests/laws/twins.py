"""How to call an operator's PyTorch twin, where it takes more than the operator's inputs."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from pockengine.ir.op import Op

Twin = Callable[..., Any]


def _sides(low: Any, high: Any) -> list[int]:
    """PyTorch pads from the last axis to the first."""
    pairs = reversed(list(zip(low, high, strict=True)))
    return [amount for pair in pairs for amount in pair]


def _matmul(op: Any, a: Any, b: Any) -> Any:
    return torch.matmul(a.mT if op.transpose_a else a, b.mT if op.transpose_b else b)


def _reduced(function: Twin) -> Twin:
    """Of PyTorch's reductions some take () for all axes, so no axes means no reduction here."""
    return lambda op, x: function(x, op.axes, op.keepdims) if op.axes else x.clone()


def _bounds(op: Any, x: Any) -> Any:
    return x if op.low is op.high is None else torch.clamp(x, op.low, op.high)


def _channels_first(function: Twin) -> Twin:
    """For operators with `channels_last`: the twin gets and gives [N, C, *S]."""

    def twin(op: Any, x: Any, *rest: Any) -> Any:
        if not op.channels_last:
            return function(op, x, *rest)
        y = function(op, x.movedim(-1, 1), *rest)
        return None if y is None else y.movedim(1, -1)

    return twin


def _of_rank(name: str, x: Any) -> Twin:
    """F.conv2d for a batch of images, and so on."""
    return getattr(F, f"{name}{x.dim() - 2}d")


def _padded(op: Any, x: Any, value: float = 0.0) -> Any:
    return F.pad(x, _sides(*zip(*op.padding, strict=True)), value=value)


def _conv(op: Any, x: Any, w: Any) -> Any:
    if op.channels_last:
        w = w.movedim((-1, -2), (0, 1))
    x = _padded(op, x)
    conv = _of_rank("conv", x)
    return conv(x, w, stride=op.stride, dilation=op.dilation, groups=op.groups)


def _max_pool(op: Any, x: Any) -> Any:
    pool = _of_rank("max_pool", x)
    return pool(_padded(op, x, -torch.inf), op.window, op.stride, 0, op.dilation)


def _avg_pool(op: Any, x: Any) -> Any:
    pool = _of_rank("avg_pool", x)
    y = pool(_padded(op, x), op.window, op.stride)
    if op.count_include_pad:
        return y
    return y / pool(_padded(op, torch.ones_like(x)), op.window, op.stride)


def _resize(op: Any, x: Any) -> Any:
    if op.mode == "nearest":
        modes = {"asymmetric": "nearest", "half_pixel": "nearest-exact"}
        mode, corners = modes.get(op.coordinates), None
    else:
        linear = {3: "linear", 4: "bilinear", 5: "trilinear"}
        mode = linear[x.dim()] if op.coordinates != "asymmetric" else None
        corners = op.coordinates == "align_corners"
    return mode and F.interpolate(x, op.size, mode=mode, align_corners=corners)


def _cross_entropy(op: Any, logits: Any, labels: Any, weight: Any = None) -> Any:
    rows = logits.movedim(op.axis, -1)
    loss = F.cross_entropy(
        rows.reshape(-1, rows.shape[-1]),
        labels.reshape(-1),
        weight,
        ignore_index=-100 if op.ignore_index is None else op.ignore_index,
        reduction="none",
        label_smoothing=op.label_smoothing,
    )
    return loss.reshape(labels.shape)


def _batch_norm(op: Any, x: Any, gamma: Any, beta: Any, mean: Any, var: Any) -> Any:
    running = (None, None) if op.training else (mean, var)
    y = F.batch_norm(x.movedim(op.axis, 1), *running, gamma, beta, op.training, 0.0, op.eps)
    return y.movedim(1, op.axis)


def _normalize(op: Any, x: Any, weight: Any = None) -> Any:
    if weight is not None:
        return None
    var, mean = torch.var_mean(x, op.axes, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(var + op.eps)


def _rms_normalize(op: Any, x: Any) -> Any:
    last = op.axes == tuple(range(x.dim() - len(op.axes), x.dim()))
    return F.rms_norm(x, [x.shape[a] for a in op.axes], eps=op.eps) if last else None


TWINS: dict[str, Twin] = {
    "Reshape": lambda op, x: torch.reshape(x, op.shape),
    "Transpose": lambda op, x: torch.permute(x, op.perm),
    "BroadcastTo": lambda op, x: torch.broadcast_to(x, op.shape),
    "Flip": lambda op, x: torch.flip(x, op.axes),
    "Pad": lambda op, x: F.pad(x, _sides(op.low, op.high), value=op.value),
    "Concat": lambda op, *xs: torch.cat(xs, op.axis),
    "Take": lambda op, x: torch.index_select(x, op.axis, torch.tensor(op.indices)),
    "GatherElements": lambda op, x, idx: torch.gather(x, op.axis, idx),
    "Sum": _reduced(torch.sum),
    "Mean": _reduced(torch.mean),
    "Max": _reduced(torch.amax),
    "Min": _reduced(torch.amin),
    "ArgMax": lambda op, x: torch.argmax(x, op.axis, op.keepdims),
    "CumSum": lambda op, x: torch.cumsum(x, op.axis, dtype=x.dtype),
    "Softmax": lambda op, x: torch.softmax(x, op.axis),
    "LogSoftmax": lambda op, x: torch.log_softmax(x, op.axis),
    "MatMul": _matmul,
    "Clip": _bounds,
    "LeakyRelu": lambda op, x: F.leaky_relu(x, op.slope),
    "Elu": lambda op, x: F.elu(x, op.alpha),
    "Softplus": lambda op, x: F.softplus(x, op.beta, op.threshold),
    "Gelu": lambda op, x: F.gelu(x, approximate="tanh" if op.approximate else "none"),
    "FloorDiv": lambda op, a, b: torch.div(a, b, rounding_mode="floor"),
    "Conv": _channels_first(_conv),
    "MaxPool": _channels_first(_max_pool),
    "AvgPool": _channels_first(_avg_pool),
    "AdaptiveAvgPool": _channels_first(lambda op, x: _of_rank("adaptive_avg_pool", x)(x, op.size)),
    "AdaptiveMaxPool": _channels_first(lambda op, x: _of_rank("adaptive_max_pool", x)(x, op.size)),
    "Resize": _channels_first(_resize),
    "CrossEntropy": _cross_entropy,
    "BatchNorm": _batch_norm,
    "Normalize": _normalize,
    "RmsNormalize": _rms_normalize,
}


def twin_of(operator: type[Op]) -> Twin | None:
    """f(op, *tensors), or None when PyTorch has nothing to compare with, as f has for some ops."""
    if operator.__name__ in TWINS:
        return TWINS[operator.__name__]
    if not operator.torch:
        return None
    function: Any = torch
    for name in operator.torch.split(".")[1:]:
        function = getattr(function, name)
    return lambda op, *tensors: function(*tensors)
