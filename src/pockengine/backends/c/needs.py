"""Which steps of a gated program may be left out, since they serve closed gates alone.

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
class Need:
    """What a step is computed for: gates, and later steps. One of them is enough."""

    gates: tuple[Value, ...]
    steps: tuple[int, ...]


def needs(schedule: Schedule) -> dict[int, Need]:
    """For each step that may be left out its need, the last step first."""
    gates, unguarded = _guards(schedule)
    always = unguarded | set(map(storage, schedule.graph.outputs.values()))
    found: dict[int, Need] = {}
    readers: defaultdict[Value, list[int]] = defaultdict(list)
    for number in reversed(range(len(schedule.steps))):
        step = schedule.steps[number]
        made = dict.fromkeys(storage(v) for v in (*step.results, *(v for v, _ in step.copies)))
        later = sorted({n for v in made for n in readers[v]})
        opened = tuple(dict.fromkeys(gates[v] for v in made if v in gates))
        known = all(n in found for n in later) and not always & made.keys()
        if known and (opened or later):
            found[number] = Need(opened, tuple(later))
        for value in step.reads:
            readers[value].append(number)
    return found


def _guards(schedule: Schedule) -> tuple[dict[Value, Value], set[Value]]:
    """Stored new values of leaves: with the gate that, closed, makes them the old content; and
    those that nothing guards.
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
    """The gate of a leaf that is trained whole; a share of one may always change."""
    if not isinstance(new.op, Where) or new.inputs[2] is not old:
        return None
    gate = storage(new.inputs[0])
    return gate if isinstance(gate.op, Gate) else None
