"""Stores in bf16 what is kept and not computed with: frozen weights, saved activations.

    1. x @ w, w frozen                      ->  x @ w16              w16 has half the bytes
    2. y of the forward pass, which the
       backward pass reads                  ->  FromBF16(ToBF16(y))  only ToBF16(y) stays
    3. a product with such a weight, if its
       operands are to be rounded           ->  ToBF16(x) @ w16

The forward pass goes on with y itself: its results change by the weights alone. Whatever reads a
bf16 tensor computes in f32: a matrix product reads it so by itself, anything else has a FromBF16 of
its own before it, which fusion moves into its loop. What only moves data moves the bf16.

Biases, norms, statistics and other small tensors stay f32, and so do trained weights, inputs, and
what the gradient of the loss reads. Runs after autodiff and passes/masks.py, on all entry points
together, which share the weights.
"""

from collections.abc import Mapping, Set

from pockengine.ir.graph import Const, Graph, Input, Leaf, State, leaf, topological
from pockengine.ir.op import Array, Value
from pockengine.ir.rewrite import rebuild, substitute
from pockengine.ir.schedule import storage
from pockengine.ops.bits import PackBits
from pockengine.ops.conv import Conv, ConvInputGrad
from pockengine.ops.index import Gather, Take
from pockengine.ops.loss import CrossEntropyGrad
from pockengine.ops.matmul import MatMul
from pockengine.ops.precision import FromBF16, ToBF16, to_bf16
from pockengine.ops.shape import Flip, Reshape, Slice, Transpose
from pockengine.passes.fold import constant_name
from pockengine.passes.prune import prune

LEAST = 1024  # elements of a tensor that is worth it
DEPTH = 6  # elementwise operators computed again rather than saved, one behind the other
MOVES = (Reshape, Transpose, Slice, Take, Flip, Gather)  # of the first operand
WEIGHT = {MatMul: (0, 1), Conv: (1,), ConvInputGrad: (1,), Gather: (0,)}  # operands that may be one


def narrow(graphs: Mapping[str, Graph], rounded_products: bool) -> dict[str, Graph]:
    """The graphs of all entry points with frozen weights and saved activations in bf16."""
    changing = {name for graph in graphs.values() for name in graph.updates}
    names = {name for graph in graphs.values() for name in _weights(graph, changing)}
    arrays = {n: to_bf16(g.data[n]) for g in graphs.values() for n in names & set(g.data)}
    made = {n: _Narrow(g, arrays, rounded_products).run() for n, g in graphs.items()}
    data = {constant_name(array): array for array in arrays.values()}
    return {n: prune(g.with_data(**data)) for n, g in made.items()}


def _weights(graph: Graph, changing: Set[str]) -> set[str]:
    """The frozen leaves that products and embeddings read."""
    found = set()
    for value in graph.values():
        for place in WEIGHT.get(type(value.op), ()):
            owner = _origin(value.inputs[place])
            if isinstance(owner.op, Leaf) and not isinstance(owner.op, Input):
                depthwise = getattr(value.op, "groups", 1) > 1
                if owner.op.name not in changing and _is_large(owner) and not depthwise:
                    found.add(owner.op.name)
    return found


def _origin(value: Value) -> Value:
    """What the data of a value is taken from."""
    while isinstance(value.op, MOVES) and not isinstance(value.op, Gather):
        value = value.inputs[0]
    return value


def _is_large(value: Value) -> bool:
    return value.dtype == "f32" and value.type.size >= LEAST


