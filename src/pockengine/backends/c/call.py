"""What a kernel call is: C statements that compute a range of items of one value."""

from collections.abc import Callable
from dataclasses import dataclass

from pockengine.ir.op import Value
from pockengine.target import Target

WHOLE = 1 << 30  # a block that takes all items of a thread at once
BLOCK = 32768  # floats of a block of rows: what a second-level cache keeps until the loop has run


@dataclass(frozen=True)
class Call:
    """C statements for the items of one value.

    `body` may use b0, b1, out, work (this thread's workspace of `scratch` floats), shared (a
    workspace of `shared` floats for all threads) and later (arrays like `out` that the loop behind
    it reads). `pack` over `pack_items` runs before, with the same names but later, and begin, end
    for b0, b1.
    `checks` are C conditions that must hold before anything runs. `rows` says that an item is a
    whole row. Ranges of items start at multiples of `multiple`. `variant` tells several
    implementations of one value apart; they have the same items and rows.
    """

    items: int
    body: tuple[str, ...]
    block: int = WHOLE
    multiple: int = 1
    rows: bool = True
    pack_items: int = 0
    pack: tuple[str, ...] = ()
    shared: int = 0
    scratch: int = 0
    checks: tuple[str, ...] = ()
    variant: str = ""

    @property
    def blockwise(self) -> bool:
        """Whether a block of rows needs no other row of `out`, and `pack` none at all."""
        return self.rows and self.block < WHOLE


Writer = Callable[[Value, list[str], Target], Call]
"""Gets a value, the C names of its operands, and the target."""
Candidates = Callable[[Value, list[str], Target], tuple[Call, ...]]
"""The same for a value with several implementations: all that are legal, the best guess first."""


def block_of(row: int, multiple: int = 1) -> int:
    """Items of `row` elements in a block that stays in the cache, a multiple of `multiple`."""
    return max(1, BLOCK // max(1, row) // multiple) * multiple
