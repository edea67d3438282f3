"""Moves elementwise work to where it is read, and repeats it there rather than keep its result.

    1. t = m * 0.9 alone, m' = t + g behind a product   ->  both behind it: t is never stored
    2. s = sigmoid(x) read in the forward and in the
       backward pass, x being kept anyway               ->  s is computed twice and never stored

A move must not make more bytes live longer than it saves. A value is repeated only where all that
it is computed from is there anyway.
"""

from pockengine.ir.op import Value
from pockengine.passes.groups import (
    Group,
    Grouping,
    is_chain,
    is_pointwise,
    is_statistic,
    packs_whole_bytes,
    riders,
)

DEPTH = 6  # elementwise operations that are repeated for one value, one behind the other


def sink(grouping: Grouping) -> None:
    """Changes the groups in place, last ones first, so that a chain of values moves as a whole."""
    mover = _Sink(grouping)
    for group in reversed(grouping.groups):
        for value in reversed(tuple(group.values)):
            mover.settle(value, group)


class _Sink:
    def __init__(self, grouping: Grouping) -> None:
        self.grouping = grouping
        self.computed: dict[Value, list[Group]] = {
            value: [group] for value, group in grouping.group_of.items()
        }

    def settle(self, value: Value, home: Group) -> None:
        """Moves the value to its only readers, or repeats it in all groups that read it."""
        if not value.op.elementwise or value in self.grouping.kept:
            return
        groups = self.reading_groups(value)
        elsewhere = [g for g in groups if g is not home and value not in g.values]
        if not elsewhere or not self.read_pointwise(value):
            return
        if len(groups) == 1 and self.pays(value, elsewhere[0]):
            home.values.remove(value)
            self.computed[value].remove(home)
            self.grouping.group_of[value] = elsewhere[0]
            self.add([value], elsewhere[0])
            return
        chains = [self.chain(value, group, DEPTH) for group in elsewhere]
        if all(chains) and all(map(self.fit_together, chains, elsewhere)):
            for chain, group in zip(chains, elsewhere, strict=True):
                self.add(chain, group)

    def add(self, values: list[Value], group: Group) -> None:
        for value in values:
            if value not in group.values:
                group.values.append(value)
                group.cuts |= self.grouping.cuts_of(value)
                self.computed[value].append(group)
        group.values.sort(key=self.grouping.position.__getitem__)

    def fit_together(self, values: list[Value], group: Group) -> bool:
        cuts = group.cuts.union(*map(self.grouping.cuts_of, values))
        together = [*group.values, *values]
        whole = is_chain(cuts, group.space) and packs_whole_bytes(together, cuts)
        return whole and self.locals_only(together)

    def locals_only(self, values: list[Value]) -> bool:
        """Whether none reads another but at its own index: a local has no other element."""
        together = set(values)
        return all(
            pointwise or operand not in together
            for value in together
            for operand, pointwise in self.grouping.stored_operands(value)
        )

    def reading_groups(self, value: Value) -> list[Group]:
        """The groups that read a value, each once."""
        users = self.grouping.readers(value)
        found = {group.index: group for user in users for group in self.computed[user]}
        return list(found.values())

    def read_pointwise(self, value: Value) -> bool:
        """Whether every reader takes the element at its own index, so that it may be a local."""
        pending = list(self.grouping.users[value])
        while pending:
            user = pending.pop()
            if user.op.alias:
                pending += self.grouping.users[user]
            elif not self.reads_rows(user) or self.grouping.space_of(user) != value.type.size:
                return False
        return True

    def reads_rows(self, user: Value) -> bool:
        """Whether a loop that computes an operand of `user` goes on with its elements."""
        group = self.grouping.group_of.get(user)
        rides = group is not None and user in riders(group.values)
        return is_pointwise(user) or (rides and not is_statistic(user))

    def pays(self, value: Value, group: Group) -> bool:
        """Whether the group can compute the value, and keeps no more bytes alive by it."""
        if not (self.grouping.fits(value, group) and self.locals_only([*group.values, value])):
            return False
        operands = {v for v, _ in self.grouping.stored_operands(value)}
        kept = sum(v.type.nbytes for v in operands if not self.is_there(v, group, value))
        return kept <= value.type.nbytes

    def is_there(self, operand: Value, group: Group, besides: Value) -> bool:
        """Whether a stored value is alive at a group even if `besides` did not read it."""
        if operand in self.grouping.kept:
            return True
        users = [u for u in self.grouping.readers(operand) if u is not besides]
        return any(
            g.index >= group.index and operand not in g.values
            for user in users
            for g in self.computed[user]
        )

    def chain(self, value: Value, group: Group, depth: int) -> list[Value]:
        """What the group must compute to have the value without storing it; [] if it cannot."""
        if not value.op.elementwise or not self.grouping.fits(value, group):
            return []
        found: list[Value] = []
        for operand in dict.fromkeys(v for v, _ in self.grouping.stored_operands(value)):
            if operand in group.values or self.is_there(operand, group, value):
                continue
            more = self.chain(operand, group, depth - 1) if depth else []
            if not more:
                return []
            found += more
        return [*found, value]
