"""Groups a graph into steps: a kernel with the elementwise work behind it, or one loop.

    Conv -> Add(bias) -> Clip -> Greater   becomes one step: the kernel computes a block of rows,
                                           and the loop behind it runs while they are in the cache
    MatMul -> Where(mask, 0) -> Sum(rows)  and so does this: the loop adds the rows up on its way

passes/groups.py decides what is computed together, passes/sink.py what is rather computed again
than stored; here the groups become steps.
"""

from collections.abc import Iterable, Set

from pockengine.ir.graph import Graph, Leaf
from pockengine.ir.op import Value
from pockengine.ir.schedule import Schedule, Step, storage, updates_of
from pockengine.ir.types import NUMPY
from pockengine.ops.index import Put
from pockengine.passes.groups import Group, Grouping, RowLength, is_loop, is_statistic, riders
from pockengine.passes.sink import sink


def no_rows(value: Value) -> int | None:
    """For a back end that runs nothing behind a kernel."""
    return None


def fuse(graph: Graph, row_length: RowLength = no_rows) -> Schedule:
    """The schedule of `graph`, one step a group, in an order that is correct but not yet good."""
    grouping = Grouping(graph, row_length)
    sink(grouping)
    steps = _Steps(grouping, updates_of(graph))
    return Schedule(graph, tuple(steps.step(group) for group in grouping.groups if group.values))


class _Steps:
    """Makes a step of each group."""

    def __init__(self, grouping: Grouping, updates: Set[Value]) -> None:
        self.grouping, self.updates = grouping, updates
        self.computed: dict[Value, list[Group]] = {}
        for group in grouping.groups:
            for value in group.values:
                self.computed.setdefault(value, []).append(group)

    def step(self, group: Group) -> Step:
        """The step of a group: its values, those to be stored, and what may be overwritten."""
        results = tuple(v for v in group.values if self._is_stored(v, group))
        anchor = anchor_of(group.values)
        landing = landing_of(anchor, results, self.updates)
        values = (*self._virtual_operands(group.values), *group.values)
        return Step(values, results, inplace=_inplace(group, values, results, landing))

    def _is_stored(self, value: Value, group: Group) -> bool:
        """Stored by its own group, and only for who does not compute it, or reads whole blocks."""
        if self.grouping.group_of[value] is not group:
            return False
        return value in self.grouping.kept or any(
            value not in reader.values or is_statistic(user)
            for user in self.grouping.readers(value)
            for reader in self.computed[user]
        )

    def _virtual_operands(self, values: list[Value]) -> list[Value]:
        """Virtual values and aliases that the step computes for itself, operands first."""
        found: dict[Value, None] = {}
        for value in values:
            for operand in value.inputs:
                self._collect_virtual(operand, found)
        return list(found)

    def _collect_virtual(self, value: Value, found: dict[Value, None]) -> None:
        owner = storage(value)
        if owner in self.grouping.group_of or isinstance(owner.op, Leaf) or owner in found:
            return
        for operand in owner.inputs:
            self._collect_virtual(operand, found)
        found[owner] = None


def _inplace(
    group: Group, values: tuple[Value, ...], results: tuple[Value, ...], landing: Value | None
) -> tuple[tuple[Value, Value], ...]:
    """Results that may take over an operand's bytes: of one size, read at the same index only."""
    if isinstance(group.values[0].op, Put):
        return ((group.values[0], storage(group.values[0].inputs[0])),)
    if not group.open:
        return ()
    pairs = []
    blocked = _read_elsewhere(values)
    riding = riders(values)
    for result in (r for r in results if r not in riding):
        for value in group.values:
            for operand in map(storage, value.inputs):
                if operand in group.values or operand in blocked or not value.op.elementwise:
                    continue
                if operand.type.size == result.type.size and _itemsize(operand) == _itemsize(
                    result
                ):
                    pairs.append((result, operand))
    return tuple(dict.fromkeys(p for p in pairs if p[0] is not landing))


def _read_elsewhere(values: tuple[Value, ...]) -> set[Value]:
    """Operands that some value of a step, virtual or not, does not read at its own index."""
    return {
        storage(operand)
        for value in values
        for operand in value.inputs
        if not value.op.elementwise or storage(operand).type.size != value.type.size
    }


def anchor_of(values: Iterable[Value]) -> Value | None:
    """The value of a step that a kernel computes, if there is one."""
    values = tuple(values)
    riding = riders(values)
    return next((v for v in values if not is_loop(v) and v not in riding), None)


def landing_of(
    anchor: Value | None, results: tuple[Value, ...], updates: Set[Value]
) -> Value | None:
    """The result whose bytes take the kernel's raw rows, before the loop behind overwrites them.

    Not one that is written over a leaf: the loop still reads the leaf's old content. Where there is
    none, the back end finds a place for the rows.
    """
    if anchor is None or anchor in results:
        return anchor
    fits = (r for r in results if r.type.size == anchor.type.size and r.dtype == anchor.dtype)
    return next((r for r in fits if r not in updates), None)


def _itemsize(value: Value) -> int:
    return NUMPY[value.dtype].itemsize
