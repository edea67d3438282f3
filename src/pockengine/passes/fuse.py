"""Groups a graph into steps: a kernel with the elementwise work behind it, or one loop over elements.

    Conv -> Add(bias) -> Clip -> Greater   becomes one step: the kernel computes a block of rows, and the
                                           loop behind it runs while the block is in the cache

Groups are numbered in the order in which they are made, and a value only ever joins the group of its
latest operand. So every operand of a group comes from the same group or an earlier one: running groups
in that order is correct, and no cycle can appear.

What is virtual is computed inside each step that reads it, and never stored: scalars, index patterns,
and data movement with a single elementwise reader.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from pockengine.ir.graph import Graph, Leaf
from pockengine.ir.op import Value, moves_data
from pockengine.ir.schedule import Schedule, Step, storage
from pockengine.ir.types import NUMPY, Shape
from pockengine.ops.bits import PackBits, UnpackBits
from pockengine.ops.constant import Full
from pockengine.ops.index import Put, Take

RowLength = Callable[[Value], int | None]
"""Elements a row of a kernel's result, if the back end computes it by whole rows; else None."""


def no_rows(value: Value) -> int | None:
    """For a back end that runs nothing behind a kernel."""
    return None


def fuse(graph: Graph, row_length: RowLength = no_rows) -> Schedule:
    """The schedule of `graph`, one step a group, in an order that is correct but not yet good."""
    grouping = _Grouping(graph, row_length)
    for value in grouping.users:
        grouping.place(value)
    groups = [g for g in grouping.groups if g.values]
    return Schedule(graph, tuple(grouping.step(group) for group in groups))


def boundaries(shape: Shape) -> frozenset[int]:
    """The flat strides at which an index of `shape` turns over: its suffix products, ends left out."""
    products, total = set(), 1
    for dim in reversed(shape):
        total *= dim
        products.add(total)
    return frozenset(p for p in products if 1 < p < total)


def is_view(value: Value) -> bool:
    """Whether any element of the value can be loaded by its index from what it is made of."""
    return moves_data(value.op) or isinstance(value.op, (Take, UnpackBits))


def splits(value: Value) -> frozenset[int]:
    """The boundaries that `value` needs in the loop that computes it; bits need none."""
    if isinstance(value.op, (UnpackBits, Full)):
        return frozenset()
    if is_view(value):
        return boundaries(value.shape)
    same = all(storage(v).type.size == value.type.size for v in value.inputs)
    return frozenset() if same else boundaries(value.shape)


@dataclass
class _Group:
    """The values of one step; `space` is the flat size of its loop, `cuts` the boundaries in use."""

    index: int
    space: int
    cuts: frozenset[int]
    open: bool  # whether elementwise values may join
    values: list[Value] = field(default_factory=list)


