"""What rides in a step: results by columns, gathered block by block while rows are in the cache.

    Sum                         the loop adds each row to the sums of its block, they to the totals
    BatchMean, BatchVariance    read the rows of a block once more when the loop has stored them

Such a step runs in parts, each a range of items with totals of its own, which are put together in
order behind it. The number of parts depends on the rows, and is a multiple of the threads: one and
two threads give the same bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pockengine.ir.op import Value
from pockengine.ir.schedule import Step, storage
from pockengine.ops.norm import BatchVariance
from pockengine.passes.groups import columns_of, is_statistic, riders

ALIGN = 16  # floats: threads' workspaces do not share cache lines
PARTS = 16  # at most, for few threads
ROWS = 64  # rows a part has at least, where there are more than two parts

Names = Mapping[Value, str]


def padded(floats: int) -> int:
    return -(-floats // ALIGN) * ALIGN


def moments_size(columns: int) -> int:
    """Floats of the moments of that many columns, as pk_add_moments keeps them."""
    return ALIGN + 2 * padded(columns)


@dataclass(frozen=True)
class Riding:
    """The riders of one step, and where each has its totals among the `size` floats of a part.

    Sums come first; `block_sums` has the same places for those of the current block.
    """

    sums: Mapping[Value, int]
    statistics: Mapping[Value, int]  # those of one tensor share their moments
    sums_size: int
    size: int
    parts: int

    @staticmethod
    def of(step: Step, threads: int) -> "Riding":
        found = riders(step.values)
        sums: dict[Value, int] = {}
        moments: dict[tuple[Value, ...], int] = {}
        size = 0
        for value in found:
            if not is_statistic(value):
                sums[value], size = size, size + padded(_columns(value))
        sums_size = size
        for value in found:
            if is_statistic(value) and _operands(value) not in moments:
                moments[_operands(value)], size = size, size + moments_size(_columns(value))
        statistics = {v: moments[_operands(v)] for v in found if is_statistic(v)}
        rows = max((v.inputs[0].type.size // _columns(v) for v in found), default=0)
        return Riding(sums, statistics, sums_size, size, _parts(rows, threads) if found else 0)

    @property
    def scratch(self) -> int:
        """Floats of the totals of all parts."""
        return self.parts * self.size

    def names(self) -> dict[Value, str]:
        """The C expression of each sum of a block."""
        return {value: f"block_sums + {at}" for value, at in self.sums.items()}

    def around(
        self, items: int, multiple: int, block: int, body: list[str], names: Names
    ) -> list[str]:
        """The C statements that run `body` for the blocks of the parts `begin..end`, which are
        divided at multiples of `multiple` items.
        """
        after = [self._moments(v, at, items, names) for v, at in self.statistics.items()]
        units = -(-items // multiple)
        first = f"{units} * part / {self.parts} * {multiple}"
        last = f"{units} * (part + 1) / {self.parts} * {multiple}"
        return [
            "for (idx part = begin; part < end; part++) {",
            f"float *const totals = parts + part * {self.size};",
            f"const idx last = idx_min({last}, {items});",
            f"pk_clear(totals, {self.size});",
            f"for (idx b0 = {first}; b0 < last; b0 += {block}) {{",
            f"const idx b1 = idx_min(b0 + {block}, last);",
            f"pk_clear(block_sums, {self.sums_size});",
            *body,
            f"pk_accumulate(totals, block_sums, {self.sums_size});",
            *dict.fromkeys(after),
            *("}", "}"),
        ]

    def _moments(self, value: Value, at: int, items: int, names: Names) -> str:
        (x, *weight), columns = _operands(value), _columns(value)
        rows = x.type.size // columns
        item = rows // items
        weigh = f"{names[weight[0]]}, {rows // weight[0].type.size}" if weight else "NULL, 1"
        span = f"b0 * {item}, b1 * {item}, {columns}"
        return f"pk_add_moments({names[x]}, {weigh}, {span}, totals + {at});"

    def results(self, names: Names) -> list[str]:
        """The C statements that put the totals of all parts together."""
        counts = f"{self.parts}, {self.size}"
        lines = [
            f"pk_add_parts(parts + {at}, {counts}, {value.type.size}, {names[value]});"
            for value, at in self.sums.items()
        ]
        merged = [
            f"pk_merge_moments(parts + {at}, {counts}, {value.type.size});"
            for value, at in self.statistics.items()
        ]
        each = [statistic(v, f"parts + {at}", names[v]) for v, at in self.statistics.items()]
        return [*lines, *dict.fromkeys(merged), *each]


def statistic(value: Value, moments: str, out: str) -> str:
    """The C statement that computes a mean or a variance from moments."""
    columns = value.type.size
    if isinstance(value.op, BatchVariance):
        return f"pk_moments_variance({moments}, {columns}, {int(value.op.biased)}, {out});"
    return f"pk_moments_mean({moments}, {columns}, {out});"


def _columns(value: Value) -> int:
    return columns_of(value) or 1


def _operands(value: Value) -> tuple[Value, ...]:
    return tuple(map(storage, value.inputs))


def _parts(rows: int, threads: int) -> int:
    parts = PARTS
    while parts > 2 and rows < parts * ROWS:
        parts //= 2
    return -(-parts // threads) * threads
