"""Attention as one ONNX operator (opset 23), and the common ones of ONNX Runtime's own domain."""

import math

from pockengine.errors import ImportModelError, UnsupportedError
from pockengine.frontends.onnx_math import scale
from pockengine.frontends.onnx_node import Item, Node, Translation
from pockengine.frontends.onnx_shape import broadcast, reshaped, transposed
from pockengine.ir.op import Value
from pockengine.ops import elementwise as e
from pockengine.ops import norm
from pockengine.ops.matmul import MatMul
from pockengine.ops.shape import Full, Iota
from pockengine.ops.softmax import Softmax


def attention(node: Node) -> Item:
    """softmax(scale * q kT + mask) v; q, k, v are [N, heads, L, D], or [N, L, heads * D]."""
    if any(node.has(i) for i in (4, 5, 6)) or node.attr("qk_matmul_output_mode", 0):
        raise UnsupportedError("Attention with a key-value cache or with its scores as an output")
    packed = node.value(0).type.rank == 3
    q = _heads(node.value(0), node.attr("q_num_heads", 0))
    k = _heads(node.value(1), node.attr("kv_num_heads", 0))
    v = _heads(node.value(2), node.attr("kv_num_heads", 0))
    k, v = _repeated(k, q.shape[1]), _repeated(v, q.shape[1])
    factor = node.attr("scale", 0.0) or 1.0 / math.sqrt(q.shape[-1])
    scores = MatMul(False, True)(scale(q, factor), k)
    cap = node.attr("softcap", 0.0)
    if cap:
        scores = scale(e.Tanh()(scale(scores, 1.0 / cap)), cap)
    scores = _masked(scores, node.optional(3), bool(node.attr("is_causal", 0)))
    y = MatMul(False, False)(Softmax(3)(scores), v)
    if not packed:
        return y
    n, heads, length, depth = y.shape
    return reshaped(transposed(y, (0, 2, 1, 3)), (n, length, heads * depth))


def _heads(x: Value, heads: int) -> Value:
    """[N, L, heads * D] -> [N, heads, L, D]; a tensor of rank 4 has that shape already."""
    if x.type.rank == 4:
        return x
    if x.type.rank != 3 or heads < 1 or x.shape[2] % heads:
        raise ImportModelError(f"Attention cannot split {x.type} into {heads} heads")
    n, length, width = x.shape
    return transposed(reshaped(x, (n, length, heads, width // heads)), (0, 2, 1, 3))


def _repeated(x: Value, heads: int) -> Value:
    """Each key or value head is shared by a group of query heads."""
    n, own, length, depth = x.shape
    if own == heads:
        return x
    group = heads // own
    spread = broadcast(reshaped(x, (n, own, 1, length, depth)), (n, own, group, length, depth))
    return reshaped(spread, (n, heads, length, depth))


def _masked(scores: Value, mask: Value | None, causal: bool) -> Value:
    lowest = Full((), scores.dtype, -math.inf)()
    if causal:
        rows, columns = scores.shape[-2:]
        seen = e.GreaterEqual()(Iota((rows, 1), 0, "i64")(), Iota((1, columns), 1, "i64")())
        scores = e.Where()(seen, scores, lowest)
    if mask is None:
        return scores
    if mask.dtype == "bool":
        return e.Where()(mask, scores, lowest)
    return e.Add()(scores, mask)


def fused_matmul(node: Node) -> Item:
    a, b = node.value(0), node.value(1)
    if node.attr("transBatchA", 0) or node.attr("transBatchB", 0):
        raise UnsupportedError("FusedMatMul that transposes batches")
    op = MatMul(bool(node.attr("transA", 0)), bool(node.attr("transB", 0)))
    return scale(op(a, b), node.attr("alpha", 1.0))


def bias_gelu(node: Node) -> Item:
    return e.Gelu(False)(e.Add()(node.value(0), node.value(1)))


def fast_gelu(node: Node) -> Item:
    x = node.value(0)
    return e.Gelu(True)(e.Add()(x, node.value(1)) if node.has(1) else x)


def quick_gelu(node: Node) -> Item:
    x = node.value(0)
    return e.Mul()(x, e.Sigmoid()(scale(x, node.attr("alpha", 1.702))))


def skip_layer_normalization(node: Node) -> Item:
    total = e.Add()(node.value(0), node.value(1))
    if node.has(4):
        total = e.Add()(total, node.value(4))
    return norm.layer_norm(total, 1, node.value(2), node.optional(3), node.attr("epsilon", 1e-12))


TRANSLATIONS: dict[str, Translation] = {
    "Attention": attention,
    "com.microsoft::Gelu": lambda n: e.Gelu(False)(n.value(0)),
    "com.microsoft::BiasGelu": bias_gelu,
    "com.microsoft::FastGelu": fast_gelu,
    "com.microsoft::QuickGelu": quick_gelu,
    "com.microsoft::FusedMatMul": fused_matmul,
    "com.microsoft::SkipLayerNormalization": skip_layer_normalization,
}
