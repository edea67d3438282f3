"""The independent judge of a plan: runs the steps on paper and watches who owns which bytes.

It shares no code with the planner. A write makes the written value the owner of its bytes and
evicts whoever owned any of them; a read is legal only while the value read still owns all of its
own. So a plan passes exactly when every step finds the contents that it expects, whatever the
plan believes about lifetimes. Raises GraphError naming the entry point, the step and the value.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from pockengine.errors import GraphError
from pockengine.ir.graph import Feature, Input, Leaf
from pockengine.ir.op import Value
from pockengine.ir.schedule import Step
from pockengine.passes.groups import is_statistic, riders
from pockengine.plan.planner import EntryPlan, Plan

ALIGNMENT = 64
Range = tuple[int, int]  # [start, end) in the arena


def verify_plan(plan: Plan) -> Plan:
    """Returns `plan` unchanged, or raises GraphError at the first step that would go wrong."""
    _check_persistent(plan)
    for name, entry in plan.entries.items():
        _Simulation(plan, name, entry).run()
    return plan


def _check_persistent(plan: Plan) -> None:
    end = 0
    for name, slot in sorted(plan.persistent.items(), key=lambda item: item[1].offset):
        if slot.nbytes and slot.offset < end:
            raise GraphError(f"the persistent leaf {name!r} overlaps the one before it")
        end = max(end, slot.offset + slot.nbytes)
    if end > plan.persistent_bytes or plan.persistent_bytes > plan.arena_bytes:
        raise GraphError(
            f"persistent leaves end at {end:,}, their region at {plan.persistent_bytes:,}, "
            f"the arena at {plan.arena_bytes:,}"
        )


@dataclass
class _Simulation:
    """One run of an entry point. `owners` holds the values whose bytes are intact."""

    plan: Plan
    name: str
    entry: EntryPlan
    owners: dict[Value, Range] = field(default_factory=dict)
    leaf_ranges: dict[Value, Range] = field(default_factory=dict)
    written: dict[Value, Value] = field(default_factory=dict)  # leaf -> its new value

    def run(self) -> None:
        schedule = self.entry.schedule
        for leaf in schedule.graph.leaves().values():
            self._claim(-1, leaf, self._range(-1, leaf))
            if _given(leaf):
                self._check_transient(-1, str(leaf), self.owners[leaf])
            else:
                self.leaf_ranges[leaf] = self.owners[leaf]
        outputs = schedule.graph.outputs
        pending = {_owner(outputs["loss"])} - self.owners.keys() if "loss" in outputs else set()
        for number, step in enumerate(schedule.steps):
            self._step(number, step, may_update=not pending)
            pending -= set(map(_owner, step.results))
        self._check_end()

    def _step(self, number: int, step: Step, may_update: bool) -> None:
        reads = list(_outside_reads(step))
        for value in reads:
            self._check_intact(number, value)
        self._check_riders(number, step)
        writes = [(v, self._range(number, v)) for v in map(_owner, step.results)]
        self._check_writes(number, step, reads, writes)
        if scratch := self.entry.scratch[number]:
            self._check_scratch(number, step, (scratch.offset, scratch.offset + scratch.nbytes))
        for value, where in writes:
            self._check_update(number, value, where, may_update)
            self._claim(number, value, where)
        for source, leaf in step.copies:
            self._copy(number, _owner(source), leaf, may_update)

    def _check_riders(self, number: int, step: Step) -> None:
        """What is made of columns is known after the last row: nobody reads it in its own step."""
        riding = riders(step.values)
        for read in (_owner(x) for value in step.values for x in value.inputs):
            if read in riding:
                self._fail(number, f"reads {read} before it has seen the last row")
        stored = set(map(_owner, step.results))
        for value in riding:
            if is_statistic(value) and _owner(value.inputs[0]) not in stored:
                self._fail(number, f"does not store the rows that {value} reads again")

    def _check_writes(
        self, number: int, step: Step, reads: list[Value], writes: list[tuple[Value, Range]]
    ) -> None:
        """The results overlap neither each other nor what is read, but for the pairs allowed."""
        allowed = {(_owner(result), _owner(operand)) for result, operand in step.inplace}
        for i, (value, where) in enumerate(writes):
            for other, there in writes[:i]:
                if _overlap(where, there):
                    self._fail(number, f"stores {value} and {other} in the same bytes")
            for read in reads:
                there = self.owners[read]
                if _overlap(where, there) and ((value, read) not in allowed or where != there):
                    self._fail(number, f"stores {value} over {read}, which it still reads")

    def _check_scratch(self, number: int, step: Step, where: Range) -> None:
        if step.scratch > where[1] - where[0]:
            self._fail(number, f"has {where[1] - where[0]:,} of {step.scratch:,} bytes of scratch")
        self._check_bounds(number, "scratch", where)
        self._check_transient(number, "scratch", where)
        for value in (*_outside_reads(step), *map(_owner, step.results)):
            if _overlap(where, self._range(number, value)):
                self._fail(number, f"has its scratch in the bytes of {value}")
        self._evict(number, where, None)

    def _check_update(self, number: int, value: Value, where: Range, may_update: bool) -> None:
        """A write into the persistent region must be the update of that leaf, after the loss."""
        if where[0] >= self.plan.persistent_bytes:
            return
        updates = self.entry.schedule.graph.updates
        for leaf, there in self.leaf_ranges.items():
            if where == there and _name(leaf) in updates:
                if _owner(updates[_name(leaf)]) is not value:
                    continue
                if not may_update:
                    self._fail(number, f"updates {_name(leaf)!r} before the loss is known")
                self.written[leaf] = value
                return
        self._check_transient(number, str(value), where)

    def _check_transient(self, number: int, what: str, where: Range) -> None:
        if where[0] < min(where[1], self.plan.persistent_bytes):
            self._fail(number, f"has {what} among the persistent leaves")

    def _copy(self, number: int, source: Value, leaf: Value, may_update: bool) -> None:
        self._check_intact(number, source)
        if source.type.nbytes != leaf.type.nbytes:
            self._fail(number, f"copies {source} onto {_name(leaf)!r}, which is {leaf.type}")
        if not may_update:
            self._fail(number, f"updates {_name(leaf)!r} before the loss is known")
        where = self.leaf_ranges[leaf]
        self._evict(number, where, None)
        self.written[leaf] = source

    def _check_intact(self, number: int, value: Value) -> None:
        if value not in self.owners:
            self._fail(number, f"reads {value}, whose bytes were overwritten or never written")

    def _claim(self, number: int, value: Value, where: Range) -> None:
        self._check_bounds(number, str(value), where)
        if where[0] % ALIGNMENT:
            self._fail(number, f"stores {value} at {where[0]}, no multiple of {ALIGNMENT}")
        if where[1] - where[0] < value.type.nbytes:
            self._fail(number, f"stores {value} in only {where[1] - where[0]:,} bytes")
        self._evict(number, where, value)
        self.owners[value] = where

    def _evict(self, number: int, where: Range, value: Value | None) -> None:
        evicted = [v for v, there in self.owners.items() if _overlap(where, there)]
        for other in evicted:
            if number < 0:
                self._fail(number, f"has {value} and {other} in the same bytes")
            del self.owners[other]

    def _check_end(self) -> None:
        schedule = self.entry.schedule
        end = len(schedule.steps)
        for value in schedule.graph.outputs.values():
            self._check_intact(end, _owner(value))
        leaves = schedule.graph.leaves()
        for leaf in self.leaf_ranges:
            update = schedule.graph.updates.get(_name(leaf), leaf)
            unchanged = leaves.get(_name(leaf)) is leaf and _owner(update) is leaf
            if unchanged and leaf not in self.owners:
                self._fail(end, f"leaf {_name(leaf)!r} was overwritten")
            if not unchanged and self.written.get(leaf) is not _owner(update):
                self._fail(end, f"leaf {_name(leaf)!r} does not hold its update")

    def _check_bounds(self, number: int, what: str, where: Range) -> None:
        if where[0] < 0 or where[1] > self.plan.arena_bytes:
            size = self.plan.arena_bytes
            self._fail(number, f"has {what} at {where}, outside of the arena of {size:,} bytes")

    def _range(self, number: int, value: Value) -> Range:
        persistent = isinstance(value.op, Leaf) and not _given(value)
        slots = self.entry.slots
        slot = self.plan.persistent.get(_name(value)) if persistent else slots.get(value)
        if slot is None:
            self._fail(number, f"uses {value}, which has no place")
        return slot.offset, slot.offset + slot.nbytes

    def _fail(self, number: int, problem: str) -> NoReturn:
        last = len(self.entry.schedule.steps)
        when = "the start" if number < 0 else "the end" if number == last else f"step {number}"
        raise GraphError(f"the memory plan is wrong: in {self.name!r}, {when} {problem}")


def _outside_reads(step: Step) -> Iterator[Value]:
    inside = {v for v in step.values if not isinstance(v.op, Leaf)}
    for value in step.values:
        operands = () if value.op.alias else value.inputs
        yield from (_owner(x) for x in operands if _owner(x) not in inside)
    yield from (_owner(source) for source, _ in step.copies)


def _owner(value: Value) -> Value:
    return _owner(value.inputs[0]) if value.op.alias else value


def _given(leaf: Value) -> bool:
    """Whether the caller writes it before each run."""
    return isinstance(leaf.op, Input) and not isinstance(leaf.op, Feature)


def _overlap(a: Range, b: Range) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[0] < a[1] and b[0] < b[1]


def _name(leaf: Value) -> str:
    assert isinstance(leaf.op, Leaf)
    return leaf.op.name
