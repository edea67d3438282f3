"""Lifetimes, sharing, offsets, and the plan of a whole program."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules import Net, Node, cnn, f32, param, random_schedule, state, view

from pockengine.errors import GraphError, MemoryBudgetError
from pockengine.ir.schedule import Schedule, Step
from pockengine.passes.reorder import reorder
from pockengine.plan.arena import ALIGNMENT, Block, aligned, largest_live, place
from pockengine.plan.inplace import hosts
from pockengine.plan.lifetimes import Lifetime, lifetimes
from pockengine.plan.planner import check_budget, plan
from pockengine.plan.verify import verify_plan

blocks = st.lists(
    st.builds(
        lambda size, first, length: Block(size, first, first + length),
        st.integers(0, 1000),
        st.integers(-1, 30),
        st.integers(0, 12),
    ),
    max_size=40,
)


@settings(max_examples=80, deadline=None)
@given(blocks)
def test_blocks_alive_together_never_overlap(given_blocks: list[Block]) -> None:
    placement = place(given_blocks)
    assert placement.size >= largest_live(given_blocks)
    placed = list(zip(placement.offsets, given_blocks, strict=True))
    for i, (offset, block) in enumerate(placed):
        assert offset % ALIGNMENT == 0 and offset + block.size <= placement.size
        for other_offset, other in placed[:i]:
            together = block.first <= other.last and other.first <= block.last
            apart = offset + block.size <= other_offset or other_offset + other.size <= offset
            assert apart or not together or not (block.size and other.size)


def test_largest_live_counts_both_ends_of_a_lifetime() -> None:
    assert largest_live([Block(10, 0, 1), Block(5, 1, 2), Block(100, 3, 3)]) == 100
    assert largest_live([Block(10, 0, 1), Block(95, 1, 2)]) == 105


def test_no_blocks_take_no_bytes() -> None:
    assert place([]).size == 0 and largest_live([]) == 0


def test_a_second_try_finds_what_sorting_misses() -> None:
    rng = np.random.default_rng(3)
    cuts = [int(x) * 64 for x in rng.integers(1, 30, 60)]
    crowd = [Block(size, i // 3, i // 3 + 2 + i % 4) for i, size in enumerate(cuts)]
    assert place(crowd).size <= 1.1 * largest_live(crowd)


def small() -> Net:
    net = Net()
    x = net.input("x", 16)
    a = net.step("a", (16,), x, scratch=100)
    b = net.step("b", (16,), a, over=(a,))
    net.outputs["loss"] = net.step("loss", (1,), b)
    return net


def test_lifetimes_reach_from_the_storing_step_to_the_last_reader() -> None:
    net = small()
    a, b, loss = (s.results[0] for s in net.steps)
    expected = {net.inputs[0]: (-1, 0), a: (0, 1), b: (1, 2), loss: (2, 3)}
    assert lifetimes(net.schedule()) == {v: Lifetime(*span) for v, span in expected.items()}


def test_a_reader_of_an_alias_keeps_its_owner_alive() -> None:
    net = Net()
    a = net.step("a", (16,), net.input("x", 16))
    b = net.step("b", (16,), a)
    net.outputs["loss"] = net.step("loss", (1,), view(view(a, 4, 4), 2, 8), b)
    assert lifetimes(net.schedule())[a] == Lifetime(0, 2)


def test_a_result_takes_over_an_operand_that_dies() -> None:
    net = small()
    schedule = net.schedule()
    a, b, _ = (s.results[0] for s in net.steps)
    planned = plan({"predict": schedule})
    assert hosts(schedule, lifetimes(schedule))[b] is a
    assert planned.offset("predict", a) == planned.offset("predict", b)


def test_a_result_takes_over_no_operand_that_lives_on() -> None:
    net = Net()
    a = net.step("a", (16,), net.input("x", 16))
    b = net.step("b", (16,), a, over=(a,))
    net.outputs["loss"] = net.step("loss", (1,), a, b)
    planned = verify_plan(plan({"predict": net.schedule()}))
    assert planned.offset("predict", a) != planned.offset("predict", b)


def test_two_results_do_not_take_over_one_operand() -> None:
    net = Net()
    a = net.step("a", (16,), net.input("x", 16))
    b, c = Node("b", f32(16))(a), Node("c", f32(16))(a)
    net.steps.append(Step((b, c), (b, c), inplace=((b, a), (c, a))))
    net.outputs["loss"] = net.step("loss", (1,), b, c)
    planned = verify_plan(plan({"predict": net.schedule()}))
    assert planned.offset("predict", b) != planned.offset("predict", c)


def test_an_update_is_written_where_its_leaf_is() -> None:
    schedule = reorder(cnn(depth=3, size=8))
    planned = verify_plan(plan({"train": schedule}))
    for name, value in schedule.graph.updates.items():
        assert planned.slot("train", value) == planned.persistent[name]
        assert planned.persistent[name].kind == ("state" if name.endswith(".m") else "trained")


def test_kinds_of_what_is_stored() -> None:
    schedule = reorder(cnn(depth=3, size=8, train=1))
    planned = plan({"train": schedule})
    kinds = {v.source: slot.kind for v, slot in planned.entries["train"].slots.items() if v.source}
    assert kinds["mask2"] == "saved" and kinds["relu0"] == "transient"
    assert kinds["pool"] == "output" and kinds["g_loss"] in ("saved", "transient")
    assert planned.slot("train", schedule.graph.inputs[0]).kind == "input"
    assert planned.persistent["w0.1"].kind == "frozen"


def test_entry_points_share_leaves_and_the_arena() -> None:
    train, predict = reorder(cnn(depth=3, size=8)), reorder(cnn(depth=3, size=8, train=0))
    both = verify_plan(plan({"train": train, "predict": predict}))
    alone = plan({"train": train})
    assert both.arena_bytes == alone.arena_bytes and both.persistent == alone.persistent
    weight = predict.graph.params["w0.1"]
    assert both.offset("predict", weight) == both.offset("train", train.graph.params["w0.1"])


def test_entry_points_must_agree_on_a_leaf() -> None:
    def reads(*shape: int) -> Schedule:
        net = Net()
        net.outputs["y"] = net.step("y", (1,), param("w", *shape))
        return net.schedule()

    expected = r"leaf 'w' is f32\[4\] in one entry point and f32\[5\] in 'predict'"
    with pytest.raises(GraphError, match=expected):
        plan({"train": reads(4), "predict": reads(5)})


def test_a_value_inside_a_step_has_no_place() -> None:
    net = small()
    inner = Node("inner", f32(4))(net.inputs[0])
    with pytest.raises(GraphError, match="no place in the plan of 'train': no step stores it"):
        plan({"train": net.schedule()}).offset("train", inner)


def test_empty_tensors_and_no_steps() -> None:
    net = Net()
    net.outputs["y"] = net.step("y", (0,), net.input("x", 0), state("s", 0))
    planned = verify_plan(plan({"predict": net.schedule()}))
    assert planned.arena_bytes == 0 and plan({}).arena_bytes == 0


def test_a_budget_that_cannot_be_met_says_what_would_do() -> None:
    planned = plan({"train": reorder(cnn(depth=3, size=8))})
    check_budget(planned, planned.arena_bytes)
    expected = f"the least that would do for .* is {planned.arena_bytes:,}. Train fewer"
    with pytest.raises(MemoryBudgetError, match=expected):
        check_budget(planned, planned.arena_bytes - 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_any_plan_is_verified_and_not_below_its_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    planned = plan({"train": reorder(random_schedule(rng))})
    assert verify_plan(planned).arena_bytes >= planned.lower_bound
    assert planned.arena_bytes == planned.peak_bytes == aligned(planned.arena_bytes)


@pytest.mark.parametrize("depth, train", [(18, 18), (18, 4), (50, 50), (50, 7)])
def test_training_steps_reach_their_lower_bound(depth: int, train: int) -> None:
    planned = verify_plan(plan({"train": reorder(cnn(depth=depth, train=train))}))
    transient = planned.arena_bytes - planned.persistent_bytes
    assert transient <= 1.02 * planned.entries["train"].largest_live
