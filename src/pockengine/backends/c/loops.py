"""Writes the loop of a step: every elementwise value of the group, in one pass over its elements.

A loop runs over items `begin..end`, an item being one row of `row` elements (or a chunk of a flat
range). The index space is cut into dims at the boundaries that broadcasting and data movement need;
neighbours that every operand walks alike are merged again, so that most loops end up flat or rows x
columns. The body loads all operands first and stores all results last: a result may lie on an
operand's bytes. Columns that are summed on the way are added to what the emitter has put to zero.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod

from pockengine.backends.c.syntax import CTYPE, Tables
from pockengine.ir.op import Value
from pockengine.ir.schedule import Step, storage
from pockengine.ir.types import Shape
from pockengine.ops.bits import PackBits, UnpackBits
from pockengine.ops.constant import Full, c_literal
from pockengine.ops.index import Take
from pockengine.passes.groups import columns_of, is_statistic, is_view, riders, splits

CHUNK = 1024  # elements an item of a flat loop
TILE = 64  # elements a tile of an inner loop that packs or unpacks bits: one 64-bit word
ROW = 64  # a loop's rows are at least this long where the shape allows it

Strides = tuple[int, ...]


@dataclass(frozen=True)
class Space:
    """The loop's dims, outermost first, and how many of the last ones make up a row."""

    dims: Shape
    inner: int

    @property
    def row(self) -> int:
        return prod(self.dims[len(self.dims) - self.inner :])

    @property
    def flat(self) -> bool:
        return len(self.dims) == 1

    @property
    def suffixes(self) -> Shape:
        """The flat stride of each dim."""
        return tuple(prod(self.dims[i + 1 :]) for i in range(len(self.dims)))


