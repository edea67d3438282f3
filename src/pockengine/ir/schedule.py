"""A graph cut into steps: what fusion hands to the planner and to a back end.

    schedule = graph, steps in execution order
    step     = fused group of values, or copies onto leaves

A value is stored when a step lists it in `results`; leaves are always stored. An alias (reshape)
has no storage of its own, it has that of its owner. Everything else is computed inside a step,
wherever it is needed, and may be computed by several steps.

The new value of a Param or State is written over the old one by the step that stores it, unless a
step copies it there (`Schedule.in_place_updates`). `passes.reorder` decides and orders the steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from pockengine.errors import GraphError
from pockengine.ir.graph import Graph, Leaf
from pockengine.ir.op import Value


def storage(value: Value) -> Value:
    """The value whose bytes `value` has: itself, or the owner at the end of a chain of aliases."""
    while value.op.alias:
        value = value.inputs[0]
    return value


def updates_of(graph: Graph) -> frozenset[Value]:
    """The values whose bytes hold the new value of a Param or State."""
    return frozenset(map(storage, graph.updates.values()))


@dataclass(frozen=True, eq=False)
class Step:
    """One launch of native code: computes `values`, operands first, and stores `results`.

    `scratch` is the workspace in bytes, of all threads together, and `variant` the kernel's name
    where a back end has several, `measured` if it was chosen by measuring. `inplace` lists pairs
    (result, operand) for which the result may be written over the operand's bytes: element i of
    the result is computed from element i of the operand, both have the same size, and the step
    reads the operand in no other way. `copies` lists pairs (stored value, leaf); the bytes are
    copied onto the leaf after the values are computed.
    """

    values: tuple[Value, ...]
    results: tuple[Value, ...]
    scratch: int = 0
    inplace: tuple[tuple[Value, Value], ...] = ()
    copies: tuple[tuple[Value, Value], ...] = ()
    variant: str = ""
    measured: bool = False

    @property
    def reads(self) -> tuple[Value, ...]:
        """The stored values and leaves of other steps that it reads, each once."""
        computed = {v for v in self.values if not isinstance(v.op, Leaf)}
        needed = (storage(x) for v in self.values if not v.op.alias for x in v.inputs)
        outside = dict.fromkeys(x for x in needed if x not in computed)
        copied = dict.fromkeys(storage(source) for source, _ in self.copies)
        return tuple(outside | copied)


@dataclass(frozen=True, eq=False)
class Schedule:
    """A graph and the steps that compute its outputs and updates, in execution order."""

    graph: Graph
    steps: tuple[Step, ...]

    @cached_property
    def updates(self) -> frozenset[Value]:
        """See `updates_of`."""
        return updates_of(self.graph)

    def producers(self) -> dict[Value, int]:
        """For each stored value, the number of the step that stores it."""
        return {storage(v): i for i, step in enumerate(self.steps) for v in step.results}

    def loss_step(self) -> int:
        """The number of the step that stores the output `loss`; -1 when there is none."""
        loss = self.graph.outputs.get("loss")
        return -1 if loss is None else self.producers().get(storage(loss), -1)

    def in_place_updates(self) -> dict[Value, Value]:
        """For each stored value that is written straight into a Param or State, that leaf."""
        copied = {leaf for step in self.steps for _, leaf in step.copies}
        leaves = self.graph.leaves()
        pairs = ((storage(v), leaves[name]) for name, v in self.graph.updates.items())
        return {
            value: leaf
            for value, leaf in pairs
            if leaf not in copied and not isinstance(value.op, Leaf)
        }


def check_schedule(schedule: Schedule) -> Schedule:
    """Returns `schedule`, or raises GraphError at the first thing read before it is stored."""
    stored: set[Value] = set()
    for number, step in enumerate(schedule.steps):
        for value in step.reads:
            if value not in stored and not isinstance(value.op, Leaf):
                raise GraphError(f"step {number} reads {value}, which no earlier step stores")
        for value in map(storage, step.results):
            if value in stored:
                raise GraphError(f"step {number} stores {value}, which an earlier step stored")
            stored.add(value)
    for kind, name, value in _roots(schedule.graph):
        if storage(value) not in stored and not isinstance(storage(value).op, Leaf):
            raise GraphError(f"{kind} {name!r} is {value}, which no step stores")
    return schedule


def _roots(graph: Graph) -> Iterator[tuple[str, str, Value]]:
    yield from (("output", name, value) for name, value in graph.outputs.items())
    yield from (("update", name, value) for name, value in graph.updates.items())
