"""Orders the steps of a schedule so that few bytes are alive at a time, and places the updates.

    x0 x1 x2 loss g2 g1 g0 w2' w1' w0'     all gradients live at once
    x0 x1 x2 loss g2 w2' g1 w1' g0 w0'     each weight is updated as soon as its gradient exists

An update is written over its leaf once every reader of the old content has run, and never before
the loss is known: when the loss is not a number, the caller stops there and no weight has changed.
An update that cannot be written so is stored apart and copied later by a step of its own.

No order is the best for every graph, so a few are made and the one with the smallest peak is taken.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from pockengine.errors import GraphError
from pockengine.ir.graph import Graph, Leaf, persists
from pockengine.ir.op import Value
from pockengine.ir.schedule import Schedule, Step, check_schedule, storage

Order = list[int]
Key = Callable[[int, Sequence[int]], tuple[int, ...]]  # (step, readers left of each block) -> rank


def reorder(schedule: Schedule) -> Schedule:
    """The same steps, with copies for the updates that need one, in the best order that was found.

    Raises GraphError when a step reads what no earlier one stores, when an output is the old
    content of an updated leaf, or when updates exchange the contents of leaves.
    """
    check_schedule(schedule)
    _check_outputs(schedule.graph)
    candidates = ((net, order) for net in _networks(schedule) for order in _orders(net))
    net, order = min(candidates, key=lambda candidate: candidate[0].peak(candidate[1]))
    return replace(schedule, steps=tuple(net.steps[i] for i in order))


def _check_outputs(graph: Graph) -> None:
    leaves = graph.leaves()
    updated = {leaves[k] for k, v in graph.updates.items() if storage(v) is not leaves[k]}
    for name, value in graph.outputs.items():
        if storage(value) in updated:
            raise GraphError(
                f"output {name!r} is the old content of {storage(value).op}, which the step "
                "overwrites; return a value computed from it"
            )


# The network: steps and the blocks of bytes between them, by number.


@dataclass
class _Network:
    """Which blocks each step reads and writes, and which steps must run before and after it."""

    steps: list[Step]
    sizes: list[int] = field(default_factory=list)  # of each block
    readers: list[list[int]] = field(default_factory=list)  # of each block
    given: list[int] = field(default_factory=list)  # blocks alive from the start
    kept: set[int] = field(default_factory=set)  # blocks alive to the end
    reads: list[list[int]] = field(default_factory=list)  # of each step, and so on
    writes: list[list[int]] = field(default_factory=list)
    takes: list[list[tuple[int, int]]] = field(default_factory=list)  # (written, read) may share
    before: list[list[int]] = field(default_factory=list)
    after: list[list[int]] = field(default_factory=list)

    def dying(self, step: int, left: Sequence[int]) -> list[int]:
        """The blocks that `step` is the last to read; `left` counts each block's readers."""
        return [b for b in self.reads[step] if left[b] == 1 and b not in self.kept]

    def growth(self, step: int, left: Sequence[int]) -> int:
        """The bytes that running `step` adds to those alive."""
        lasting = (b for b in self.writes[step] if self.readers[b] or b in self.kept)
        return sum(self.sizes[b] for b in lasting) - sum(
            self.sizes[b] for b in self.dying(step, left)
        )

    def peak(self, order: Order) -> int:
        """The most bytes alive during a step, when the steps run in `order`."""
        left = [len(readers) for readers in self.readers]
        live = peak = sum(self.sizes[b] for b in self.given)
        for step in order:
            dying = self.dying(step, left)
            written = sum(self.sizes[b] for b in self.writes[step])
            shared = {read: self.sizes[w] for w, read in self.takes[step] if read in dying}
            during = live + written - sum(shared.values()) + self.steps[step].scratch
            peak = max(peak, during)
            live += self.growth(step, left)
            for block in self.reads[step]:
                left[block] -= 1
        return peak

    def add_block(self, value: Value) -> int:
        self.sizes.append(value.type.nbytes)
        self.readers.append([])
        return len(self.sizes) - 1

    def add_edge(self, first: int, then: int) -> None:
        if first != then:
            self.before[then].append(first)
            self.after[first].append(then)


