"""Which steps of a gated program may be left out, since they serve closed gates alone.

    const int run_18 = open_3;              step 18 computes what changes behind gate 3 alone
    const int run_15 = run_16 | run_18;     step 15 computes what these steps read

Behind a closed gate everything stays as it is, so what would be computed for it is not missed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pockengine.ir.graph import Gate
from pockengine.ir.op import Value
from pockengine.ir.schedule import Schedule, storage
from pockengine.ops.compare import Where
from pockengine.ops.index import Put, Take


@dataclass(frozen=True)
class Need:
    """What a step is computed for: gates, and later steps. One of them is enough."""

    gates: tuple[Value, ...]
    steps: tuple[int, ...]


def needs(schedule: Schedule) -> dict[int, Need]:
    """For each step that may be left out its need, the last step first."""
    gates = _gates(schedule)
    always = set(map(storage, schedule.graph.outputs.values()))
    always |= {value for value, behind in gates.items() if None in behind}
    found: dict[int, Need] = {}
    readers: dict[Value, list[int]] = {}
    for number in reversed(range(len(schedule.steps))):
        step = schedule.steps[number]
        made = dict.fromkeys(storage(v) for v in (*step.results, *(v for v, _ in step.copies)))
        later = sorted({n for v in made for n in readers.get(v, ())})
        if not always & made.keys() and all(n in found for n in later):
            opened = dict.fromkeys(gate for v in made for gate in gates.get(v, ()) if gate)
            found[number] = Need(tuple(opened), tuple(later))
        for value in step.reads:
            readers.setdefault(value, []).append(number)
    return found


def _gates(schedule: Schedule) -> Mapping[Value, list[Value | None]]:
    """For each stored new value of a leaf the gate behind which it is the old one; None: none."""
    leaves = schedule.graph.leaves()
    found: dict[Value, list[Value | None]] = {}
    for name, new in schedule.graph.updates.items():
        found.setdefault(storage(new), []).append(_gate(new, leaves[name]))
    return found


def _gate(new: Value, old: Value) -> Value | None:
    if isinstance(new.op, Put) and new.inputs[0] is old:
        new = new.inputs[1]
    if not isinstance(new.op, Where):
        return None
    gate, _, kept = new.inputs
    kept = kept.inputs[0] if isinstance(kept.op, Take) else kept
    return storage(gate) if isinstance(storage(gate).op, Gate) and kept is old else None
