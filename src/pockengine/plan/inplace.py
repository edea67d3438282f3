"""Which results take over the bytes of an operand.

    y = relu(x), and nobody reads x later      y is written over x: one buffer, alive from x to y

An update that the schedule does not copy is written over its leaf. Otherwise a result takes over
the first of the operands that its step allows and that dies in that step; never a Param, State or
Const.
"""

from collections.abc import Mapping

from pockengine.ir.op import Value
from pockengine.ir.schedule import Schedule, storage
from pockengine.plan.lifetimes import Lifetime


def hosts(schedule: Schedule, lives: Mapping[Value, Lifetime]) -> dict[Value, Value]:
    """For each value of `lives` the one whose place it has: itself, or the first of a chain."""
    host = {value: value for value in lives}
    for number, step in enumerate(schedule.steps):
        taken: set[Value] = set()
        for result, operand in ((storage(r), storage(x)) for r, x in step.inplace):
            free = operand in lives and lives[operand].last == number and operand not in taken
            if free and result in lives and host[result] is result:
                host[result] = host[operand]
                taken.add(operand)
    return host