@dataclass
class Loop:
    """The loop over the elementwise values of one step. A kernel before it gives `row`.

    `names` maps a stored value to the C variable that points to it.
    """

    step: Step
    names: Mapping[Value, str]
    tables: Tables
    row: int | None = None
    anchor: Value | None = None
    space: Space = field(init=False)

    def __post_init__(self) -> None:
        self.riders = riders(self.step.values)
        apart = {self.anchor, *filter(is_statistic, self.riders)}
        apart |= {storage(x) for x in self.anchor.inputs} if self.anchor else set()  # panels
        self.values = [v for v in self.step.values if v not in apart]
        self.inner = {v: f"t{i}" for i, v in enumerate(self.step.values)}
        reads = [x for v in self.values for x in v.inputs]
        self.reshaped = {storage(x) for x in reads if storage(x) is not x}
        self.own = {v for v in self.values if not self._inlined(v)}
        if not self.own:
            return
        self.sums = {v for v in self.riders if v in self.own}
        self.total = max(
            v.inputs[0].type.size if _packs(v) or v in self.sums else v.type.size for v in self.own
        )
        self.space = self._space()
        self.pointers: dict[tuple[Value, Strides], str] = {}

    @property
    def item(self) -> int:
        """Elements an item."""
        return self.row or (CHUNK if self.space.flat else self.space.row)

    @property
    def items(self) -> int:
        return -(-self.total // self.item)

    # ------------------------------------------------------------------ the index space

    def _inlined(self, value: Value) -> bool:
        """A view is loaded by index where it is read, unless stored or read through a reshape."""
        return is_view(value) and value not in self.step.results and value not in self.reshaped

    def _space(self) -> Space:
        whole = [v for v in self.values if v in self.own or v.type.size == self.total]
        cuts = {c for v in whole for c in splits(v)}
        if self.row and self.row != self.total:
            cuts.add(self.row)
        columns = {columns_of(v) or 1 for v in self.riders}
        cuts |= columns
        fixed = columns.union(*(splits(v) for v in whole if is_view(v)))
        dims = _merged(_dims(self.total, cuts), fixed, self._walks)
        if self.row and len(dims) > 1:  # not flat: rows must then start where a dim turns over
            dims = _merged(_dims(self.total, cuts), {*fixed, self.row}, self._walks)
            dims = (*dims, 1) if self.row == 1 else dims
        if self.row:
            return Space(dims, self._inner_dims(dims))
        return _with_rows(dims, max(ROW, *columns) if columns else ROW)

    def _walks(self, dims: Shape) -> list[Strides]:
        """How each operand that is read index by index walks over `dims`."""
        return [
            walk(operand.shape, value.shape, dims)
            for value in self.own
            if value.op.elementwise
            for operand in value.inputs
        ]

    def _inner_dims(self, dims: Shape) -> int:
        """How many of the last dims make up a row of the kernel."""
        row, count = 1, 0
        while row < (self.row or 1) or not count:
            row, count = row * dims[-1 - count], count + 1
        return count

    # ------------------------------------------------------------------ the text

    def text(self) -> list[str]:
        """C statements that run the loop over items `b0..b1`."""
        body = self._body()
        if self.space.flat:
            head = [
                f"const idx c0 = b0 * {self.item}, c1 = idx_min(b1 * {self.item}, {self.total});"
            ]
            return ["{", *head, *self._pointer_lines(), *self._inner(body, "c0", "c1"), "}"]
        dims, outer = self.space.dims, len(self.space.dims) - self.space.inner
        lines = ["for (idx row = b0; row < b1; row++) {"]
        for d in range(outer):
            scale = prod(dims[d + 1 : outer])
            lines.append(f"const idx i{d} = row / {scale} % {dims[d]};")
        for d in range(outer, len(dims) - 1):
            lines.append(f"for (idx i{d} = 0; i{d} < {dims[d]}; i{d}++) {{")
        lines += [*self._pointer_lines(), *self._inner(body, "0", str(dims[-1]))]
        return lines + ["}"] * (len(dims) - outer)

    def _inner(self, body: list[str], first: str, last: str) -> list[str]:
        pragma = "#pragma clang loop vectorize(assume_safety)"
        bits = any(isinstance(v.op, (PackBits, UnpackBits)) for v in self.step.values)
        if not bits:
            return [pragma, f"for (idx c = {first}; c < {last}; c++) {{", *body, "}"]
        return [
            f"for (idx tile = {first}; tile < {last}; tile += {TILE}) {{",
            f"const idx width = idx_min({TILE}, {last} - tile);",
            *self._bit_heads,
            pragma,
            "for (idx j = 0; j < width; j++) {",
            "const idx c = tile + j;",
            *body,
            "}",
            *self._bit_tails,
            "}",
        ]

    def _body(self) -> list[str]:
        self._bit_heads: list[str] = []
        self._bit_tails: list[str] = []
        loads: dict[str, str] = {}
        computes, stores = [], []
        for value in self.step.values:
            if value not in self.own:
                continue
            name = self.inner[value]
            if value in self.sums:
                (x,) = value.inputs
                place = self._place(value, _kept(value), x.shape)
                stores.append(f"{place} += {self._argument(x, x, loads)};")
                continue
            if _packs(value):
                self._pack(value, self._argument(value.inputs[0], value.inputs[0], loads))
                stores.append(f"bits_{name}[j] = {self._argument(value.inputs[0], value, loads)};")
                continue
            computes.append(
                f"const {CTYPE[value.dtype]} {name} = {self._expression(value, loads)};"
            )
            if value in self.step.results:
                stores.append(f"{self._place(value, value.shape, value.shape)} = {name};")
        reads = [f"const {ctype} = {source};" for ctype, source in loads.items()]
        return [*reads, *computes, *stores]

    def _expression(self, value: Value, loads: dict[str, str]) -> str:
        if value.op.elementwise:
            return value.op.c_expr(*(self._argument(x, value, loads) for x in value.inputs))
        if isinstance(value.op, UnpackBits):
            return self._unpack(value)
        return self._at(value, self._indices(value.shape))

    def _argument(self, operand: Value, reader: Value, loads: dict[str, str]) -> str:
        """The C expression of an operand's element, for a reader that walks index by index."""
        owner = storage(operand)
        if owner in self.own:
            return self.inner[owner]
        if isinstance(owner.op, Full):
            return c_literal(owner.op.value, owner.dtype)
        if owner in self.names:
            return self._load(owner, operand, reader, loads)
        if isinstance(owner.op, UnpackBits):
            return self._unpack(owner)
        return self._at(operand, self._broadcast(operand.shape, reader.shape))

    def _load(self, owner: Value, operand: Value, reader: Value, loads: dict[str, str]) -> str:
        source = self._place(owner, operand.shape, reader.shape)
        name = f"x_{len(loads)}"
        for known, text in loads.items():
            if text == source:
                return known.split()[-1]
        loads[f"{CTYPE[owner.dtype]} {name}"] = source
        return name

    def _place(self, owner: Value, shape: Shape, reader: Shape) -> str:
        """An lvalue: the element of a stored value, seen in `shape`, that a reader is at."""
        strides = walk(shape, reader, self.space.dims)
        pointer = self.pointers.setdefault((owner, strides), f"p{len(self.pointers)}")
        last = strides[-1]
        return f"{pointer}[{'c' if last == 1 else f'c * {last}' if last else '0'}]"

    def _pointer_lines(self) -> list[str]:
        lines = []
        for (owner, strides), pointer in self.pointers.items():
            terms = [f"i{d} * {s}" for d, s in enumerate(strides[:-1]) if s]
            where = " + ".join([self.names[owner], *terms])
            lines.append(f"{CTYPE[owner.dtype]} *const {pointer} = {where};")
        return lines

    # ------------------------------------------------------------------ elements by index

    def _indices(self, shape: Shape) -> list[str]:
        """The index of the current element in each dim of `shape`, as C expressions."""
        variables = [f"i{d}" for d in range(len(self.space.dims) - 1)] + ["c"]
        places = list(zip(self.space.dims, self.space.suffixes, variables, strict=True))
        indices = []
        for stride, dim in zip(_suffixes(shape), shape, strict=True):
            terms = [
                variable if suffix == stride else f"{variable} * {suffix // stride}"
                for size, suffix, variable in places
                if size > 1 and stride <= suffix < stride * dim
            ]
            indices.append(f"({' + '.join(terms)})" if terms else "0")
        return indices

    def _broadcast(self, operand: Shape, reader: Shape) -> list[str]:
        """The index into an operand that is broadcast to the shape of its reader."""
        index = self._indices(reader)[len(reader) - len(operand) :]
        return ["0" if dim == 1 else i for dim, i in zip(operand, index, strict=True)]

    def _at(self, value: Value, index: Iterable[str]) -> str:
        """The C expression of element `index` of a value that is stored, or moves data that is."""
        index = list(index)
        owner = storage(value)
        if isinstance(owner.op, Full):
            return c_literal(owner.op.value, owner.dtype)
        if owner in self.names and owner not in self.own:
            return f"{self.names[owner]}[{_flat(value.shape, index)}]"
        if isinstance(value.op, Take):
            table = self.tables.name(value.op.indices)
            index[value.op.axis] = f"{table}[{index[value.op.axis]}]"
            return self._at(value.inputs[0], index)

        def load(number: int, at: Iterable[str]) -> str:
            return self._at(value.inputs[number], at)

        types = (*(v.type for v in value.inputs), value.type)
        return value.op.c_load(index, load, *types)

    # ------------------------------------------------------------------ bits

    def _bit_offset(self, start: str = "tile") -> str:
        terms = [f"i{d} * {s}" for d, s in enumerate(self.space.suffixes[:-1])]
        return " + ".join([start, *terms])

    def _unpack(self, value: Value) -> str:
        """The bit of the current element: of a word for a whole tile where tiles start at bytes."""
        word = f"word_{self.inner[value]}"
        source = self.names[storage(value.inputs[0])]
        starts = (self.item,) if self.space.flat else self.space.suffixes[:-1]
        if any(start % 8 for start in starts):
            bit = self._bit_offset("c")
            return f"(({source}[({bit}) >> 3] >> (({bit}) & 7)) & 1)"
        line = f"const uint64_t {word} = pk_load_bits({source}, {self._bit_offset()}, width);"
        if line not in self._bit_heads:
            self._bit_heads.append(line)
        return f"(unsigned char)(({word} >> j) & 1)"

    def _pack(self, value: Value, argument: str) -> None:
        bits = f"bits_{self.inner[value]}"
        self._bit_heads.append(f"unsigned char {bits}[{TILE}];")
        target = self.names[value]
        self._bit_tails.append(f"pk_store_bits({target}, {self._bit_offset()}, {bits}, width);")


def walk(operand: Shape, reader: Shape, dims: Shape) -> Strides:
    """Flat strides with which an operand, broadcast to `reader`, is walked along `dims`.

    >>> walk((4,), (3, 4), (3, 4))
    (0, 1)
    """
    suffixes = [prod(dims[i + 1 :]) for i in range(len(dims))]
    if prod(operand) == prod(dims):
        return tuple(s if d > 1 else 0 for s, d in zip(suffixes, dims, strict=True))
    if prod(operand) == 1:
        return (0,) * len(dims)
    aligned = (1,) * (len(reader) - len(operand)) + operand
    places = list(zip(reader, _suffixes(reader), aligned, _suffixes(aligned), strict=True))
    strides = []
    for dim, suffix in zip(dims, suffixes, strict=True):
        within = [p for p in places if dim > 1 and p[1] <= suffix < p[1] * p[0]]
        _, base, size, stride = within[0] if within else (1, 1, 1, 0)
        strides.append(0 if size == 1 else stride * (suffix // base))
    return tuple(strides)


def _merged(dims: Shape, fixed: set[int], walks: object) -> Shape:
    """Joins neighbouring dims that every operand walks as one; boundaries in `fixed` stay."""
    position = len(dims) - 1
    while position > 0:
        boundary = prod(dims[position:])
        rows = walks(dims)  # type: ignore[operator]
        same = all(s[position - 1] == s[position] * dims[position] for s in rows)
        if same and boundary not in fixed:
            dims = (
                *dims[: position - 1],
                dims[position - 1] * dims[position],
                *dims[position + 1 :],
            )
        position -= 1
    return dims


def _with_rows(dims: Shape, length: int) -> Space:
    """The space of a pure loop: a dim that would make rows far longer than `length` is cut.

    >>> _with_rows((100352, 16), 64)
    Space(dims=(25088, 4, 16), inner=2)
    """
    row, inner = dims[-1], 1
    while row < length and inner < len(dims):
        dim = dims[-1 - inner]
        if row * dim > max(CHUNK, length):
            least = -(-length // row)
            factor = next((f for f in range(least, 4 * least) if dim % f == 0), 1)
            cut = (dim // factor, factor)
            return Space((*dims[: -1 - inner], *cut, *dims[-inner:]), inner + 1)
        row, inner = row * dim, inner + 1
    return Space(dims, inner)


def _dims(total: int, cuts: set[int]) -> Shape:
    ordered = [1, *sorted(c for c in cuts if 1 < c < total), total]
    return tuple(outer // inner for inner, outer in pairwise(ordered))[::-1]


def _suffixes(shape: Shape) -> Shape:
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def _flat(shape: Shape, index: list[str]) -> str:
    terms = [
        i if s == 1 else f"{i} * {s}"
        for i, s in zip(index, _suffixes(shape), strict=True)
        if i != "0"
    ]
    return " + ".join(terms) or "0"


def _kept(value: Value) -> Shape:
    """The shape of a sum of columns that broadcasts to its operand."""
    shape, columns = value.inputs[0].shape, columns_of(value)
    return tuple(n if prod(shape[a:]) <= (columns or 0) else 1 for a, n in enumerate(shape))


def _packs(value: Value) -> bool:
    return isinstance(value.op, PackBits)
