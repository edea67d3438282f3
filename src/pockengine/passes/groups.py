"""Which values are computed together: groups, each one step.

Groups are numbered in the order in which they are made, and a value only ever joins the group of
its latest operand. So every operand of a group comes from the same group or an earlier one: running
groups in that order is correct, and no cycle can appear.

What is virtual is computed inside each step that reads it, and never stored: scalars, index
patterns, data movement with a single elementwise reader, and weights whose panels all readers take.

Sums, means and variances of the columns of what a group computes ride in that group: they take each
row while it is there. Nobody in the group can read them: they are known only after the last row.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod

from pockengine.ir.graph import Graph, Input, Leaf
from pockengine.ir.op import Value, moves_data
from pockengine.ir.schedule import storage
from pockengine.ir.types import Shape
from pockengine.ops.bits import PackBits, UnpackBits
from pockengine.ops.constant import Full
from pockengine.ops.index import Take
from pockengine.ops.norm import BatchMean, BatchVariance
from pockengine.ops.panels import FromPanels, takes_panels
from pockengine.ops.precision import FromBF16
from pockengine.ops.reduce import Sum

WIDEST = 4096  # columns of what rides: each part of a step has totals of its own

RowLength = Callable[[Value], int | None]
"""Elements a row of a kernel's result, if the back end computes it by whole rows; else None."""


def boundaries(shape: Shape) -> frozenset[int]:
    """The flat strides at which an index of `shape` turns over: suffix products, ends left out."""
    products, total = set(), 1
    for dim in reversed(shape):
        total *= dim
        products.add(total)
    return frozenset(p for p in products if 1 < p < total)


def is_view(value: Value) -> bool:
    """Whether any element of the value can be loaded by its index from what it is made of."""
    return moves_data(value.op) or isinstance(value.op, (Take, UnpackBits))


def columns_of(value: Value) -> int | None:
    """The number of columns, if `value` is made of each column of its operand; else None."""
    if not isinstance(value.op, (Sum, BatchMean, BatchVariance)) or value.dtype != "f32":
        return None
    x = value.inputs[0]
    rows = max((a + 1 for a in value.op.axes if x.shape[a] > 1), default=0)
    columns = prod(x.shape[rows:])
    whole = all(a in value.op.axes or x.shape[a] == 1 for a in range(rows))
    return columns if whole and rows and 1 < columns <= WIDEST else None


def is_statistic(value: Value) -> bool:
    """Whether it reads rows once more when they have been stored, so as to centre them."""
    return isinstance(value.op, (BatchMean, BatchVariance))


def riders(values: Iterable[Value]) -> list[Value]:
    """The values of a step that are made of the columns of another one."""
    inside = dict.fromkeys(values)
    return [v for v in inside if columns_of(v) and storage(v.inputs[0]) in inside]


def splits(value: Value) -> frozenset[int]:
    """The boundaries that `value` needs in the loop that computes it; bits need none."""
    if columns := columns_of(value):
        return frozenset({columns})
    if isinstance(value.op, (UnpackBits, Full)):
        return frozenset()
    if is_view(value):
        return boundaries(value.shape)
    same = all(storage(v).type.size == value.type.size for v in value.inputs)
    return frozenset() if same else boundaries(value.shape)


@dataclass
class Group:
    """The values of one step; `space` is the flat size of its loop, `cuts` its boundaries."""

    index: int
    space: int
    cuts: frozenset[int]
    open: bool  # whether elementwise values may join
    row: int | None  # elements a row of its kernel
    values: list[Value] = field(default_factory=list)


