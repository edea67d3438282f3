"""The scalar that training makes smaller, built from a model's outputs.

    loss = sum over i of w[i] * l[i] / sum over i of w[i] * c[i]

l are the losses of the N samples' positions, w the samples' weights, and c is 0 where the target is
to be ignored, else 1 or the weight of its class: with unit weights PyTorch's reduction "mean". A
row that only fills up a batch has weight 0; a batch of such rows alone has loss 0 and no gradient.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pockengine.errors import InputError
from pockengine.ir.graph import Const, Graph, Input, leaf
from pockengine.ir.op import Array, Value
from pockengine.ir.types import NUMPY, TensorType
from pockengine.ops import loss as losses
from pockengine.ops.build import (
    add,
    cast,
    div,
    equal,
    full,
    gather,
    greater,
    logical_and,
    mul,
    not_equal,
    reduce_sum,
    reshape,
    where,
)
from pockengine.ops.reduce import ArgMax


@dataclass(frozen=True)
class Objective:
    """A loss in two parts, so that several micro-batches can be added before they are divided.

    `metrics` are counts: `correct` of `count` predictions. `inputs` are what the loss is given
    beside the model's own inputs: "target" and "sample_weight".
    """

    total: Value  # sum of weighted losses
    weight: Value  # what to divide by
    inputs: tuple[Value, ...] = ()
    metrics: Mapping[str, Value] = field(default_factory=dict)
    data: Mapping[str, Array] = field(default_factory=dict)

    @property
    def loss(self) -> Value:
        return quotient(self.total, self.weight)


def quotient(total: Value, weight: Value) -> Value:
    """total / weight, and 0 with no gradient where all weights are 0."""
    return div(total, where(equal(weight, 0.0), 1.0, weight))


@dataclass(frozen=True)
class Loss:
    """Base class. `output` names the model's output to judge; None: the only one, or "logits"."""

    output: str | None = field(default=None, kw_only=True)

    def objective(self, graph: Graph) -> Objective:
        """The loss of a forward graph's output. Raises InputError if the output does not fit."""
        raise NotImplementedError(f"{type(self).__name__}.objective")

    def prediction(self, graph: Graph) -> Value:
        """The output to judge."""
        name = self.output
        if name is None:
            only = next(iter(graph.outputs)) if len(graph.outputs) == 1 else "logits"
            name = only
        if name not in graph.outputs:
            have = ", ".join(graph.outputs)
            raise InputError(f"the loss needs output {name!r}, the model has {have}; name one")
        return graph.outputs[name]


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Of logits [N, C, ...] with classes along `axis`, and labels i64 of the other axes."""

    label_smoothing: float = 0.0
    ignore_index: int = -100
    class_weights: tuple[float, ...] | None = None
    axis: int = 1

    def objective(self, graph: Graph) -> Objective:
        logits = self.prediction(graph)
        axis = self._axis(logits.type)
        rest = logits.shape[:axis] + logits.shape[axis + 1 :]
        labels = leaf(Input, "target", TensorType("i64", rest))
        sample = sample_weight(graph, logits)
        ignored = equal(labels, self.ignore_index)
        classes = self._class_weights(logits, axis)
        op = losses.CrossEntropy(axis, self.label_smoothing, self.ignore_index)
        each = op(logits, labels, *classes)
        counts = full(rest, logits.dtype, 1.0)
        if classes:
            counts = gather(classes[0], where(ignored, 0, labels), axis=0)
        rows = _rows(sample, rest)
        weight = reduce_sum(mul(where(ignored, 0.0, counts), rows))
        counted = logical_and(not_equal(labels, self.ignore_index), greater(rows, 0.0))
        hit = equal(ArgMax(axis, keepdims=False)(logits), labels)
        return Objective(
            reduce_sum(mul(each, rows)),
            weight,
            (labels, sample),
            _metrics(logical_and(hit, counted), counted),
            self._data(logits),
        )

    def _axis(self, logits: TensorType) -> int:
        axis = self.axis + logits.rank if self.axis < 0 else self.axis
        if not (logits.is_float and 0 < axis < logits.rank):
            expected = "floating-point logits [N, C, ...]"
            raise InputError(f"cross entropy along axis {self.axis} needs {expected}, got {logits}")
        return axis

    def _class_weights(self, logits: Value, axis: int) -> tuple[Value, ...]:
        if self.class_weights is None:
            return ()
        if len(self.class_weights) != logits.shape[axis]:
            came = len(self.class_weights)
            raise InputError(f"expected {logits.shape[axis]} class weights, got {came}")
        return (leaf(Const, "class_weights", logits.type.with_shape(logits.shape[axis])),)

    def _data(self, logits: Value) -> dict[str, Array]:
        return _constant("class_weights", self.class_weights, logits)


@dataclass(frozen=True)
class _Elementwise(Loss):
    """Losses of each element of a prediction [N, ...] against a target of the same type."""

    def each(self, prediction: Value, target: Value) -> Value:
        raise NotImplementedError(f"{type(self).__name__}.each")

    def metrics(self, prediction: Value, target: Value, rows: Value) -> dict[str, Value]:
        return {}

    def data(self, prediction: Value) -> dict[str, Array]:
        return {}

    def objective(self, graph: Graph) -> Objective:
        prediction = self.prediction(graph)
        if not prediction.type.is_float or not prediction.shape:
            raise InputError(f"{type(self).__name__} needs floats [N, ...], got {prediction.type}")
        target = leaf(Input, "target", prediction.type)
        sample = sample_weight(graph, prediction)
        rows = _rows(sample, prediction.shape)
        each = mul(self.each(prediction, target), rows)
        size = math.prod(prediction.shape[1:])
        weight = mul(reduce_sum(_per_output_row(sample, prediction)), float(size))
        return Objective(
            reduce_sum(each),
            weight,
            (target, sample),
            self.metrics(prediction, target, rows),
            self.data(prediction),
        )


@dataclass(frozen=True)
class BCEWithLogits(_Elementwise):
    """Binary cross entropy of logits against targets in [0, 1]; `pos_weight`: of the last axis."""

    pos_weight: tuple[float, ...] | None = None

    def each(self, prediction: Value, target: Value) -> Value:
        if self.pos_weight is None:
            return losses.bce_with_logits(prediction, target)
        type_ = prediction.type.with_shape(len(self.pos_weight))
        return losses.bce_with_logits(prediction, target, leaf(Const, "pos_weight", type_))

    def metrics(self, prediction: Value, target: Value, rows: Value) -> dict[str, Value]:
        counted = greater(add(rows, full(prediction.shape, rows.dtype, 0.0)), 0.0)
        hit = equal(greater(prediction, 0.0), greater(target, 0.5))
        return _metrics(logical_and(hit, counted), counted)

    def data(self, prediction: Value) -> dict[str, Array]:
        return _constant("pos_weight", self.pos_weight, prediction)


@dataclass(frozen=True)
class MSE(_Elementwise):
    """Squared error."""

    def each(self, prediction: Value, target: Value) -> Value:
        return losses.mse(prediction, target)


@dataclass(frozen=True)
class L1(_Elementwise):
    """Absolute error."""

    def each(self, prediction: Value, target: Value) -> Value:
        return losses.l1(prediction, target)


@dataclass(frozen=True)
class Huber(_Elementwise):
    """Squared error / 2 up to `delta`, linear beyond."""

    delta: float = 1.0

    def each(self, prediction: Value, target: Value) -> Value:
        return losses.huber(prediction, target, self.delta)


@dataclass(frozen=True)
class OwnOutput(Loss):
    """The model computes its loss itself; `output` names it, None takes the only scalar output."""

    def objective(self, graph: Graph) -> Objective:
        scalars = [n for n, v in graph.outputs.items() if v.shape == () and v.type.is_float]
        name = self.output or (scalars[0] if len(scalars) == 1 else None)
        if name not in scalars:
            have = ", ".join(f"{n}: {v.type}" for n, v in graph.outputs.items())
            raise InputError(
                f"the model must give one scalar as its loss, it gives {have}; name one"
            )
        value = graph.outputs[name]
        return Objective(value, full((), value.dtype, 1.0))


LOSSES: Mapping[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "bce_with_logits": BCEWithLogits,
    "mse": MSE,
    "l1": L1,
    "huber": Huber,
    "output": OwnOutput,
}


def as_loss(spec: Loss | str) -> Loss:
    """A loss, or the one of that name with its default settings."""
    if isinstance(spec, Loss):
        return spec
    if spec not in LOSSES:
        raise InputError(f"no loss is named {spec!r}; there are {', '.join(LOSSES)}")
    return LOSSES[spec]()


# Weights of samples


def sample_weight(graph: Graph, prediction: Value) -> Value:
    """The input that weighs the samples, f32[N], N being the model's batch.

    A graph that already has it (for batch statistics that leave out filled-up rows) keeps its own.
    Raises InputError for a prediction whose rows are not a multiple of the batch.
    """
    rows = prediction.shape[0]
    batch = graph.inputs[0].shape[0] if graph.inputs and graph.inputs[0].shape else rows
    if rows % batch:
        raise InputError(f"the loss needs an output of {batch} rows, or times so many, got {rows}")
    existing = graph.leaves(Input).get("sample_weight")
    return existing or leaf(Input, "sample_weight", TensorType(prediction.dtype, (batch,)))


def _per_output_row(weight: Value, like: Value) -> Value:
    return _rows(weight, like.shape[:1])


def _rows(weight: Value, shape: tuple[int, ...]) -> Value:
    """Weights f32[N] for a value of `shape` [k * N, ...]: each k times, as [k * N, 1, ...]."""
    batch, repeats = weight.shape[0], shape[0] // weight.shape[0]
    if repeats > 1:
        column = mul(reshape(weight, (batch, 1)), full((1, repeats), weight.dtype, 1.0))
        weight = reshape(column, (batch * repeats,))
    return reshape(weight, (shape[0],) + (1,) * (len(shape) - 1))


def _metrics(correct: Value, counted: Value) -> dict[str, Value]:
    return {"correct": reduce_sum(cast(correct, "f32")), "count": reduce_sum(cast(counted, "f32"))}


def _constant(name: str, values: tuple[float, ...] | None, like: Value) -> dict[str, Array]:
    return {} if values is None else {name: np.array(values, NUMPY[like.dtype])}
