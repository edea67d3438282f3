"""Scaled dot-product attention, as a composition."""

import math

from pockengine.ir.op import Value
from pockengine.ops.build import add, full, greater_equal, iota, matmul, mul, softmax, where


def attention(
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Value:
    """softmax(q @ kT * scale + mask) @ v. q[..., T, D], k[..., S, D], v[..., S, E] -> [..., T, E].

    A bool `mask` keeps where it is true; a floating-point one is added. `causal` lets position t
    see the positions up to t. `scale` is 1 / sqrt(D) unless given.
    """
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = matmul(mul(q, scale), k, transpose_b=True)
    if causal:
        square = scores.shape[-2:]
        scores = _keep(scores, greater_equal(iota(square, 0, "i32"), iota(square, 1, "i32")))
    if mask is not None:
        scores = _keep(scores, mask) if mask.dtype == "bool" else add(scores, mask)
    return matmul(softmax(scores, -1), v)


def _keep(scores: Value, mask: Value) -> Value:
    return where(mask, scores, full((), scores.dtype, -math.inf))