class Grouping:
    """Puts the values of a graph into groups, one after the other."""

    def __init__(self, graph: Graph, row_length: RowLength) -> None:
        self.row_length = row_length
        self.users = graph.users()
        self.kept = {storage(v) for v in (*graph.outputs.values(), *graph.updates.values())}
        self.groups: list[Group] = []
        self.group_of: dict[Value, Group] = {}
        self.position = {value: i for i, value in enumerate(_weights_first(graph))}
        for value in self.position:
            self.place(value)

    def place(self, value: Value) -> None:
        """Puts a value into the group of its latest operand where possible, else a new one."""
        if isinstance(value.op, Leaf) or value.op.alias or self._virtual(value):
            return
        group = self._latest(value)
        if group is None or isinstance(value.op, FromBF16) or not self._joins(value, group):
            group = self._new_group(value)
        group.values.append(value)
        group.cuts |= self.cuts_of(value)
        self.group_of[value] = group

    def _virtual(self, value: Value) -> bool:
        if isinstance(value.op, FromBF16):
            return self._widened_in_loops(value)
        if value in self.kept or not is_view(value):
            return False
        if not value.inputs:
            return all(is_loop(u) for u in self.users[value])
        if isinstance(value.op, FromPanels):
            return self._read_in_panels(value)
        readers = self.users[value]
        return len(readers) == 1 and readers[0].op.elementwise and _same_size(value, readers[0])

    def _read_in_panels(self, value: Value) -> bool:
        return all(
            self._read_in_panels(user) if user.op.alias else takes_panels(user, value)
            for user in self.users[value]
        )

    def _widened_in_loops(self, value: Value) -> bool:
        """Whether all that read a stored bf16 so are loops over the same elements."""
        owner = storage(value.inputs[0])
        return (
            value not in self.kept
            and (owner in self.group_of or isinstance(owner.op, Leaf))
            and all(u.op.elementwise and _same_size(value, u) for u in self.users[value])
        )

    def stored_operands(self, value: Value) -> list[tuple[Value, bool]]:
        """The stored values that computing `value` reads, and whether index by index."""
        found: list[tuple[Value, bool]] = []
        for operand in value.inputs:
            owner = storage(operand)
            if owner in self.group_of:
                found.append((owner, reads_pointwise(value)))
            elif not isinstance(owner.op, Leaf):
                found += [(inner, False) for inner, _ in self.stored_operands(owner)]
        return found

    def _latest(self, value: Value) -> Group | None:
        groups = [self.group_of[v] for v, _ in self.stored_operands(value)]
        return max(groups, key=lambda g: g.index, default=None)

    def _joins(self, value: Value, group: Group) -> bool:
        if not (reads_pointwise(value) and self.fits(value, group)):
            return False
        inside = [p for v, p in self.stored_operands(value) if self.group_of[v] is group]
        aligned = all(inside) and all(
            storage(v).type.size == group.space
            for v in value.inputs
            if self.group_of.get(storage(v)) is group
        )
        return aligned

    def fits(self, value: Value, group: Group) -> bool:
        """Whether a loop over the group's space can compute the value too."""
        cuts = group.cuts | self.cuts_of(value)
        return (
            group.open
            and self.space_of(value) == group.space
            and is_chain(cuts, group.space)
            and not (is_statistic(value) and (group.row or 0) % (columns_of(value) or 1))
            and packs_whole_bytes([*group.values, value], cuts)
        )

    def readers(self, value: Value) -> list[Value]:
        """The placed values that read a value's bytes, through reshapes and virtual values."""
        found: dict[Value, None] = {}
        pending = list(self.users[value])
        while pending:
            user = pending.pop()
            if user in self.group_of:
                found[user] = None
            else:
                pending += self.users[user]
        return list(found)

    def cuts_of(self, value: Value) -> frozenset[int]:
        """The boundaries of a value and of the virtual operands that are computed with it.

        An operand that is broadcast adds none: the value itself is cut wherever its shape turns
        over.
        """
        inputs = value.inputs if is_loop(value) else ()
        virtual = [v for v in inputs if v not in self.group_of and is_view(v)]
        whole = [v for v in virtual if v.type.size == self.space_of(value)]
        return splits(value).union(*map(splits, whole))

    @staticmethod
    def space_of(value: Value) -> int:
        """The elements of a loop that computes the value."""
        reduces = isinstance(value.op, PackBits) or columns_of(value)
        return value.inputs[0].type.size if reduces else value.type.size

    def _new_group(self, value: Value) -> Group:
        loop = is_loop(value)
        row = None if loop else self.row_length(value)
        cuts = frozenset({row} - {value.type.size}) if row else frozenset()
        space = self.space_of(value) if loop else value.type.size
        group = Group(len(self.groups), space, cuts, loop or row is not None, row)
        self.groups.append(group)
        return group


def _weights_first(graph: Graph) -> list[Value]:
    """The values in an order that has those that no input reaches first.

    Otherwise a product with a small number made of weights would seem to come late, and would not
    join the kernel whose result it scales.
    """
    reached: set[Value] = set()
    for value in graph.values():
        if isinstance(value.op, Input) or any(v in reached for v in value.inputs):
            reached.add(value)
    return sorted(graph.values(), key=lambda v: v in reached)


def is_pointwise(value: Value) -> bool:
    """Whether each element is computed from the operands' elements at the same index."""
    return value.op.elementwise or isinstance(value.op, PackBits)


def reads_pointwise(value: Value) -> bool:
    """Whether a loop that has the operands' elements can go on to compute the value."""
    return is_pointwise(value) or columns_of(value) is not None


def is_loop(value: Value) -> bool:
    return value.op.elementwise or is_view(value) or isinstance(value.op, PackBits)


def _same_size(value: Value, reader: Value) -> bool:
    return reader.type.size == value.type.size


def is_chain(cuts: frozenset[int], space: int) -> bool:
    ordered = [*sorted(cuts), space]
    return all(outer % inner == 0 for inner, outer in pairwise(ordered))


def packs_whole_bytes(values: list[Value], cuts: frozenset[int]) -> bool:
    """Whether bits can be packed in this loop: every row must start at a whole byte."""
    packed = any(isinstance(v.op, PackBits) for v in values)
    return not packed or all(cut % 8 == 0 for cut in cuts)