class _Grouping:
    def __init__(self, graph: Graph, row_length: RowLength) -> None:
        self.row_length = row_length
        self.users = graph.users()
        self.kept = {storage(v) for v in (*graph.outputs.values(), *graph.updates.values())}
        self.updates = {storage(v) for v in graph.updates.values()}
        self.groups: list[_Group] = []
        self.group_of: dict[Value, _Group] = {}

    def place(self, value: Value) -> None:
        """Puts a value into the group of its latest operand where that is possible, else a new one."""
        if isinstance(value.op, Leaf) or value.op.alias or self._virtual(value):
            return
        group = self._latest(value)
        if group is None or not self._joins(value, group):
            group = self._new_group(value)
        group.values.append(value)
        group.cuts |= self._cuts(value)
        self.group_of[value] = group

    def _virtual(self, value: Value) -> bool:
        if value in self.kept or not is_view(value):
            return False
        if not value.inputs:
            return all(_is_loop(u) for u in self.users[value])
        readers = self.users[value]
        return len(readers) == 1 and readers[0].op.elementwise and _same_size(value, readers[0])

    def _stored_operands(self, value: Value) -> list[tuple[Value, bool]]:
        """The stored values that computing `value` reads, with whether it reads them index by index."""
        found: list[tuple[Value, bool]] = []
        for operand in value.inputs:
            owner = storage(operand)
            if owner in self.group_of:
                found.append((owner, value.op.elementwise or isinstance(value.op, PackBits)))
            elif not isinstance(owner.op, Leaf):
                found += [(inner, False) for inner, _ in self._stored_operands(owner)]
        return found

    def _latest(self, value: Value) -> _Group | None:
        groups = [self.group_of[v] for v, _ in self._stored_operands(value)]
        return max(groups, key=lambda g: g.index, default=None)

    def _joins(self, value: Value, group: _Group) -> bool:
        pointwise = value.op.elementwise or isinstance(value.op, PackBits)
        if not (group.open and pointwise and self._space(value) == group.space):
            return False
        inside = [p for v, p in self._stored_operands(value) if self.group_of[v] is group]
        aligned = all(inside) and all(
            storage(v).type.size == group.space
            for v in value.inputs
            if self.group_of.get(storage(v)) is group
        )
        cuts = group.cuts | self._cuts(value)
        return aligned and _chain(cuts, group.space) and _packs([*group.values, value], cuts)

    def _cuts(self, value: Value) -> frozenset[int]:
        """The boundaries of a value and of the virtual operands that are computed with it.

        An operand that is broadcast adds none: the value itself is cut wherever its shape turns over.
        """
        virtual = [v for v in value.inputs if v not in self.group_of and is_view(v)]
        whole = [v for v in virtual if v.type.size == self._space(value)]
        return splits(value).union(*map(splits, whole))

    @staticmethod
    def _space(value: Value) -> int:
        return value.inputs[0].type.size if isinstance(value.op, PackBits) else value.type.size

    def _new_group(self, value: Value) -> _Group:
        loop = _is_loop(value)
        row = None if loop else self.row_length(value)
        cuts = frozenset({row} - {value.type.size}) if row else frozenset()
        group = _Group(len(self.groups), self._space(value), cuts, loop or row is not None)
        self.groups.append(group)
        return group

    def step(self, group: _Group) -> Step:
        """The step of a group: its values, those that must be stored, and what may be overwritten."""
        own = set(group.values)
        results = tuple(v for v in group.values if v in self.kept or self._read_outside(v, own))
        anchor = anchor_of(group.values)
        landing = landing_of(anchor, results, self.updates)
        if anchor and not landing:
            results, landing = (anchor, *results), anchor
        values = (*self._virtual_operands(group.values), *group.values)
        return Step(values, results, inplace=_inplace(group, values, results, landing))

    def _read_outside(self, value: Value, own: set[Value]) -> bool:
        pending = list(self.users[value])
        while pending:
            user = pending.pop()
            if user.op.alias or (user not in self.group_of and user not in own):
                pending += self.users[user]  # through aliases and virtual values
            elif user not in own:
                return True
        return False

    def _virtual_operands(self, values: list[Value]) -> list[Value]:
        """Virtual values and aliases that the step computes for itself, operands first."""
        found: dict[Value, None] = {}
        for value in values:
            for operand in value.inputs:
                self._collect_virtual(operand, found)
        return list(found)

    def _collect_virtual(self, value: Value, found: dict[Value, None]) -> None:
        owner = storage(value)
        if owner in self.group_of or isinstance(owner.op, Leaf) or owner in found:
            return
        for operand in owner.inputs:
            self._collect_virtual(operand, found)
        found[owner] = None


def _is_loop(value: Value) -> bool:
    return value.op.elementwise or is_view(value) or isinstance(value.op, PackBits)


def _same_size(value: Value, reader: Value) -> bool:
    return reader.type.size == value.type.size


def _chain(cuts: frozenset[int], space: int) -> bool:
    ordered = [*sorted(cuts), space]
    return all(outer % inner == 0 for inner, outer in pairwise(ordered))


def _packs(values: list[Value], cuts: frozenset[int]) -> bool:
    """Whether bits can be packed in this loop: every row must start at a whole byte."""
    packed = any(isinstance(v.op, PackBits) for v in values)
    return not packed or all(cut % 8 == 0 for cut in cuts)


def _inplace(
    group: _Group, values: tuple[Value, ...], results: tuple[Value, ...], landing: Value | None
) -> tuple[tuple[Value, Value], ...]:
    """Results that may take over an operand's bytes: read at the same index only, same item size."""
    if isinstance(group.values[0].op, Put):
        return ((group.values[0], storage(group.values[0].inputs[0])),)
    if not group.open:
        return ()
    pairs = []
    blocked = _read_elsewhere(values)
    for result in results:
        for value in group.values:
            for operand in map(storage, value.inputs):
                if operand in group.values or operand in blocked or not value.op.elementwise:
                    continue
                if operand.type.size == result.type.size and _itemsize(operand) == _itemsize(result):
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
    return next((v for v in values if not _is_loop(v)), None)


def landing_of(
    anchor: Value | None, results: tuple[Value, ...], updates: Iterable[Value]
) -> Value | None:
    """The result whose bytes take the kernel's raw rows, before the loop behind overwrites them.

    Not one that is written over a leaf: the loop still reads the leaf's old content.
    """
    if anchor is None or anchor in results:
        return anchor
    fits = (r for r in results if r.type.size == anchor.type.size and r.dtype == anchor.dtype)
    return next((r for r in fits if r not in updates), None)


def _itemsize(value: Value) -> int:
    return NUMPY[value.dtype].itemsize