class _Narrow:
    """One sweep over a graph. `wide` maps each value to its new self; `halves` maps those that are
    bf16 for every reader, and `rounded` some that are so for the backward pass or a product.
    """

    def __init__(self, graph: Graph, arrays: Mapping[str, Array], rounded_products: bool) -> None:
        self.graph, self.rounded_products = graph, rounded_products
        self.users = graph.users()
        bits = [v for v in self.users if isinstance(v.op, PackBits)]
        self.forward = set(topological([*graph.inputs, *graph.outputs.values(), *bits]))
        self.forward |= self.cuts()
        self.moving = _reached(graph)
        self.halves: dict[Value, Value] = {}
        for name, value in graph.leaves().items():
            if name in arrays:
                self.halves[value] = leaf(Const, constant_name(arrays[name]), arrays[name])
        self.weights = set(self.halves)
        self.wide: dict[Value, Value] = {}
        self.rounded: dict[Value, Value] = {}

    def run(self) -> Graph:
        for value in self.users:
            self.wide[value] = self.rewritten(value)
        return substitute(self.graph, self.wide)

    def rewritten(self, value: Value) -> Value:
        if isinstance(value.op, MOVES):
            first, *rest = value.inputs
            half = self.half(first, value)
            if half is not None:
                moved = value.op(half, *(self.wide[v] for v in rest), source=value.source)
                self.halves[value] = moved
        if value in self.halves:
            return FromBF16()(self.halves[value], source=value.source)
        return rebuild(value, [self.operand(x, value) for x in value.inputs])

    def operand(self, x: Value, reader: Value) -> Value:
        """What a reader of `x` reads instead."""
        half = self.half(x, reader)
        if half is not None:
            return half if _takes_bf16(reader, x) else FromBF16()(half, source=x.source)
        if reader not in self.forward and self.is_repeated(x):
            return rebuild(x, [self.operand(v, reader) for v in x.inputs])
        if self.rounded_products and isinstance(reader.op, MatMul) and self.is_weighted(reader):
            return self.half_of(x)
        return self.wide[x]

    def half(self, x: Value, reader: Value) -> Value | None:
        """The bf16 that stands for `x` before a reader; None if it reads x as it is."""
        if x in self.halves:
            return self.halves[x]
        late = reader not in self.forward and not isinstance(reader.op, CrossEntropyGrad)
        return self.half_of(x) if late and self.is_saved(storage(x)) else None

    def half_of(self, x: Value) -> Value:
        if x.op.alias:
            return x.op(self.half_of(x.inputs[0]), source=x.source)
        if x not in self.rounded:
            self.rounded[x] = ToBF16()(self.wide[x], source=x.source)
        return self.rounded[x]

    def is_weighted(self, product: Value) -> bool:
        return any(_origin(x) in self.weights for x in product.inputs)

    # ------------------------------------------------------------------ what is saved

    def is_saved(self, x: Value) -> bool:
        """Whether a value of the forward pass is large and stays for the backward pass."""
        return (
            x in self.forward
            and x in self.moving
            and _is_large(x)
            and not isinstance(_origin(x).op, Leaf)
            and bool(self.late_users(x))
            and not self.is_repeated(x)
        )

    def late_users(self, x: Value) -> list[Value]:
        """The readers of a forward value, or of a reshape of it, in the backward pass."""
        found: list[Value] = []
        for user in self.users[x]:
            if user.op.alias:
                found += self.late_users(user)
            elif user not in self.forward:
                found.append(user)
        return found

    def is_repeated(self, x: Value) -> bool:
        """Whether the backward pass computes x once more, from what is there anyway."""
        pointwise = all(u.op.elementwise for u in self.late_users(x))
        return pointwise and self.is_computable(x, DEPTH)

    def is_computable(self, x: Value, depth: int) -> bool:
        if not (x in self.forward and x.op.elementwise and _is_large(x) and depth):
            return False
        return all(self.is_there(storage(v), depth) for v in x.inputs)

    def is_there(self, x: Value, depth: int) -> bool:
        return (
            isinstance(x.op, Leaf)
            or not _is_large(x)
            or self.is_saved(x)
            or self.is_computable(x, depth - 1)
        )

    def cuts(self) -> set[Value]:
        """Slices that the backward pass takes of a forward value of which it reads nothing else.

        They are made in the forward pass, and only they stay.
        """
        found: set[Value] = set()
        for value in self.users:
            if value in self.forward or not value.inputs:
                continue
            x = value.inputs[0]
            whole = value if value.op.alias else x
            early = isinstance(value.op, (Take, Slice)) or value.op.alias
            if early and (x in self.forward or x in found) and self.only_cut(whole):
                found.add(value)
        return found

    def only_cut(self, x: Value) -> bool:
        late = (u for u in self.users[x] if u not in self.forward)
        return all(
            isinstance(u.op, (Take, Slice)) or (u.op.alias and self.only_cut(u)) for u in late
        )


def _takes_bf16(reader: Value, x: Value) -> bool:
    """Whether an operator reads the operand in bf16 by itself."""
    if isinstance(reader.op, (Conv, ConvInputGrad)):
        return reader.op.groups == 1 and x is reader.inputs[1] and x is not reader.inputs[0]
    return isinstance(reader.op, MatMul)


def _reached(graph: Graph) -> set[Value]:
    """The values that an Input or a State decides."""
    reached: set[Value] = set()
    for value in graph.values():
        if isinstance(value.op, (Input, State)) or any(v in reached for v in value.inputs):
            reached.add(value)
    return reached
