"""Says what batch normalisation and dropout mean, in training and at inference.

training   BatchNorm(training=True)  ->  Normalize(x) * gamma + beta; mean and var get updates
           BatchNorm(training=False) ->  (x - mean) * (gamma / sqrt(var + eps)) + beta
           Dropout                   ->  where(u >= p, x / (1 - p), 0); the random state an update
inference  BatchNorm                 ->  (x - mean) * (gamma / sqrt(var + eps)) + beta
           Dropout                   ->  x
"""

from dataclasses import replace

from pockengine.errors import GraphError
from pockengine.ir.graph import Graph, Input, Leaf
from pockengine.ir.op import Op, Value
from pockengine.ir.rewrite import transform
from pockengine.ops.build import (
    add,
    broadcast_to,
    greater_equal,
    iota,
    mul,
    reshape,
    rsqrt,
    sub,
    where,
)
from pockengine.ops.norm import BatchMean, BatchNorm, BatchVariance, Normalize, others
from pockengine.ops.random import Dropout, RandomUniform

WEIGHED = (Normalize, BatchMean, BatchVariance)


def training_mode(graph: Graph) -> Graph:
    """The graph as it trains, with updates of the running statistics and of the random state.

    Raises GraphError for a norm that averages over all batches so far (momentum None).
    """
    updates: dict[str, Value] = {}

    def expand(value: Value) -> Value:
        op = value.op
        if isinstance(op, BatchNorm):
            return _batch_norm(op, value, updates) if op.training else _frozen_norm(op, value)
        return _dropout(op, *value.inputs) if isinstance(op, Dropout) else value

    trained = transform(graph, expand)
    for value in trained.values():
        if isinstance(value.op, RandomUniform):
            (rng,) = value.inputs
            updates[_name(rng)] = add(rng, iota((2,), 0, "i64"))  # (seed, step) + (0, 1)
    return replace(trained, updates={**trained.updates, **updates})


def inference_mode(graph: Graph) -> Graph:
    """The graph as it predicts: running statistics, no dropout, no updates."""

    def expand(value: Value) -> Value:
        if isinstance(value.op, BatchNorm):
            return _frozen_norm(value.op, value)
        return value.inputs[0] if isinstance(value.op, Dropout) else value

    return transform(replace(graph, updates={}), expand)


def weigh_batch(graph: Graph, weight: Value, batch: int) -> Graph:
    """Gives `weight` [batch], one number a sample, to all statistics that go over the batch.

    So a padded sample of weight 0 changes nothing. The caller lists `weight` among the inputs.
    Where samples have been cut into rows (axis 0 is k * batch, sample by sample), each row has its
    sample's weight. What does not depend on the inputs, such as a normalised weight, has no
    samples. Raises GraphError when axis 0 is no multiple of the batch.
    """
    sampled: set[Value] = set()

    def weigh(value: Value) -> Value:
        value = weighed(value)
        if isinstance(value.op, Input) or any(v in sampled for v in value.inputs):
            sampled.add(value)
        return value

    def weighed(value: Value) -> Value:
        if not (isinstance(value.op, WEIGHED) and 0 in value.op.axes and len(value.inputs) == 1):
            return value
        if value.inputs[0] not in sampled:
            return value
        (x,) = value.inputs
        if x.shape[0] % batch:
            text = f"{value.op} goes over axis 0 of {x.type}, which is no multiple of the batch "
            raise GraphError(f"{text}{batch}; use batches that are always full")
        rows = x.shape[0] // batch
        column = broadcast_to(reshape(weight, (batch, 1)), (batch, rows))
        each = weight if rows == 1 else reshape(column, (batch * rows,))
        return value.op(x, each, source=value.source)

    return transform(graph, weigh)


def _batch_norm(op: BatchNorm, value: Value, updates: dict[str, Value]) -> Value:
    """Normalises by the batch's statistics, and notes the updates of the running ones."""
    x, gamma, beta, mean, var = value.inputs
    axes = others(op.axis, x.type.rank)
    if op.momentum is None:
        text = f"expected a momentum, got None (the average of all batches) for {op}"
        raise GraphError(f"{text} of {value.source!r}; set one, such as 0.1, before the import")
    for running, of_batch in ((mean, BatchMean(axes)(x)), (var, BatchVariance(axes, False)(x))):
        name = _name(running)
        old = updates.get(name, running)  # a norm that is used twice updates twice
        updates[name] = add(mul(old, 1.0 - op.momentum), mul(of_batch, op.momentum))
    y = _at(value, Normalize(axes, op.eps), x)
    return add(mul(y, _column(gamma, op, x)), _column(beta, op, x))


def _frozen_norm(op: BatchNorm, value: Value) -> Value:
    x, gamma, beta, mean, var = value.inputs
    scale = mul(gamma, rsqrt(add(var, op.eps)))
    centred = sub(x, _column(mean, op, x))
    return add(mul(centred, _column(scale, op, x)), _column(beta, op, x))


def _dropout(op: Dropout, x: Value, rng: Value) -> Value:
    if op.p == 0:
        return x
    uniform = RandomUniform(x.shape, op.salt)(rng)
    return where(greater_equal(uniform, op.p), mul(x, 1.0 / (1.0 - op.p)), 0.0)


def _column(vector: Value, op: BatchNorm, x: Value) -> Value:
    """[C] -> [C, 1, ...], which broadcasts along the channel axis of x."""
    return reshape(vector, (vector.shape[0], *(1,) * (x.type.rank - 1 - op.axis)))


def _at(value: Value, op: Op, *inputs: Value) -> Value:
    """An operator that stands for `value` in reports."""
    return op(*inputs, source=value.source)


def _name(value: Value) -> str:
    if not isinstance(value.op, Leaf):
        raise GraphError(f"expected a leaf that can be updated, got {value.op}")
    return value.op.name
