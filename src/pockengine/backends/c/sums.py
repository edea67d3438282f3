"""Column sums that ride in a step: added up block by block while the rows are in the cache.

A step with such sums runs in parts, each a range of items with totals of its own, and the totals of
all parts are added up in order behind it. The number of parts depends on the rows, and is a
multiple of the threads: one and two threads give the same bits. Within a part, each block of rows
is added up before it joins the total, which keeps rounding errors small.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pockengine.ir.op import Value
from pockengine.ir.schedule import Step, storage
from pockengine.passes.groups import columns_of, riders

ALIGN = 16  # floats: threads' workspaces do not share cache lines
PARTS = 16  # at most, for few threads
ROWS = 64  # rows a part has at least, where there are more than two parts


def padded(floats: int) -> int:
    return -(-floats // ALIGN) * ALIGN


@dataclass(frozen=True)
class Sums:
    """The riding sums of one step: where each lies among `floats` floats, of which a part has two
    sets: its totals, in the workspace at `parts`, and those of the current block, at `block_sums`.
    """

    offsets: Mapping[Value, int]
    floats: int
    parts: int

    @staticmethod
    def of(step: Step, threads: int) -> "Sums":
        offsets, floats, rows = {}, 0, 1
        for value in riders(step.values):
            columns = columns_of(value)
            assert columns is not None
            offsets[value] = floats
            floats += padded(columns)
            rows = max(rows, value.inputs[0].type.size // columns)
        return Sums(offsets, floats, _parts(rows, threads) if offsets else 0)

    @property
    def scratch(self) -> int:
        """Floats of all totals together."""
        return self.parts * self.floats

    def names(self) -> dict[Value, str]:
        """The C expression of the sums of a block, for each value."""
        return {value: f"block_sums + {at}" for value, at in self.offsets.items()}

    def around(self, items: int, multiple: int, block: int, body: list[str]) -> list[str]:
        """The C statements that run `body` for the blocks of the parts `begin..end`, which are
        divided at multiples of `multiple` items.
        """
        n, units = self.floats, -(-items // multiple)
        first = f"{units} * part / {self.parts} * {multiple}"
        last = f"{units} * (part + 1) / {self.parts} * {multiple}"
        return [
            "for (idx part = begin; part < end; part++) {",
            f"float *const totals = parts + part * {n};",
            f"const idx last = idx_min({last}, {items});",
            f"pk_clear(totals, {n});",
            f"for (idx b0 = {first}; b0 < last; b0 += {block}) {{",
            f"const idx b1 = idx_min(b0 + {block}, last);",
            f"pk_clear(block_sums, {n});",
            *body,
            f"pk_accumulate(totals, block_sums, {n});",
            *("}", "}"),
        ]

    def results(self, names: Mapping[Value, str]) -> list[str]:
        """The C statements that add up the totals of all parts."""
        return [
            f"pk_add_parts(parts + {at}, {self.parts}, {self.floats}, {value.type.size}, "
            f"{names[storage(value)]});"
            for value, at in self.offsets.items()
        ]


def _parts(rows: int, threads: int) -> int:
    parts = PARTS
    while parts > 2 and rows < parts * ROWS:
        parts //= 2
    return -(-parts // threads) * threads
