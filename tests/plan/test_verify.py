"""Every way of corrupting a plan is caught, in words."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from schedules import Net, param, state

from pockengine.errors import GraphError
from pockengine.ir.graph import Graph, Input, leaf
from pockengine.ir.op import Value
from pockengine.ir.schedule import Schedule, Step
from pockengine.ir.types import TensorType
from pockengine.ops.build import exp, reduce_sum, sub
from pockengine.ops.norm import BatchMean
from pockengine.passes.reorder import reorder
from pockengine.plan.planner import Plan, Slot, plan
from pockengine.plan.verify import verify_plan

SPARE = 1024


def program() -> tuple[Plan, dict[str, Value]]:
    """Two layers, the second trained with momentum, which is copied at the end; SPARE bytes unused.

    Steps: a, b (with scratch), g, moment, loss, new, copy of moment.
    """
    net = Net()
    x, y = net.input("x", 64), net.input("y", 64)
    w0, w1, m = param("w0", 64), param("w1", 64), state("m", 64)
    a = net.step("a", (64,), x, w0)
    b = net.step("b", (64,), a, w1, scratch=128)
    loss = net.step("loss", (1,), b)
    g = net.step("g", (64,), a, b)
    moment = net.step("moment", (64,), m, g)  # reads m elsewhere than it writes: must be copied
    new = net.step("new", (64,), w1, moment, over=(w1,))
    net.outputs["loss"], net.outputs["b"] = loss, b
    net.updates |= {"w1": new, "m": moment}
    planned = plan({"train": reorder(net.schedule())})
    named = dict(x=x, y=y, w0=w0, w1=w1, m=m, a=a, b=b, loss=loss, g=g, moment=moment, new=new)
    return replace(planned, arena_bytes=planned.arena_bytes + SPARE), named


def spare(planned: Plan) -> int:
    return planned.arena_bytes - SPARE


def moved(planned: Plan, value: Value, offset: int | None = None, **changes: int) -> Plan:
    entry = planned.entries["train"]
    slot = entry.slots[value]
    changed = replace(slot, **({} if offset is None else {"offset": offset}), **changes)
    return with_entry(planned, slots={**entry.slots, value: changed})


def with_entry(planned: Plan, **changes: object) -> Plan:
    return replace(planned, entries={"train": replace(planned.entries["train"], **changes)})  # type: ignore[arg-type]


def leaf_at(planned: Plan, name: str, offset: int) -> Plan:
    slot = replace(planned.persistent[name], offset=offset)
    return replace(planned, persistent={**planned.persistent, name: slot})


def without(planned: Plan, value: Value) -> Plan:
    slots = planned.entries["train"].slots
    return with_entry(planned, slots={v: s for v, s in slots.items() if v is not value})


def scratch_at(planned: Plan, offset: int, nbytes: int = 128) -> Plan:
    slots = planned.entries["train"].scratch
    slot = Slot(offset, nbytes, "scratch")
    return with_entry(planned, scratch=tuple(slot if s else None for s in slots))


def with_steps(planned: Plan, change: Callable[[list[Step]], list[Step]]) -> Plan:
    entry = planned.entries["train"]
    steps = tuple(change(list(entry.schedule.steps)))
    schedule = Schedule(entry.schedule.graph, steps)
    scratch = tuple(
        next((s for s in entry.scratch if s), None) if step.scratch else None for step in steps
    )
    return with_entry(planned, schedule=schedule, scratch=scratch)


def update_first(steps: list[Step]) -> list[Step]:
    loss, new = steps[4:6]
    return [*steps[:4], new, loss, *steps[6:]]


def scratch_for_loss(steps: list[Step]) -> list[Step]:
    return [replace(s, scratch=128 if i == 4 else 0) for i, s in enumerate(steps)]


def store_together(steps: list[Step]) -> list[Step]:
    both = (*steps[2].values, *steps[4].values)
    return [*steps[:2], Step(both, both), steps[3], *steps[5:]]


CORRUPTIONS: dict[str, tuple[Callable[[Plan, dict[str, Value]], Plan], str]] = {
    "operand overwritten by its reader": (
        lambda p, v: moved(p, v["b"], p.offset("train", v["a"])),
        "stores .*label='b'.* over .*label='a'.* which it still reads",
    ),
    "saved value overwritten in between": (
        lambda p, v: moved(p, v["loss"], p.offset("train", v["moment"]) + 64),
        "step 5 reads .*label='moment'.* whose bytes were overwritten",
    ),
    "output overwritten": (
        lambda p, v: moved(p, v["moment"], p.offset("train", v["b"])),
        "reads .*label='b'.* whose bytes were overwritten",
    ),
    "input among the weights": (
        lambda p, v: moved(p, v["x"], p.persistent["w0"].offset),
        "in 'train', the start has .*'x'.* among the persistent leaves",
    ),
    "two inputs in the same bytes": (
        lambda p, v: moved(p, v["y"], p.offset("train", v["x"])),
        "the start has .*'y'.* and .*'x'.* in the same bytes",
    ),
    "value among the weights": (
        lambda p, v: moved(p, v["g"], p.persistent["w0"].offset),
        "has .*label='g'.* among the persistent leaves",
    ),
    "update beside its leaf": (
        lambda p, v: moved(p, v["new"], spare(p)),
        "'w1' does not hold its update",
    ),
    "update onto another leaf": (
        lambda p, v: moved(p, v["new"], p.persistent["m"].offset),
        "has .*label='new'.* among the persistent leaves",
    ),
    "outside of the arena": (
        lambda p, v: moved(p, v["g"], p.arena_bytes),
        "outside of the arena",
    ),
    "negative offset": (lambda p, v: moved(p, v["x"], -256), "start has .*'x'.* outside"),
    "unaligned": (
        lambda p, v: moved(p, v["g"], spare(p) + 4),
        "no multiple of 64",
    ),
    "too small": (lambda p, v: moved(p, v["g"], nbytes=64), "in only 64 bytes"),
    "no place": (lambda p, v: without(p, v["g"]), "uses .*label='g'.* which has no place"),
    "leaves overlap": (
        lambda p, v: leaf_at(p, "w0", p.persistent["w1"].offset),
        "overlaps the one before it",
    ),
    "leaf beyond its region": (
        lambda p, v: leaf_at(p, "w0", p.persistent_bytes),
        "persistent leaves end at",
    ),
    "scratch in an operand": (
        lambda p, v: scratch_at(p, p.offset("train", v["a"])),
        "has its scratch in the bytes of .*label='a'",
    ),
    "scratch in a weight": (
        lambda p, v: scratch_at(p, p.persistent["m"].offset),
        "has scratch among the persistent leaves",
    ),
    "scratch too small": (
        lambda p, v: scratch_at(p, spare(p), 64),
        "has 64 of 128 bytes of scratch",
    ),
    "scratch outside": (lambda p, v: scratch_at(p, p.arena_bytes), "has scratch at .* outside"),
    "scratch over what is read later": (
        lambda p, v: scratch_at(with_steps(p, scratch_for_loss), p.offset("train", v["moment"])),
        "step 5 reads .*label='moment'.* whose bytes were overwritten",
    ),
    "arena too small": (
        lambda p, v: replace(p, arena_bytes=spare(p) - 256),
        "outside of the arena",
    ),
    "region too small": (
        lambda p, v: replace(p, persistent_bytes=64),
        "persistent leaves end at 768, their region at 64",
    ),
    "two results in the same bytes": (
        lambda p, v: with_steps(p, store_together),
        "stores .*label='loss'.* and .*label='g'.* in the same bytes",
    ),
    "copy left out": (
        lambda p, v: with_steps(p, lambda steps: [s for s in steps if not s.copies]),
        "leaf 'm' does not hold its update",
    ),
    "copy of another value": (
        lambda p, v: with_steps(
            p,
            lambda steps: [
                replace(s, copies=((v["g"], v["m"]),)) if s.copies else s for s in steps
            ],
        ),
        "'m' does not hold its update|overwritten",
    ),
    "copy onto a frozen leaf": (
        lambda p, v: with_steps(
            p, lambda s: [*s[:-1], replace(s[-1], copies=(*s[-1].copies, (v["b"], v["w0"])))]
        ),
        "the end leaf 'w0' was overwritten",
    ),
    "copy of another size": (
        lambda p, v: with_steps(
            p,
            lambda steps: [
                replace(s, copies=((v["loss"], v["m"]),)) if s.copies else s for s in steps
            ],
        ),
        "copies .*label='loss'.* onto 'm', which is",
    ),
    "update before the loss": (
        lambda p, v: with_steps(p, update_first),
        "updates 'w1' before the loss is known|whose bytes were overwritten",
    ),
    "copy before the loss": (
        lambda p, v: with_steps(p, lambda s: [replace(s[0], copies=((v["x"], v["m"]),)), *s[1:]]),
        "updates 'm' before the loss is known",
    ),
    "steps reversed": (
        lambda p, v: with_steps(p, lambda steps: steps[::-1]),
        "overwritten or never written",
    ),
}


def test_the_untouched_plan_passes() -> None:
    planned, _ = program()
    assert verify_plan(planned) is planned


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupt_plan_is_refused(name: str) -> None:
    planned, values = program()
    corrupt, message = CORRUPTIONS[name]
    with pytest.raises(GraphError, match=message):
        verify_plan(corrupt(planned, values))


def test_riders_are_read_by_later_steps_only() -> None:
    x = leaf(Input, "x", TensorType("f32", (6, 8)))
    y = exp(x)
    total, mean = reduce_sum(y, (0,)), BatchMean((0,))(y)
    centred = sub(y, total)
    for step, message in (
        (Step((y, total, centred), (total, centred)), "step 0 reads .*Sum.* before it has seen"),
        (Step((y, mean), (mean,)), "step 0 does not store the rows that .*BatchMean"),
    ):
        graph = Graph((x,), {str(i): v for i, v in enumerate(step.results)})
        with pytest.raises(GraphError, match=message):
            verify_plan(plan({"train": Schedule(graph, (step,))}))
