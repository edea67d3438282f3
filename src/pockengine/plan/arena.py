"""Offsets for blocks of bytes with known lifetimes: as few bytes in all as can be found quickly.

Finding the smallest arena is hard in general. Each strategy sorts the blocks and then gives each
the lowest gap among those already placed that are alive at the same time; the best result is
taken. While it is larger than the largest live set, blocks that ended on top are placed first in
another try.
"""

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
RETRIES = 24

Placed = tuple[int, int, int, int]  # start, end, and the first and last time


@dataclass(frozen=True, slots=True)
class Block:
    """`size` bytes that are needed from time `first` to time `last`, both included."""

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Placement:
    """The offset of each block, in the order they were given, and the bytes up to the last end."""

    offsets: tuple[int, ...]
    size: int


def aligned(size: int) -> int:
    """`size` rounded up to a multiple of the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def largest_live(blocks: Iterable[Block]) -> int:
    """The most bytes that are alive at one time."""
    changes: dict[int, int] = {}
    for block in blocks:
        changes[block.first] = changes.get(block.first, 0) + block.size
        changes[block.last + 1] = changes.get(block.last + 1, 0) - block.size
    peak = live = 0
    for time in sorted(changes):
        live += changes[time]
        peak = max(peak, live)
    return peak


def place(blocks: Sequence[Block]) -> Placement:
    """Offsets, multiples of the alignment, such that blocks alive at one time do not overlap."""
    blocks = [Block(aligned(b.size), b.first, b.last) for b in blocks]
    bound = largest_live(blocks)
    best: Placement | None = None
    for order in _strategies(blocks):
        found = _first_fit(blocks, order)
        best = found if best is None or found.size < best.size else best
        if best.size == bound:
            return best
    assert best is not None
    return _retry(blocks, best, bound)


def _strategies(blocks: Sequence[Block]) -> Iterator[list[int]]:
    """Orders in which to place the blocks."""
    fullest = _fullest_times(blocks)
    keys: list[Callable[[int, Block], tuple[int, ...]]] = [
        lambda i, b: (-b.size, b.first),
        lambda i, b: (-fullest[i], -b.size),
        lambda i, b: (-(b.last - b.first), -b.size),
        lambda i, b: (-b.size * (b.last - b.first + 1), b.first),
        lambda i, b: (b.first, -b.size),
        lambda i, b: (-b.last, -b.size),
    ]
    for key in keys:
        yield sorted(range(len(blocks)), key=lambda i: key(i, blocks[i]))


def _fullest_times(blocks: Sequence[Block]) -> list[int]:
    """For each block, the bytes alive at the fullest time of its life."""
    begin = min((b.first for b in blocks), default=0)
    change = np.zeros(max((b.last for b in blocks), default=0) - begin + 2, np.int64)
    for block in blocks:
        change[block.first - begin] += block.size
        change[block.last - begin + 1] -= block.size
    live = np.cumsum(change)
    return [int(live[b.first - begin : b.last - begin + 1].max()) for b in blocks]


def _first_fit(blocks: Sequence[Block], order: Sequence[int]) -> Placement:
    """Places blocks in `order`, each into the lowest gap that is free during all of its life."""
    offsets = [0] * len(blocks)
    placed: list[Placed] = []  # by their starts
    for number in order:
        block = blocks[number]
        offset = offsets[number] = _lowest_gap(placed, block.size, block.first, block.last)
        insort(placed, (offset, offset + block.size, block.first, block.last))
    return Placement(tuple(offsets), max((end for _, end, _, _ in placed), default=0))


def _lowest_gap(
    placed: Iterable[tuple[int, int, int, int]], size: int, born: int, dies: int
) -> int:
    """The lowest offset at which `size` bytes are free from time `born` to time `dies`."""
    free = 0  # where the bytes in use so far end
    for start, end, first, last in placed:
        if first <= dies and last >= born:
            if start - free >= size:
                return free
            if end > free:
                free = end
    return free


def _retry(blocks: Sequence[Block], best: Placement, bound: int) -> Placement:
    """Tries again with the blocks that reach the top placed first, a fixed number of times."""
    order = sorted(range(len(blocks)), key=lambda i: (-blocks[i].size, blocks[i].first))
    found = _first_fit(blocks, order)
    tried: set[tuple[int, ...]] = set()
    for _ in range(RETRIES):
        top = {i for i in order if found.offsets[i] + blocks[i].size == found.size}
        order = [i for i in order if i in top] + [i for i in order if i not in top]
        if tuple(order) in tried:
            break  # from here on it would go round in circles
        tried.add(tuple(order))
        found = _first_fit(blocks, order)
        best = found if found.size < best.size else best
        if best.size == bound:
            break
    return best
