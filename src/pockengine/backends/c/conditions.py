"""When the steps of a gated program run that may be left out, since closed gates alone need them.

    const int run_18 = open_3;              step 18 computes what changes behind gate 3 alone
    const int run_15 = run_16 | run_18;     step 15 computes what these steps read

Behind a closed gate everything stays as it is, so what would be computed for it is not missed.
"""

from collections import defaultdict
from dataclasses import dataclass

from pockengine.ir.graph import Gate
from pockengine.ir.op import Value
from pockengine.ir.schedule import Schedule, storage
from pockengine.ops.compare import Where


@dataclass(frozen=True)
class Condition:
    """A step runs if one of these gates is open, or one of these later steps runs."""

    gates: tuple[Value, ...]
    steps: tuple[int, ...]


def conditions(schedule: Schedule) -> dict[int, Condition]:
    """Of each step that may be left out, the last one first: a condition names later steps."""
    gates, unguarded = _guards(schedule)
    always = unguarded | set(map(storage, schedule.graph.outputs.values()))
    found: dict[int, Condition] = {}
    readers: defaultdict[Value, list[int]] = defaultdict(list)
    for number in reversed(range(len(schedule.steps))):
        step = schedule.steps[number]
        # A copy onto a leaf is guarded as the step that computes the value is.
        stored = dict.fromkeys(storage(v) for v in (*step.results, *(v for v, _ in step.copies)))
        opened = tuple(dict.fromkeys(gates[v] for v in stored if v in gates))
        later = tuple(sorted({n for v in stored for n in readers[v]}))
        skippable = not always & stored.keys() and all(n in found for n in later)
        if skippable and (opened or later):
            found[number] = Condition(opened, later)
        for value in step.reads:
            readers[value].append(number)
    return found


def _guards(schedule: Schedule) -> tuple[dict[Value, Value], set[Value]]:
    """The gate of each stored new value that, where it is closed, is the leaf's old content; and
    the new values that have none, or two.
    """
    leaves = schedule.graph.leaves()
    gates: dict[Value, Value] = {}
    unguarded: set[Value] = set()
    for name, new in schedule.graph.updates.items():
        gate = _gate(new, leaves[name])
        if gate is None or gates.setdefault(storage(new), gate) is not gate:
            unguarded.add(storage(new))
    return gates, unguarded


def _gate(new: Value, old: Value) -> Value | None:
    """The gate that chooses between new and old content; None where a share is put into the old
    one, which is not looked through.
    """
    if not isinstance(new.op, Where) or new.inputs[2] is not old:
        return None
    gate = storage(new.inputs[0])
    return gate if isinstance(gate.op, Gate) else None
