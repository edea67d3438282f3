"""What may be worth training: the tensors that an analysis measures, and the shares of each.

    Candidate("features.17.conv.0.0.weight", block=17, ratios=(0.125, 0.25, 0.5, 1.0))

Every scheme that is searched has three parts: the head, the biases of the last k blocks, and some
of the candidates, each at one of its ratios.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pockengine import structure
from pockengine.errors import InputError
from pockengine.ir.graph import Graph
from pockengine.scheme import UpdateScheme
from pockengine.structure import Use

RATIOS = (0.125, 0.25, 0.5, 1.0)
Pair = tuple[str, float]  # the name of a tensor, and a ratio


@dataclass(frozen=True)
class Candidate:
    """A weight or a table of embeddings, the number of its block from the input, and its shares."""

    name: str
    block: int
    ratios: tuple[float, ...]


def candidates(graph: Graph, ratios: Iterable[float] = RATIOS) -> tuple[Candidate, ...]:
    """The weights and embeddings outside the head, from the input on.

    Of ratios that come to the same number of channels the largest stays. What has no input
    channels is trained whole or not at all. Raises InputError for what is no ratio.
    """
    ratios = tuple(ratios)
    if not ratios or not all(0 < ratio <= 1 for ratio in ratios):
        raise InputError(f"ratios are over 0 and at most 1, got {ratios}")
    head = {use.name for use in structure.head(graph)}
    found = []
    for number, block in enumerate(structure.blocks(graph)):
        for use in block.all:
            if use.weighted and use.name not in head:
                shares = _shares(graph, use, sorted(ratios))
                found.append(Candidate(use.name, number, shares))
    return tuple(found)


def start_scheme(graph: Graph, last: int) -> UpdateScheme:
    """The common start: the head, and the biases of the last blocks (none for 0)."""
    head = UpdateScheme.head_only(graph)
    return head | UpdateScheme.biases(graph, last) if last else head


def bias_steps(graph: Graph, most: int = 6) -> tuple[int, ...]:
    """Numbers of last blocks whose biases an analysis tries: 0, all, and some between."""
    return spread(len(structure.blocks(graph)), most)


def spread(last: int, count: int) -> tuple[int, ...]:
    """At most `count` integers from 0 to `last`, evenly apart.

    >>> spread(12, 4)
    (0, 4, 8, 12)
    """
    parts = max(1, min(last, count - 1))
    return tuple(sorted({round(last * i / parts) for i in range(parts + 1)}))


def groups(found: Sequence[Candidate], most: int) -> list[tuple[Candidate, ...]]:
    """The candidates in at most `most` runs of about as many tensors, blocks kept together.

    Each run is measured with a program of its own, whose backward pass goes no deeper than needed.
    """
    by_block: dict[int, list[Candidate]] = {}
    for candidate in found:
        by_block.setdefault(candidate.block, []).append(candidate)
    size = len(found) / max(1, most)
    runs: list[list[Candidate]] = []
    for members in by_block.values():
        if not runs or (len(runs[-1]) + len(members) / 2 > size and len(runs) < most):
            runs.append([])
        runs[-1] += members
    return [tuple(run) for run in runs]


def _shares(graph: Graph, use: Use, ratios: Sequence[float]) -> tuple[float, ...]:
    if use.axis is None:
        return (1.0,)
    count = graph.params[use.name].shape[use.axis]
    by_channels = {max(1, int(ratio * count + 0.5)): ratio for ratio in ratios}
    by_channels[count] = 1.0
    return tuple(ratio for _, ratio in sorted(by_channels.items()))
