"""The order of steps, and how updates reach their leaves."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules import Net, cnn, param, random_schedule, state, view

from pockengine.errors import GraphError
from pockengine.ir.schedule import Schedule, Step, check_schedule
from pockengine.passes.reorder import reorder
from pockengine.plan.planner import plan
from pockengine.plan.verify import verify_plan


def labels(schedule: Schedule) -> list[str]:
    return ["+".join(v.op.label for v in s.values) or "copy" for s in schedule.steps]  # type: ignore[attr-defined]


def chain_with_updates() -> Net:
    """Two layers; all gradients are made first and all updates last, in the order given."""
    net = Net()
    x = net.input("x", 100)
    w0, w1 = param("w0", 1000), param("w1", 1000)
    a = net.step("a", (100,), x, w0)
    b = net.step("b", (100,), a, w1)
    net.outputs["loss"] = net.step("loss", (1,), b)
    g1 = net.step("g1", (100,), b)
    d1 = net.step("d1", (1000,), a, g1)
    g0 = net.step("g0", (100,), g1, w1)
    d0 = net.step("d0", (1000,), x, g0)
    net.updates["w0"] = net.step("w0'", (1000,), w0, d0, over=(w0, d0))
    net.updates["w1"] = net.step("w1'", (1000,), w1, d1, over=(w1, d1))
    return net


def test_a_gradient_is_applied_before_the_next_one_is_made() -> None:
    order = labels(reorder(chain_with_updates().schedule()))
    assert order.index("d1") < order.index("w1'") < order.index("d0") < order.index("w0'")


def test_an_update_waits_for_the_last_reader_of_the_old_weight() -> None:
    order = labels(reorder(chain_with_updates().schedule()))
    assert order.index("g0") < order.index("w1'")


def test_no_leaf_is_written_before_the_loss_is_known() -> None:
    net = Net()
    x = net.input("x", 1000)
    counter = state("counter", 1)
    net.updates["counter"] = net.step("count", (1,), counter, over=(counter,))
    h = net.step("h", (1000,), x)
    net.outputs["loss"] = net.step("loss", (1,), h)
    order = reorder(net.schedule())
    writes = labels(order).index("count" if "copy" not in labels(order) else "copy")
    assert labels(order).index("loss") < writes
    verify_plan(plan({"train": order}))


def test_running_statistics_do_not_keep_activations_alive() -> None:
    """Copied after the loss when that is cheaper than keeping what they are computed from."""
    net = Net()
    x = net.input("x", 10_000)
    for i in range(6):
        mean = state(f"mean{i}", 4)
        net.updates[f"mean{i}"] = net.step(f"stat{i}", (4,), x, mean, over=(mean,))
        x = net.step(f"h{i}", (10_000,), x)
    net.outputs["loss"] = net.step("loss", (1,), x)
    planned = verify_plan(plan({"train": reorder(net.schedule())}))
    assert planned.arena_bytes < 3 * 40_000


def test_a_step_that_computes_the_loss_and_an_update_copies_the_update_later() -> None:
    net = Net()
    x, w = net.input("x", 8), param("w", 8)
    loss = net.step("loss", (1,), x, w)
    new = net.step("w'", (8,), x, w, over=(w,))
    net.steps = [Step((loss, new), (loss, new), inplace=((new, w),))]
    net.outputs["loss"], net.updates["w"] = loss, new
    ordered = reorder(net.schedule())
    assert [s.copies for s in ordered.steps] == [(), ((new, w),)]
    verify_plan(plan({"train": ordered}))


def test_an_update_that_is_read_with_the_old_weight_is_copied() -> None:
    net = Net()
    x, w = net.input("x", 8), param("w", 8)
    new = net.step("w'", (8,), w, x, over=(w,))
    net.outputs["change"] = net.step("change", (8,), new, w)
    net.updates["w"] = new
    ordered = reorder(net.schedule())
    assert labels(ordered) == ["w'", "change", "copy"]
    verify_plan(plan({"train": ordered}))


def test_one_value_that_updates_two_leaves_is_written_once_and_copied_once() -> None:
    net = Net()
    x, a, b = net.input("x", 8), param("a", 8), param("b", 8)
    net.outputs["y"] = net.step("y", (1,), a, b)
    net.updates["a"] = net.updates["b"] = net.step("new", (8,), x)
    ordered = reorder(net.schedule())
    assert [len(s.copies) for s in ordered.steps] == [0, 0, 1]
    verify_plan(plan({"train": ordered}))


def test_an_update_that_is_another_leaf_is_copied_before_that_leaf_changes() -> None:
    net = Net()
    x, now, before = net.input("x", 8), param("now", 8), param("before", 8)
    net.outputs["y"] = net.step("y", (1,), before)
    net.updates["now"] = net.step("new", (8,), now, x, over=(now,))
    net.updates["before"] = view(now, 8)
    verify_plan(plan({"train": reorder(net.schedule())}))


def test_two_leaves_cannot_be_exchanged_without_computing() -> None:
    net = Net()
    a, b = param("a", 8), param("b", 8)
    net.outputs["y"] = net.step("y", (1,), a, b)
    net.updates |= {"a": b, "b": a}
    with pytest.raises(GraphError, match="updates exchange the contents of leaves, one of: a, b"):
        reorder(net.schedule())


def test_the_old_content_of_an_updated_leaf_is_no_output() -> None:
    net = Net()
    x, w = net.input("x", 8), param("w", 8)
    net.updates["w"] = net.step("w'", (8,), w, x, over=(w,))
    net.outputs["old"] = view(w, 2, 4)
    with pytest.raises(
        GraphError, match=r"output 'old' is the old content of .*'w'.*return a value"
    ):
        reorder(net.schedule())


def test_a_schedule_that_reads_ahead_is_refused() -> None:
    net = chain_with_updates()
    net.steps.reverse()
    with pytest.raises(GraphError, match=r"step 0 reads .*d1.* which no earlier step stores"):
        reorder(net.schedule())


def test_a_value_is_stored_once_and_every_root_is_stored() -> None:
    net = chain_with_updates()
    schedule = net.schedule()
    with pytest.raises(GraphError, match=r"step 1 stores .*label='a'.* an earlier step stored"):
        check_schedule(Schedule(schedule.graph, (schedule.steps[0], *schedule.steps)))
    with pytest.raises(GraphError, match=re.escape("output 'loss' is")):
        check_schedule(Schedule(schedule.graph, schedule.steps[:2]))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_any_schedule_keeps_its_steps_and_gets_no_larger(seed: int) -> None:
    schedule = random_schedule(np.random.default_rng(seed))
    ordered = reorder(schedule)
    check_schedule(ordered)
    assert {s for s in ordered.steps if not s.copies} == set(schedule.steps)
    again = reorder(Schedule(schedule.graph, schedule.steps))
    assert [s.values for s in again.steps] == [s.values for s in ordered.steps]


def test_a_deep_network_is_ordered_in_near_linear_time() -> None:
    import time

    schedule = cnn(depth=150)
    started = time.perf_counter()
    reorder(schedule)
    assert len(schedule.steps) > 2000 and time.perf_counter() - started < 2


def test_gradients_of_a_deep_network_are_never_alive_together() -> None:
    ordered = reorder(cnn(depth=24))
    names = labels(ordered)
    waiting: set[str] = set()
    most = 0
    for name in names:
        waiting |= {name[1:]} if name.startswith("dw") else set()
        waiting -= {name.removesuffix("'")} if not name.endswith(".m'") else set()
        most = max(most, len(waiting))
    assert most <= 2
