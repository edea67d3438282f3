"""What rides in the step that computes its operand: sums and moments of columns."""

import pytest

from pockengine.backends.c.calls import row_length
from pockengine.ir.graph import Graph, Input, leaf
from pockengine.ir.op import Value
from pockengine.ir.schedule import Schedule, Step
from pockengine.ir.types import TensorType
from pockengine.ops import build as b
from pockengine.ops.norm import BatchMean, BatchVariance
from pockengine.passes.fuse import anchor_of, fuse
from pockengine.passes.groups import WIDEST, riders


def rows(*shape: int, name: str = "x") -> Value:
    return leaf(Input, name, TensorType("f32", shape))


def fused(**outputs: Value) -> Schedule:
    inputs = tuple(Graph((), outputs).leaves(Input).values())
    return fuse(Graph(inputs, outputs), row_length)


def computing(schedule: Schedule, value: Value) -> Step:
    return next(step for step in schedule.steps if value in step.values)


def test_sums_ride_behind_a_kernel_and_what_they_sum_is_not_stored() -> None:
    g = b.mul(b.matmul(rows(48, 3), rows(3, 8, name="w")), rows(48, 8, name="m"))
    bias, gamma = b.reduce_sum(g, (0,)), b.reduce_sum(b.mul(g, rows(48, 8, name="y")), (0,))
    (step,) = fused(bias=bias, gamma=gamma).steps
    assert riders(step.values) == [bias, gamma]
    anchor = anchor_of(step.values)
    assert anchor is not None and step.results == (bias, gamma)


def test_sums_ride_in_a_loop() -> None:
    total = b.reduce_sum(b.exp(rows(6, 5, 8)), (0, 1))
    (step,) = fused(total=total).steps
    assert anchor_of(step.values) is None and step.results == (total,)


def test_moments_ride_and_store_what_they_read_again() -> None:
    x = b.mul(b.matmul(rows(48, 3), rows(3, 8, name="w")), 2.0)
    mean, variance = BatchMean((0,))(x), BatchVariance((0,), True)(x)
    (step,) = fused(mean=mean, variance=variance).steps
    assert riders(step.values) == [mean, variance]
    assert step.results == (x, mean, variance)


def test_what_reads_a_sum_comes_in_a_later_step() -> None:
    y = b.exp(rows(6, 8))
    mean = b.mul(b.reduce_sum(y, (0,)), 1 / 6)
    centred = b.sub(y, mean)
    schedule = fused(centred=centred)
    steps = [schedule.steps.index(computing(schedule, v)) for v in (mean.inputs[0], mean, centred)]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize(("shape", "axes"), [((6, 8), (1,)), ((6, 8), (0, 1)), ((4, 3, 8), (1,))])
def test_other_sums_stay_kernels(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    total = b.reduce_sum(b.exp(rows(*shape)), axes)
    assert anchor_of(computing(fused(total=total), total).values) is total


def test_wide_sums_stay_kernels() -> None:
    total = b.reduce_sum(b.exp(rows(2, WIDEST + 1)), (0,))
    assert anchor_of(computing(fused(total=total), total).values) is total