def _networks(schedule: Schedule) -> Iterator[_Network]:
    """The network with every update in place that can be, and one with early updates copied.

    Early updates are known before the loss is: running statistics for the most part. In place they
    would have to wait for the loss, and keep alive what they are computed from.
    """
    copied = _must_copy(schedule)
    yield _acyclic(schedule, set(copied))
    early = _early_updates(schedule)
    if not early <= copied:
        yield _acyclic(schedule, copied | early)


def _must_copy(schedule: Schedule) -> set[str]:
    """Updated leaves whose new value is a leaf, is another leaf's too, or is read as it is made."""
    producers = schedule.producers()
    copied: set[str] = set()
    taken: set[Value] = set()
    for name, leaf, value in _updates(schedule.graph):
        if isinstance(value.op, Leaf) or value in taken:
            copied.add(name)
            continue
        taken.add(value)
        step = schedule.steps[producers[value]]
        pairs = {(storage(result), storage(operand)) for result, operand in step.inplace}
        if leaf in step.reads and (value, leaf) not in pairs:
            copied.add(name)
    return copied


def _updates(graph: Graph) -> Iterator[tuple[str, Value, Value]]:
    """The name, the leaf and the stored new value of each update that changes something."""
    leaves = graph.leaves()
    for name, value in graph.updates.items():
        if storage(value) is not leaves[name]:
            yield name, leaves[name], storage(value)


def _early_updates(schedule: Schedule) -> set[str]:
    """The updated leaves whose new value needs no longer a path of steps than the loss does."""
    if schedule.loss_step() < 0:
        return set()
    producers = schedule.producers()
    level: list[int] = []
    for step in schedule.steps:
        operands = (producers[v] for v in step.reads if v in producers)
        level.append(max((level[i] + 1 for i in operands), default=0))
    loss = level[schedule.loss_step()]
    computed = ((n, v) for n, _, v in _updates(schedule.graph) if v in producers)
    return {name for name, value in computed if level[producers[value]] <= loss}


def _acyclic(schedule: Schedule, copied: set[str]) -> _Network:
    """The network with the updates of `copied`, and of what else must be, done by copies."""
    while True:
        net, writers = _network(schedule, copied)
        stuck = _cycles(net)
        if not stuck:
            return net
        name = next((n for n, step in writers.items() if step in stuck), None)
        if name is None:
            names = ", ".join(n for n, _, _ in _updates(schedule.graph))
            raise GraphError(f"updates exchange the contents of leaves, one of: {names}")
        copied.add(name)


def _network(schedule: Schedule, copied: set[str]) -> tuple[_Network, dict[str, int]]:
    """The network, and for each leaf that is updated in place the step that writes it."""
    updates = list(_updates(schedule.graph))
    copies = [Step((), (), copies=((v, leaf),)) for name, leaf, v in updates if name in copied]
    net = _Network([*schedule.steps, *copies])
    straight = {v: leaf for name, leaf, v in updates if name not in copied}
    _connect_blocks(net, schedule, straight)
    producers = schedule.producers()
    writers = {name: producers[v] for name, _, v in updates if name not in copied}
    writes = {leaf: producers[v] for v, leaf in straight.items()}
    writes |= {copy.copies[0][1]: len(schedule.steps) + i for i, copy in enumerate(copies)}
    _guard_writes(net, writes, schedule.loss_step())
    return net, writers


