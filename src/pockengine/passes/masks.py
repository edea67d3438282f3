"""Saves truth values for the backward pass as bits, eight to a byte. Runs after autodiff.

    1. x > 0 where y = Relu(x) is kept for another reader   ->  y > 0: nothing more is saved
    2. x > 0 where neither is kept                          ->  UnpackBits(PackBits(x > 0))
    3. a truth value of the forward pass that the backward
       reads, such as a dropout mask                        ->  UnpackBits(PackBits(it))

The forward pass is what the outputs (the loss, the metrics) need; all the rest is the backward pass
and the updates. So the boundary is read off the graph, and no earlier stage has to hand it on. A
mask that depends on no input and no state, such as a causal one, is computed again instead.
"""

from math import inf

from pockengine.ir.graph import Graph, Input, Leaf, State, topological
from pockengine.ir.op import Op, Value
from pockengine.ir.rewrite import rebuild, substitute
from pockengine.ops.bits import PackBits, UnpackBits
from pockengine.ops.elementwise import Clip, Greater, GreaterEqual, Less, LessEqual, Relu
from pockengine.ops.index import Take
from pockengine.ops.shape import Slice
from pockengine.passes.simplify import uniform

COMPARISONS = (Greater, GreaterEqual, Less, LessEqual)
CLAMPS = (Relu, Clip)
LEAST = 1024  # elements under which a mask is not worth its packing


def pack_masks(graph: Graph) -> Graph:
    """The graph with truth values saved as bits wherever nothing cheaper is at hand."""
    return _Masks(graph).run()


class _Masks:
    """One sweep; `masks` are the truth values that the backward pass makes of the forward one."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.users = graph.users()
        self.forward = set(topological([*graph.inputs, *graph.outputs.values()]))
        self.masks: set[Value] = set()
        for value in self.users:
            if value not in self.forward and self.is_mask(value):
                self.masks.add(value)
        self.done: dict[Value, Value] = {}
        self.packed: dict[Value, Value] = {}

    def run(self) -> Graph:
        for value in self.users:
            self.done[value] = self.rewritten(value)
        return substitute(self.graph, self.done)

    def rewritten(self, value: Value) -> Value:
        if value in self.masks and isinstance(value.op, COMPARISONS):
            return rebuild(value, [self.done[self.cheapest(value)], self.done[value.inputs[1]]])
        if value in self.forward or value in self.masks:
            return rebuild(value, [self.done[v] for v in value.inputs])
        return rebuild(value, [self.saved(v) for v in value.inputs])

    def is_mask(self, value: Value) -> bool:
        return value.dtype == "bool" and all(
            v in self.forward or v in self.masks or uniform(v) is not None for v in value.inputs
        )

    def is_kept(self, value: Value) -> bool:
        """Whether a forward value stays anyway: the backward pass reads more than its signs.

        A backward slice of it is cut in the forward pass, and only the slice stays.
        """
        if isinstance(value.op, Leaf) or uniform(value) is not None:
            return True
        for user in self.users[value]:
            if user in self.forward:
                if user.op.alias and self.is_kept(user):
                    return True
            elif user not in self.masks and not isinstance(user.op, (Take, Slice)):
                return True
        return False

    def cheapest(self, mask: Value) -> Value:
        """What to compare: x or y = Relu(x), whichever is kept, where both give the same answer."""
        x, number = mask.inputs[0], uniform(mask.inputs[1])
        if number is None or self.is_kept(x):
            return x
        near = [u for u in self.users[x] if isinstance(u.op, CLAMPS)]
        near += x.inputs if isinstance(x.op, CLAMPS) else ()
        for other in near:
            clamp = other if x in other.inputs else x
            if other in self.forward and self.is_kept(other) and _agrees(mask.op, clamp.op, number):
                return other
        return x

    def saved(self, value: Value) -> Value:
        """What a value of the backward pass reads instead of `value`."""
        if value.dtype != "bool" or value.type.size < LEAST or not self.must_be_saved(value):
            return self.done[value]
        if value not in self.packed:
            bits = PackBits()(self.done[value], source=value.source)
            self.packed[value] = UnpackBits(value.shape)(bits, source=value.source)
        return self.packed[value]

    def must_be_saved(self, value: Value) -> bool:
        if value in self.masks:
            return any(not self.is_kept(v) for v in self.compared(value))
        if value not in self.forward or isinstance(value.op, Leaf):
            return False
        return any(isinstance(v.op, (Input, State)) for v in topological([value]))

    def compared(self, mask: Value) -> list[Value]:
        """The forward values that a mask is made of."""
        if mask not in self.masks:
            return [mask]
        if isinstance(mask.op, COMPARISONS):
            return [self.cheapest(mask), mask.inputs[1]]
        return [v for operand in mask.inputs for v in self.compared(operand)]


def _agrees(comparison: Op, clamp: Op, number: float) -> bool:
    """Whether comparing with `number` gives the same before and after the clamp."""
    low, high = 0.0, inf
    if isinstance(clamp, Clip):
        low = -inf if clamp.low is None else clamp.low
        high = inf if clamp.high is None else clamp.high
    if isinstance(comparison, (Greater, LessEqual)):
        return bool(low <= number < high)
    return bool(low < number <= high)
