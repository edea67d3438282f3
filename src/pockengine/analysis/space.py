"""The space of schemes that a search chooses from, with additive gains and costs.

A scheme is the head, one of the bias options, and at most one option of each tensor. Its gain is
the sum of its options' gains. Its cost is that of reaching its earliest block, and the sum of what
its options add to that: optimizer states, saved activations, products. The planner is asked for
each of these once; what it says of a whole scheme may differ, since bytes are shared over time, so
a search asks it again for every scheme that it returns.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pockengine import structure
from pockengine.analysis.candidates import Pair, start_scheme
from pockengine.analysis.cost import Cost
from pockengine.ir.graph import Graph
from pockengine.scheme import Share, UpdateScheme
from pockengine.structure import Block

Ask = Callable[[Sequence[UpdateScheme]], Sequence[Cost]]


@dataclass(frozen=True)
class Need:
    """What a scheme takes of budgets: `nbytes` is what the budget counts, `train_bytes` the part of
    it that options add to (for `extra_memory` that is `Cost.extra_bytes`), `seconds` those of one
    step.
    """

    nbytes: int
    train_bytes: int
    seconds: float


Measure = Callable[[Cost], Need]


def whole_program(cost: Cost) -> Need:
    """For a budget of all bytes that a program takes."""
    return Need(cost.memory_bytes, cost.train_bytes, cost.step_seconds)


def extra_memory(cost: Cost) -> Need:
    """For a budget of what training takes beyond the weights and inference."""
    return Need(cost.extra_bytes, cost.extra_bytes, cost.step_seconds)


@dataclass(frozen=True)
class Option:
    """Something that may be trained: its gain, and what it adds to reaching its block.

    `block` is the first block that it reaches; the head alone reaches the number of blocks.
    """

    label: str
    scheme: UpdateScheme | None  # None for nothing
    block: int
    gain: float
    train_bytes: int = 0
    seconds: float = 0.0


Choice = tuple[Option, ...]


@dataclass(frozen=True)
class Reach:
    """The cost of a backward pass to a block: bytes of training and of all else, and seconds."""

    block: int
    train_bytes: int
    floor: int
    seconds: float


@dataclass(frozen=True)
class Space:
    """Options in groups, of which at most one is taken; of the first, the biases, exactly one."""

    head: UpdateScheme
    groups: tuple[tuple[Option, ...], ...]
    reaches: tuple[Reach, ...]  # the deepest first
    model: str = ""  # structure.structure_hash
    measure: Measure = whole_program  # what budgets are for

    def scheme(self, chosen: Iterable[Option]) -> UpdateScheme:
        """The head and what is chosen."""
        shares: dict[str, Share] = dict(self.head.shares)
        for option in chosen:
            shares |= option.scheme.shares if option.scheme else {}
        return UpdateScheme(dict(sorted(shares.items())))

    def reach(self, chosen: Iterable[Option]) -> Reach:
        """What the earliest of the chosen options takes to reach."""
        first = min(option.block for option in chosen)
        return next(reach for reach in self.reaches if reach.block == first)

    def need(self, chosen: Sequence[Option]) -> Need:
        """The additive estimate of what a scheme takes."""
        reach = self.reach(chosen)
        train_bytes = reach.train_bytes + sum(option.train_bytes for option in chosen)
        seconds = reach.seconds + sum(option.seconds for option in chosen)
        return Need(max(train_bytes, reach.floor), train_bytes, seconds)


def make_space(
    graph: Graph,
    gains: Mapping[Pair, float],
    bias_gains: Mapping[int, float],
    ask: Ask,
    measure: Measure = whole_program,
) -> Space:
    """The space of what brings something. `ask` is the cost oracle, for many schemes at once;
    `measure` says what budgets are for.
    """
    blocks, head = structure.blocks(graph), start_scheme(graph, 0)
    groups = _drafts(graph, blocks, gains, bias_gains)
    reached = sorted({option.block for group in groups for option in group})
    probes = {block: _probe(blocks, block, head) for block in reached}
    asked = list(probes.values())
    asked += [_together(probes[o.block], o) for group in groups for o in group]
    known = dict(zip((s.to_json() for s in asked), map(measure, ask(asked)), strict=True))

    def costed(option: Option) -> Option:
        alone = known[probes[option.block].to_json()]
        both = known[_together(probes[option.block], option).to_json()]
        train_bytes = max(0, both.train_bytes - alone.train_bytes)
        seconds = max(0.0, both.seconds - alone.seconds)
        return replace(option, train_bytes=train_bytes, seconds=seconds)

    reaches = tuple(_reach(block, known[probes[block].to_json()]) for block in reached)
    return Space(
        head,
        tuple(tuple(map(costed, group)) for group in groups),
        reaches,
        structure.structure_hash(graph),
        measure,
    )


def _drafts(
    graph: Graph, blocks: Sequence[Block], gains: Mapping[Pair, float], biases: Mapping[int, float]
) -> list[list[Option]]:
    """The groups of options, their costs not known yet."""
    number = {use.name: n for n, block in enumerate(blocks) for use in block.all}
    first = []
    for last, gain in biases.items():
        scheme = UpdateScheme.biases(graph, last) if last else None
        first.append(Option(f"biases of the last {last}", scheme, len(blocks) - last, gain))
    tensors: dict[str, list[Option]] = {}
    for (name, ratio), gain in gains.items():
        if gain > 0:
            scheme = UpdateScheme({name: ratio})
            part = "all" if ratio == 1 else f"{ratio:g}"
            option = Option(f"{part} of {name}", scheme, number[name], gain)
            tensors.setdefault(name, []).append(option)
    return [first, *tensors.values()]


def _probe(blocks: Sequence[Block], block: int, head: UpdateScheme) -> UpdateScheme:
    """The head and the least of a block: its first bias, or else one channel of its last weight."""
    if block == len(blocks):
        return head
    inside = sorted(blocks[block].uses or blocks[block].all, key=lambda use: use.position)
    bias = next((use for use in inside if use.role == "bias"), None)
    if bias is not None:
        return head | UpdateScheme({bias.name: 1.0})
    weight = next((use for use in reversed(inside) if use.axis is not None), inside[-1])
    return head | UpdateScheme({weight.name: 1e-9 if weight.axis is not None else 1.0})


def _together(probe: UpdateScheme, option: Option) -> UpdateScheme:
    return probe | option.scheme if option.scheme else probe


def _reach(block: int, need: Need) -> Reach:
    floor = need.nbytes if need.nbytes > need.train_bytes else 0
    return Reach(block, need.train_bytes, floor, need.seconds)