def _connect_blocks(net: _Network, schedule: Schedule, straight: dict[Value, Value]) -> None:
    """Blocks for all that is stored apart from what persists; edges of the data."""
    graph = schedule.graph
    blocks = {v: net.add_block(v) for v in graph.inputs if not persists(v.op)}
    net.given = list(blocks.values())
    producers = schedule.producers()
    blocks |= {v: net.add_block(v) for v in producers if v not in straight}
    net.kept = {blocks[v] for v in map(storage, graph.outputs.values()) if v in blocks}
    net.before, net.after = [[] for _ in net.steps], [[] for _ in net.steps]
    for number, step in enumerate(net.steps):
        reads = step.reads
        for value in reads:
            if value in producers:
                net.add_edge(producers[value], number)
        net.reads.append([blocks[v] for v in reads if v in blocks])
        net.writes.append([blocks[v] for v in map(storage, step.results) if v in blocks])
        pairs = [(blocks.get(storage(r)), blocks.get(storage(x))) for r, x in step.inplace]
        net.takes.append([(r, x) for r, x in pairs if r is not None and x is not None])
        for block in net.reads[-1]:
            net.readers[block].append(number)


def _guard_writes(net: _Network, writes: dict[Value, int], loss: int) -> None:
    """Edges so that a leaf is written after the loss is known and its old content was read."""
    for number, step in enumerate(net.steps):
        for value in step.reads:
            if value in writes:
                net.add_edge(number, writes[value])
    if loss >= 0:
        for writer in writes.values():
            # An edge from the loss to itself is a cycle on purpose: its update must be a copy.
            net.before[writer].append(loss)
            net.after[loss].append(writer)


def _cycles(net: _Network) -> set[int]:
    """The steps that lie on a cycle, or on a path between two."""
    stuck = set(range(len(net.steps))) - set(_list_schedule(net, lambda step, left: ()))
    while useless := {s for s in stuck if stuck.isdisjoint(net.after[s])}:
        stuck -= useless
    return stuck


# The orders.


def _orders(net: _Network) -> Iterator[Order]:
    yield _list_schedule(net, lambda step, left: ())
    deep = _depth_first(net)
    yield deep
    place = {step: i for i, step in enumerate(deep)}
    yield _list_schedule(net, lambda step, left: (net.growth(step, left), place[step]))
    yield _list_schedule(net, lambda step, left: (net.growth(step, left) > 0, place[step]))


def _list_schedule(net: _Network, key: Key) -> Order:
    """Runs, of the steps that are ready, always the one with the smallest key, then number.

    Keys may only fall while other steps run, and only when a block is left with a single reader.
    """
    left = [len(readers) for readers in net.readers]
    waits = [len(before) for before in net.before]
    ready = [(key(s, left), s) for s in range(len(net.steps)) if not waits[s]]
    heapq.heapify(ready)
    done: dict[int, None] = {}
    while ready:
        _, step = heapq.heappop(ready)
        if step in done:
            continue  # an older entry, with a larger key
        done[step] = None
        changed = [s for s in net.after[step] if not _count_down(waits, s)]
        for block in net.reads[step]:
            if _count_down(left, block) == 1:
                changed += [s for s in net.readers[block] if s not in done and not waits[s]]
        for following in changed:
            heapq.heappush(ready, (key(following, left), following))
    return list(done)


def _count_down(counts: list[int], index: int) -> int:
    counts[index] -= 1
    return counts[index]


def _depth_first(net: _Network) -> Order:
    """Finishes first what is nearest to the start, and before each step the deepest below it."""
    level = [0] * len(net.steps)
    for step in _list_schedule(net, lambda step, left: ()):
        level[step] = max((level[b] + 1 for b in net.before[step]), default=0)
    ends = [s for s in range(len(net.steps)) if not net.after[s]]
    done: dict[int, None] = {}
    for end in sorted(ends, key=level.__getitem__):
        stack = [end]
        while stack:
            pending = [b for b in net.before[stack[-1]] if b not in done]
            if pending:
                stack.append(max(pending, key=level.__getitem__))
            elif (step := stack.pop()) not in done:
                done[step] = None
    return list(done)
