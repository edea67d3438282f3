"""Gives every tensor of a program its bytes in one arena.

    | frozen | trained | state | feature |  inputs, outputs, saved activations, transients, ...  |
    '----------- persistent -------------'----- planned for each entry point by itself -------'

All entry points of a program (train, evaluate, predict, ...) share the persistent region, leaf by
name: weights, states, and what the frozen prefix computed for a whole batch. Each plans its own
transients from the same offset on; the arena ends where the largest of them does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pockengine.errors import GraphError, MemoryBudgetError
from pockengine.ir.graph import Const, Feature, Input, Leaf, Param, State, persists
from pockengine.ir.memo import Memo
from pockengine.ir.op import Value
from pockengine.ir.schedule import Schedule, check_schedule, storage
from pockengine.plan.arena import Block, aligned, largest_live, place
from pockengine.plan.inplace import hosts
from pockengine.plan.lifetimes import Lifetime, lifetimes

Kind = Literal[
    "frozen", "trained", "state", "feature", "input", "output", "saved", "transient", "scratch"
]
PERSISTENT: tuple[Kind, ...] = ("frozen", "trained", "state", "feature")
KINDS: tuple[Kind, ...] = (*PERSISTENT, "input", "output", "saved", "transient", "scratch")


@dataclass(frozen=True, slots=True)
class Slot:
    """Bytes of the arena, and what they are for."""

    offset: int
    nbytes: int
    kind: Kind

    @property
    def end(self) -> int:
        return self.offset + self.nbytes


@dataclass(frozen=True, eq=False)
class EntryPlan:
    """One entry point: the place of all that its steps store, its inputs included.

    `lives` and `host` are of the values that are not in the persistent region. Values with the
    same host share its bytes one after the other. `scratch` has one place a step, None where it
    needs none.
    """

    schedule: Schedule
    slots: Mapping[Value, Slot]
    scratch: tuple[Slot | None, ...]
    lives: Mapping[Value, Lifetime]
    host: Mapping[Value, Value]
    largest_live: int
    end: int  # of the bytes that it uses


@dataclass(frozen=True, eq=False)
class Plan:
    """The arena of a program. `persistent` is by leaf name."""

    entries: Mapping[str, EntryPlan]
    persistent: Mapping[str, Slot]
    persistent_bytes: int
    arena_bytes: int

    @property
    def peak_bytes(self) -> int:
        """What the program takes: the whole arena."""
        return self.arena_bytes

    @property
    def lower_bound(self) -> int:
        """What no plan of these schedules goes below: persistent bytes and the largest live set."""
        live = max((entry.largest_live for entry in self.entries.values()), default=0)
        return sum(slot.nbytes for slot in self.persistent.values()) + live

    def slot(self, entry: str, value: Value) -> Slot:
        """Where `value` is stored. Raises GraphError when it is not stored in that entry."""
        owner = storage(value)
        if persists(owner.op):
            return self.persistent[leaf_name(owner)]
        if owner not in self.entries[entry].slots:
            raise GraphError(f"{value} has no place in the plan of {entry!r}: no step stores it")
        return self.entries[entry].slots[owner]

    def offset(self, entry: str, value: Value) -> int:
        """The offset of `value` in the arena, in bytes."""
        return self.slot(entry, value).offset


def plan(schedules: Mapping[str, Schedule], memo: Memo | None = None) -> Plan:
    """The memory plan of a program with these entry points, in the order of their steps.

    `memo` keeps the offsets of blocks that were placed before.
    Raises GraphError when a schedule reads what it has not stored, or two entry points disagree on
    the type of a leaf.
    """
    persistent = _place_persistent(schedules)
    base = aligned(max((slot.end for slot in persistent.values()), default=0))
    entries = {
        name: _plan_entry(check_schedule(schedule), persistent, base, memo or Memo())
        for name, schedule in schedules.items()
    }
    size = max((entry.end for entry in entries.values()), default=base)
    return Plan(entries, persistent, base, aligned(size))


def leaf_name(leaf: Value) -> str:
    """The name of a leaf of a graph."""
    assert isinstance(leaf.op, Leaf)
    return leaf.op.name


def check_budget(plan: Plan, budget: int | None) -> None:
    """Raises MemoryBudgetError when a plan takes more than `budget` bytes."""
    if budget is not None and plan.arena_bytes > budget:
        raise MemoryBudgetError(
            f"the program takes {plan.arena_bytes:,} bytes, {plan.arena_bytes - budget:,} more "
            f"than the memory budget of {budget:,}; the least that would do for this model, batch "
            f"size and scheme is {plan.arena_bytes:,}. Train fewer tensors or use a smaller batch"
        )


def _place_persistent(schedules: Mapping[str, Schedule]) -> dict[str, Slot]:
    leaves: dict[str, Value] = {}
    kinds: dict[str, Kind] = {}
    for entry, schedule in schedules.items():
        for name, value in _persistent_leaves(schedule):
            if leaves.setdefault(name, value).type != value.type:
                raise GraphError(
                    f"leaf {name!r} is {leaves[name].type} in one entry point and {value.type} in "
                    f"{entry!r}; entry points share it, so the types must agree"
                )
            kind = _leaf_kind(schedule, value)
            kinds[name] = max(kinds.get(name, kind), kind, key=PERSISTENT.index)
    slots: dict[str, Slot] = {}
    end = 0
    for name in sorted(leaves, key=lambda name: PERSISTENT.index(kinds[name])):
        slots[name] = Slot(end, leaves[name].type.nbytes, kinds[name])
        end = aligned(slots[name].end)
    return slots


def _persistent_leaves(schedule: Schedule) -> Iterator[tuple[str, Value]]:
    for kind in (Param, State, Const, Feature):
        yield from schedule.graph.leaves(kind).items()


def _leaf_kind(schedule: Schedule, value: Value) -> Kind:
    if isinstance(value.op, State):
        return "state"
    if isinstance(value.op, Feature):
        return "feature"
    return "trained" if leaf_name(value) in schedule.graph.updates else "frozen"


def _plan_entry(
    schedule: Schedule, persistent: Mapping[str, Slot], base: int, memo: Memo
) -> EntryPlan:
    lives = lifetimes(schedule)
    host = hosts(schedule, lives)
    blocks = _blocks(schedule, lives, host)
    needed = tuple(blocks.values())
    placement = memo.get("placement", needed, lambda: place(needed))
    offset = {key: base + o for key, o in zip(blocks, placement.offsets, strict=True)}
    kinds = _value_kinds(schedule, lives)
    slots = {v: Slot(offset[host[v]], v.type.nbytes, kinds[v]) for v in lives}
    slots |= {v: persistent[leaf_name(x)] for v, x in schedule.in_place_updates().items()}
    scratch = tuple(
        Slot(offset[i], step.scratch, "scratch") if step.scratch else None
        for i, step in enumerate(schedule.steps)
    )
    live = largest_live(blocks.values())
    return EntryPlan(schedule, slots, scratch, lives, host, live, base + placement.size)


def _blocks(
    schedule: Schedule, lives: Mapping[Value, Lifetime], host: Mapping[Value, Value]
) -> dict[Value | int, Block]:
    """The blocks to place: one for each host, alive as long as its guests, one for each scratch."""
    blocks: dict[Value | int, Block] = {}
    for value, life in lives.items():
        block = blocks.get(host[value], Block(value.type.nbytes, life.first, life.last))
        blocks[host[value]] = replace(block, last=max(block.last, life.last))
    for number, step in enumerate(schedule.steps):
        if step.scratch:
            blocks[number] = Block(step.scratch, number, number)
    return blocks


def _value_kinds(schedule: Schedule, lives: Mapping[Value, Lifetime]) -> dict[Value, Kind]:
    loss = schedule.loss_step()
    outputs = {storage(v) for v in schedule.graph.outputs.values()}

    def kind(value: Value) -> Kind:
        if isinstance(value.op, Input):
            return "input"
        if value in outputs:
            return "output"
        return "saved" if lives[value].first <= loss < lives[value].last else "transient"

    return {value: kind(value) for value in lives}
