"""When each stored value is alive, in steps.

step:    -1 | 0 | 1 | 2 | 3
x         =   =                 an input, read last by step 0
a             =   =   =         stored by step 0, read last by step 2
logits                =   =     stored by step 2, an output: alive until after the last step
"""

from dataclasses import dataclass

from pockengine.ir.graph import persists
from pockengine.ir.op import Value
from pockengine.ir.schedule import Schedule, storage

BEFORE = -1  # the time at which the caller writes the inputs


@dataclass(frozen=True, slots=True)
class Lifetime:
    """The steps from the one that stores a value to the one that reads it last, both included."""

    first: int
    last: int


def lifetimes(schedule: Schedule) -> dict[Value, Lifetime]:
    """The lifetime of each input and each stored value; what persists has none.

    Values are in the order in which they are stored. One that is written straight into a leaf is
    left out: it lives where the leaf does.
    """
    after = len(schedule.steps)
    in_place = schedule.in_place_updates()
    first = {value: BEFORE for value in schedule.graph.inputs if not persists(value.op)}
    first |= {v: i for v, i in schedule.producers().items() if v not in in_place}
    last = dict(first)
    for number, step in enumerate(schedule.steps):
        last |= {value: number for value in step.reads if value in first}
    last |= {v: after for v in map(storage, schedule.graph.outputs.values()) if v in first}
    return {value: Lifetime(start, last[value]) for value, start in first.items()}
